"""An installed kernel: under its device's dispatch keys, the choice between it and the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from athena_core._errors import KernelFailed
from athena_core._formula import differentiable

if TYPE_CHECKING:
    from athena_core._component import Kernel
    from athena_core._kernels import Op

_AFTER_AUTOGRAD = torch._C._after_autograd_keyset
_is_grad_enabled = torch.is_grad_enabled
_any_requires_grad = torch._C._any_requires_grad
_transforms_active = torch._C._are_functorch_transforms_active
_keys: ContextVar[Any] = ContextVar("keys")  # the dispatcher's, where autograd's step hands a call on
disabled: ContextVar[bool] = ContextVar("kernels_disabled", default=False)


class Bodies(NamedTuple):
    """A kernel's functions: ``supports`` says for which arguments it runs, ``formula`` has its gradient."""

    run: Callable[..., Any]
    supports: Callable[..., bool] | None
    formula: Any


class InstalledKernel:
    """A kernel in PyTorch's dispatcher, until `uninstall`.

    `above` stands at its device's autograd key and chooses between kernel and reference; `below` stands
    at the device's own key, which is reached without `above` in inference mode, and after a tracer.

    Args:
        op: that it is for.
        kernel: as offered.
        bodies: its functions.
        failed: told of a KernelFailed. Returns if the reference is to run, or raises.
    """

    def __init__(self, op: Op, kernel: Kernel, bodies: Bodies, failed: Callable[[KernelFailed], None]):
        self.op, self.compiled, self.failed = op, kernel.compiled, failed
        self.run = _bumping(bodies.run, op.mutated) if op.mutated else bodies.run
        self.supports = bodies.supports
        device_key = torch._C._dispatch_key_for_device(kernel.device)
        autograd_key = f"Autograd{device_key}"
        keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, device_key))
        self.plain = keys.add(getattr(torch._C.DispatchKey, autograd_key)).raw_repr()
        self.function = self.redispatching = None
        if bodies.formula is not None:
            self.function, self.redispatching = (
                differentiable(
                    f"kernel of {op.name} on {kernel.device}",
                    bodies.formula,
                    lambda *args: op.reference(*args),
                    forward,
                    op.is_tensor,
                    self.refuse,
                )
                for forward in (self.run, self._redispatch)
            )
        namespace, _, name = op.name.partition("::")
        self.library = torch.library.Library(namespace, "FRAGMENT")
        self.opaque = None
        if op.mutated:
            self.opaque = _define_opaque(op, self.library, kernel.device, device_key, self.below)
        self.library.impl(name, self.below, device_key)
        self.library.impl(name, self.above, autograd_key, with_keyset=True)

    def uninstall(self) -> None:
        # Each library takes its registrations with it, which torch 2.11's finalizer leaves in torch.ops.
        self.library._destroy()

    def refuse(self, error: KernelFailed) -> None:
        """Run the reference from now on. Graphs that were compiled, and other threads, still call here."""
        self.failed(error)
        self.supports = _supports_nothing

    def below(self, *args: Any) -> Any:
        supports = self.supports
        if disabled.get() or (supports is not None and not supports(*args)):
            return self.op.reference(*args)
        try:
            return self.run(*args)
        except KernelFailed as error:
            self.refuse(error)
            return self.op.reference(*args)

    # An `autograd.Function` under an Autograd key raises while a functorch transform is active, and
    # would lose tangents of forward-mode differentiation: the reference has neither fault.
    def above(self, keys: Any, *args: Any) -> Any:
        op, supports = self.op, self.supports
        if (
            disabled.get()
            or _transforms_active()
            or forward_ad._current_level >= 0
            or (not self.compiled and _tracing())
            or (supports is not None and not supports(*args))
        ):
            return op.reference(*args)
        alone = keys.raw_repr() == self.plain  # nobody else, such as a tracer or conj(), has a say
        try:
            if not (_is_grad_enabled() and _any_requires_grad(*args)):
                return self.run(*args) if alone else self._hand_on(keys, *args)
            if not op.differentiable:
                with torch.no_grad():
                    return self.run(*args) if alone else self._hand_on(keys, *args)
            if self.function is not None and self.redispatching is not None:
                args = (*args, *op.defaults[len(args) :])  # torch drops default values
                if alone:
                    return self.function(*args)
                with _set(_keys, keys):
                    return self.redispatching(*args)
        except KernelFailed as error:
            self.refuse(error)
        return op.reference(*args)

    def _hand_on(self, keys: Any, *args: Any) -> Any:
        if self.opaque is not None and _tracing():
            return self.opaque(*args)
        return self.op.overload.redispatch(keys & _AFTER_AUTOGRAD, *args)

    def _redispatch(self, *args: Any) -> Any:
        """Within autograd's step, let the others that have a say have it."""
        result = self.op.overload.redispatch(_keys.get() & _AFTER_AUTOGRAD, *args)
        if self.supports is _supports_nothing:  # `below` ran the reference, of which `above` needs the graph
            raise KernelFailed("the kernel was refused below autograd")
        return result


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _supports_nothing(*args: Any) -> bool:  # noqa: ARG001
    return False


def _returns_nothing(*args: Any) -> None:  # noqa: ARG001
    return None


def _tracing() -> bool:
    """Whether a compiler is at work; torch 2.11's `is_compiling` says so to what Dynamo traces alone."""
    return is_compiling() or TracingContext.try_get() is not None


def _bumping(run: Callable[..., Any], mutated: tuple[int, ...]) -> Callable[..., Any]:
    """Count each change in the tensor's version, without which autograd misses it and errs in silence."""

    def run_and_bump(*args: Any) -> Any:
        result = run(*args)
        tensors: list[Tensor] = []
        for index in mutated:
            changed = args[index] if index < len(args) else None
            tensors += [changed] if isinstance(changed, Tensor) else changed or ()
        if torch.is_inference_mode_enabled():
            tensors = [one for one in tensors if not one.is_inference()]  # they have no version
        increment_version(tensors)
        return result

    return run_and_bump


def _define_opaque(
    op: Op, library: torch.library.Library, device: str, device_key: str, body: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Define the op once more, for graphs: a tracer decomposes any composite op that changes arguments."""
    namespace, _, rest = op.schema.partition("::")
    name, _, signature = rest.partition("(")
    twin = f"{name}_kernel_{device}"
    library.define(f"{twin}({signature}")
    library.impl(twin, body, device_key)
    opaque = getattr(getattr(torch.ops, namespace), twin).default
    # Where nothing is returned, a tracer has nothing to learn, and a reference that reads values would fail.
    fake = op.reference if opaque._schema.returns else _returns_nothing
    torch.library.register_fake(f"{namespace}::{twin}", lambda *args: fake(*args), lib=library)
    return opaque
