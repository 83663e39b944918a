"""Kernels: bodies of ops that go in under a device's own dispatch keys when the device is first used."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling
from torch.utils._python_dispatch import _disable_current_modes

from athena_core import _host, _settings
from athena_core._errors import AthenaError
from athena_core._formula import differentiable
from athena_core._target import describe, resolve

if TYPE_CHECKING:
    from athena_core._component import Kernel
    from athena_core._host import KernelOffer

_AFTER_AUTOGRAD = torch._C._after_autograd_keyset
_any_requires_grad = torch._C._any_requires_grad
_transforms_active = torch._C._are_functorch_transforms_active
_disabled: ContextVar[bool] = ContextVar("kernels_disabled", default=False)
_lock = RLock()


@dataclass(eq=False)
class Op:
    """An op that `athena_core.op` has defined, and what is known of its kernels."""

    name: str
    schema: str
    origin: str
    library: torch.library.Library
    overload: torch._ops.OpOverload
    reference: Callable[..., Any]
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    mutated: tuple[int, ...]  # positions of the arguments that it changes in place
    is_tensor: tuple[bool, ...]
    has_lists: bool
    samples: Callable[..., Iterable[tuple[Any, ...]]] | None = None
    claims: dict[str, KernelOffer] | None = None  # by device type; None until the plugins were asked
    installed: dict[str, torch.library.Library] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


OPS: dict[str, Op] = {}


class KernelFailed(AthenaError):  # noqa: N818  # what has happened, as StopIteration
    """What a kernel raises that cannot run here, before it has changed anything: the reference runs instead.

    >>> str(KernelFailed("no compiler for this device"))
    'no compiler for this device'
    """


class KernelRow(NamedTuple):
    """What runs for an op on a device type, and why."""

    op: str
    device: str
    runs: Literal["kernel", "reference"]
    distribution: str
    why: str


class Bodies(NamedTuple):
    run: Callable[..., Any]
    supports: Callable[..., bool] | None
    formula: Any


def kernels() -> list[KernelRow]:
    """List every kernel that a plugin offers, and every op so far defined that has none.

    Kernels are imported to see whether they would run, but none is installed.

    >>> {row.runs for row in kernels()} <= {"kernel", "reference"}
    True
    """
    rows = []
    for offer in _host.default_host().kernels():
        kernel = offer.kernel
        runs, why = _foresee(OPS.get(kernel.op), offer)
        rows.append(KernelRow(kernel.op, kernel.device, runs, offer.distribution, why))
    bare = OPS.keys() - {row.op for row in rows}
    rows += [KernelRow(name, "any", "reference", "", "no plugin offers a kernel") for name in bare]
    return sorted(rows)


@contextmanager
def kernels_disabled() -> Iterator[None]:
    """Run the reference of every op, as if no plugin offered a kernel, in this thread or task.

    A kernel's forward that ran before keeps its own backward. What ``torch.compile`` traces inside
    stays without kernels.

    >>> with kernels_disabled():
    ...     pass
    """
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def device_type(args: Sequence[Any]) -> str | None:
    """Return the device type of the first tensor among the arguments; None without a tensor."""
    for value in args:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, (list, tuple)) and (found := device_type(value)):
            return found
    return None


def parameters(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    """Return a function's parameters, each with its default."""
    return tuple((one.name, one.default) for one in inspect.signature(function).parameters.values())


def claims(op: Op) -> dict[str, KernelOffer]:
    """Return the kernels that plugins offer for an op, by device type; they are asked once."""
    if op.claims is None:
        with _lock:
            offers = [offer for offer in _host.default_host().kernels() if offer.kernel.op == op.name]
            op.claims = {offer.kernel.device: offer for offer in offers}
    return op.claims


def forget(op: Op | None = None) -> None:
    """Uninstall the kernels of an op, or of all, and ask the plugins again at the next call."""
    with _lock:
        for one in OPS.values() if op is None else [op]:
            one.claims = None
            for library in one.installed.values():  # each takes its registrations with it
                library._destroy()  # which torch 2.11's finalizer leaves in torch.ops, to be called no more
            one.installed.clear()
            one.refused.clear()
            one.overload._dispatch_cache.clear()


def install(op: Op, device: str) -> bool:
    """Install the kernel that a plugin claims for this device; False if there is none to install.

    One that cannot be imported or breaks a rule leaves the reference in place, with a warning; with
    ``ATHENA_STRICT=1`` its error is raised.
    """
    with _lock:
        offer = claims(op).get(device)
        if offer is None or device in op.installed:
            return False
        try:
            # What a kernel's module makes on import must not depend on who calls first.
            with _disable_current_modes(), torch.inference_mode(False):
                op.installed[device] = _register(op, offer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if _settings.strict():
                raise
            op.refused[device] = describe(error)
            claims(op).pop(device)
            about = f"the reference of {op.name} runs on {device}: kernel of `{offer.distribution}` refused"
            warnings.warn(f"{about}: {describe(error)}", RuntimeWarning, stacklevel=3)
            return False
        op.overload._dispatch_cache.clear()  # of the tracer's own dispatcher, which misses registrations
        return True


def _foresee(op: Op | None, offer: KernelOffer) -> tuple[Literal["kernel", "reference"], str]:
    """Say what runs, or would run, and why."""
    device = offer.kernel.device
    if op is not None and device in op.installed:
        return "kernel", "installed"
    if op is not None and device in op.refused:
        return "reference", op.refused[device]
    try:
        load(op, offer.kernel)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's import: whatever it raises is the reason
        return "reference", describe(error)
    return "kernel", f"installed at the first call on {device}"


def load(op: Op | None, kernel: Kernel) -> Bodies:
    """Import a kernel's functions; raise ValueError if they break a rule of the op."""
    bodies = Bodies(
        resolve(kernel.target),
        resolve(kernel.supports) if kernel.supports else None,
        resolve(kernel.autograd) if kernel.autograd else None,
    )
    if op is None:
        return bodies
    for function in filter(None, (bodies.run, bodies.supports)):
        if parameters(function) != tuple(zip(op.names, op.defaults, strict=True)):
            raise ValueError(
                f"{function.__qualname__} must have the parameters and defaults of {op.schema!r}."
            )
    if op.mutated and bodies.formula:
        raise ValueError(
            "an op that changes its arguments takes no `autograd`: where a gradient is wanted, "
            "its reference runs."
        )
    if not op.mutated and not bodies.formula:
        raise ValueError(
            "without `autograd`, gradients would be lost in silence; name a class with a formula."
        )
    if bodies.formula and op.has_lists:
        raise ValueError("autograd does not see tensors inside lists; give the op single tensors.")
    return bodies


def _register(op: Op, offer: KernelOffer) -> torch.library.Library:
    """Put a kernel under its device's key, and the choice between it and the reference above autograd."""
    kernel = offer.kernel
    run, supports, formula = load(op, offer.kernel)
    if op.mutated:
        run = _bumping(run, op.mutated)
    device_key = torch._C._dispatch_key_for_device(kernel.device)
    autograd_key = f"Autograd{device_key}"
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, device_key))
    plain = keys.add(getattr(torch._C.DispatchKey, autograd_key)).raw_repr()

    def below(*args: Any) -> Any:
        """Run under the device's key: in inference mode, or after a tracer has seen the op."""
        if _disabled.get() or (supports is not None and not supports(*args)):
            return op.reference(*args)
        return run(*args)

    def forward(keys: Any, *args: Any) -> Any:
        if keys.raw_repr() == plain:  # nobody else, such as a tracer or conj(), has a say
            return run(*args)
        if opaque is not None and _tracing():
            return opaque(*args)
        return op.overload.redispatch(keys & _AFTER_AUTOGRAD, *args)

    # An `autograd.Function` under an Autograd key raises while a functorch transform is active, and
    # would lose tangents of forward-mode differentiation: the reference has neither fault.
    def above(keys: Any, *args: Any) -> Any:
        if (
            _disabled.get()
            or _transforms_active()
            or forward_ad._current_level >= 0
            or (not kernel.compiled and _tracing())
            or (supports is not None and not supports(*args))
        ):
            return op.reference(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args):
            if function is None:
                return op.reference(*args)
            return function(*args, *op.defaults[len(args) :], keys)  # torch drops default values
        return forward(keys, *args)

    about = f"kernel of {op.name} on {kernel.device}"
    function = None
    if formula is not None:
        function = differentiable(about, formula, lambda *args: op.reference(*args), forward, op.is_tensor)
    namespace, _, name = op.name.partition("::")
    library = torch.library.Library(namespace, "FRAGMENT")
    opaque = _define_opaque(op, library, kernel.device, device_key, below) if op.mutated else None
    library.impl(name, below, device_key)
    library.impl(name, above, autograd_key, with_keyset=True)
    return library


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
    torch.library.register_fake(f"{namespace}::{twin}", lambda *args: op.reference(*args), lib=library)
    return getattr(getattr(torch.ops, namespace), twin).default
