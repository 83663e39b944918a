"""Kernels: bodies of ops that go in under a device's own dispatch keys when the device is first used."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from athena_core import _host, _settings
from athena_core._installed import Bodies, InstalledKernel, disabled
from athena_core._target import describe, resolve

if TYPE_CHECKING:
    from athena_core._component import Kernel
    from athena_core._host import KernelOffer

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
    differentiable: bool = True
    samples: Callable[..., Iterable[tuple[Any, ...]]] | None = None
    claims: dict[str, KernelOffer] | None = None  # by device type; None until the plugins were asked
    installed: dict[str, InstalledKernel] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # why, by device type


OPS: dict[str, Op] = {}


class KernelRow(NamedTuple):
    """What runs for an op on a device type, and why."""

    op: str
    device: str
    runs: Literal["kernel", "reference"]
    distribution: str
    why: str


def kernels() -> list[KernelRow]:
    """List every kernel that a plugin offers, and every op so far defined that has none.

    Kernels are imported to see whether they would run, but none is installed. Whether one compiles for
    its device shows when it runs: ``athena kernels --run`` does so.

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
    token = disabled.set(True)
    try:
        yield
    finally:
        disabled.reset(token)


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
            for kernel in one.installed.values():
                kernel.uninstall()
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
                bodies = load(op, offer.kernel)
                op.installed[device] = InstalledKernel(op, offer.kernel, bodies, partial(_refuse, op, offer))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the reason
            _refuse(op, offer, error)
            return False
        op.overload._dispatch_cache.clear()  # of the tracer's own dispatcher, which misses registrations
        return True


def _refuse(op: Op, offer: KernelOffer, error: BaseException) -> None:
    """Leave an op to its reference on a device, and warn of it once; with ``ATHENA_STRICT=1``, raise.

    A kernel that is installed stays so: it may be running, in this thread or another.
    """
    if _settings.strict():
        raise error
    device = offer.kernel.device
    with _lock:
        if device in op.refused:
            return
        op.refused[device] = describe(error)
        claims(op).pop(device, None)
    about = f"the reference of {op.name} runs on {device}: kernel of `{offer.distribution}` refused"
    warnings.warn(f"{about}: {describe(error)}", RuntimeWarning, stacklevel=4)


def _foresee(op: Op | None, offer: KernelOffer) -> tuple[Literal["kernel", "reference"], str]:
    """Say what runs, or would run, and why."""
    device = offer.kernel.device
    if op is not None and device in op.refused:
        return "reference", op.refused[device]
    if op is not None and device in op.installed:
        return "kernel", "installed"
    try:
        load(op, offer.kernel)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's import: whatever it raises is the reason
        return "reference", describe(error)
    return "kernel", f"installed at the first call on {device}"


def load(op: Op | None, kernel: Kernel) -> Bodies:
    """Import a kernel's functions; raise ValueError if they break a rule of the op."""
    try:
        torch.device(kernel.device)
    except RuntimeError as error:
        raise ValueError(f"this torch knows no device type {kernel.device!r}.") from error
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
    if not op.differentiable and bodies.formula:
        raise ValueError("an op that has no gradient, `differentiable=False`, takes no `autograd`.")
    if op.differentiable and not op.mutated and not bodies.formula:
        raise ValueError(
            "without `autograd`, gradients would be lost in silence; name a class with a formula."
        )
    if bodies.formula and op.has_lists:
        raise ValueError("autograd does not see tensors inside lists; give the op single tensors.")
    return bodies
