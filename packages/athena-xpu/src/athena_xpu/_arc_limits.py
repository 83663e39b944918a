"""A device of Arc's limits, without one: what a program would put there is checked op by op."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map

from athena_core import AthenaError, DeviceCaps
from athena_xpu._caps import ARCHITECTURES
from athena_xpu._mirrors import DEVICE, Mirrors, holds_numbers

_WIDE = (torch.float64, torch.complex128)
_TORCH = str(Path(torch.__file__).parent)
_COPIES = frozenset({"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_", "aten::copy"})
_PACK = "aten::_pack_padded_sequence"  # the second of its results lies on the host
# They take host tensors beside the device's: indices, or scalars that a host tensor holds.
_MIXED = frozenset(
    {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
    | {f"aten::_foreach_{name}" for name in ("addcdiv", "addcdiv_", "addcmul", "addcmul_")}
    | {_PACK, f"{_PACK}_backward"}
)
# The size of their result, or the result itself, is in the device's memory: the host waits for it.
_WAITS = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount", "multinomial"),
        *("unique_dim", "_unique2", "unique_consecutive", "unique_dim_consecutive"),
    )
)


@final
class ArcLimits(TorchDispatchMode):
    r"""Run a program on a stand-in for an Intel GPU, and raise where the GPU itself could not follow.

    Inside, ``limits.device`` (torch's ``meta``) is the GPU: its tensors hold numbers, which lie on the host
    beside them; ``.to(limits.device)`` brings tensors there, ``.cpu()`` back, and a result lies where torch
    would put it. Whatever stays on the CPU is the host's and may be of any type and size. Refused is each
    result on the device of a dtype that the capabilities lack, each new storage over their ``max_alloc``
    (views and in-place results have none), and an op on tensors of both sides. Backward passes and
    optimizer steps are ops too.

    A meta tensor made outside holds no numbers: what is computed from it has none either, and is checked by
    its shape, so that a model larger than this machine can be. It cannot be read.

    Counted are ``syncs``, by op and line, where the host waits for the device (``.item()``, ``bool``,
    nonzero, a boolean index, a copy to the host), and ``ops`` on the device.

    Args:
        caps: of the device; Alchemist's (the A series': no float64, 4 GiB - 1 bytes at once) if None.

    Raises AthenaError for what is refused, for sparse tensors, inside another one, and on leaving if
    nothing ran on the device.

    Not seen: what a kernel does inside, the choice of an attention kernel (torch has its own for each
    device type), autocast (none for ``meta``), generators (the host's stand for the device's), and other
    threads. `torch.save` saves shapes alone: save what ``.cpu()`` returns. torch's optimizers refuse
    ``fused=True`` here, which a card takes: leave it out.

    >>> import torch
    >>> with ArcLimits() as limits:
    ...     weight = torch.ones(3).to(limits.device).requires_grad_()
    ...     (2 * weight).sum().backward()
    ...     weight.grad.tolist(), limits.syncs.total()
    ([2.0, 2.0, 2.0], 1)
    >>> try:
    ...     with ArcLimits() as limits:
    ...         torch.arange(3.0).to(limits.device).double()
    ... except Exception as error:
    ...     print(str(error).partition(" at ")[0])
    aten::_to_copy would put float64 (shape (3,), 24 B) on the device
    """

    device: ClassVar[torch.device] = DEVICE

    def __init__(self, caps: DeviceCaps | None = None) -> None:
        super().__init__()
        self.caps = ARCHITECTURES["alchemist"] if caps is None else caps
        self.syncs: Counter[str] = Counter()
        self.ops = 0
        self._builders = _Builders()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if any(isinstance(mode, ArcLimits) for mode in _get_current_dispatch_mode_stack()):
            raise AthenaError(
                "ArcLimits: another one is active here; leave it first, as one device is meant."
            )
        super().__enter__()
        self._stack.enter_context(self._builders)
        self._stack.enter_context(_modules_as_elsewhere())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._stack.close()
        super().__exit__(exc_type, exc_val, exc_tb)
        if exc_type is None and not self.ops:
            raise AthenaError(
                "ArcLimits: nothing ran on the device, so nothing was checked;"
                " bring model and data to `limits.device` inside."
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = [tensor for tensor in tensors if tensor.device == DEVICE]
        target = kwargs.get("device")
        if not inputs and target != DEVICE:
            return func(*args, **kwargs)
        self.ops += 1
        name = func._schema.name
        to_host = target is not None and target != DEVICE
        self._count(name, tensors, to_host)
        _refuse_mixture(name, func, tensors, args, kwargs)
        before = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in inputs}
        shapes_alone = not all(map(holds_numbers, inputs))
        if shapes_alone or not (to_host or _writes_to_host(func, args, kwargs)):
            planned = _planned(func, args, kwargs, must=shapes_alone)
            self._check(name, planned, before)
            if shapes_alone:
                return planned
        if target == DEVICE:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        mirrors = Mirrors()
        result = func(*tree_map(mirrors.of, args), **tree_map(mirrors.of, kwargs))
        if to_host:
            return result
        made = (mirrors.back(result[0]), result[1]) if name == _PACK else tree_map(mirrors.back, result)
        self._check(name, made, before)
        return made

    def _check(self, name: str, results: Any, before: dict[int, int]) -> None:
        """Raise for results that the device could not hold; ``before``: sizes of the storages it held."""
        lacking = () if self.caps.fp64 else _WIDE
        if not getattr(self.caps, "fp16", True):
            lacking = (*lacking, torch.float16)
        for tensor in tree_leaves(results):
            if not isinstance(tensor, Tensor) or tensor.device != DEVICE:
                continue
            if tensor.layout is not torch.strided:
                raise AthenaError(
                    f"{name} makes a tensor of {tensor.layout} on the device at {_caller()}; ArcLimits"
                    " follows strided ones alone: leave out `sparse=True`, or keep it on the host."
                )
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            if tensor.dtype in lacking:
                remedy = "cast on the host in the transfer, `.to(device, torch.float32)`, or compute it there"
                raise _refusal(name, tensor, size, f"which has no {_short(tensor.dtype)}; {remedy}")
            limit = self.caps.max_alloc
            if limit is not None and size > max(limit, before.get(storage._cdata, 0)):
                remedy = "split it, or make the batch smaller; `athena.place` splits what a model holds"
                raise _refusal(name, tensor, size, f"which allocates {limit:,} B at most; {remedy}")

    def _count(self, name: str, tensors: list[Tensor], to_host: bool) -> None:
        masks = name in _MIXED and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
        copied = name in _COPIES and (to_host or (tensors[0].device != DEVICE))
        back = copied and any(tensor.device == DEVICE for tensor in tensors)
        if name in _WAITS or masks or back:
            self.syncs[f"{name} at {_caller()}"] += 1


@contextmanager
def _modules_as_elsewhere() -> Iterator[None]:
    """Modules keep what is tied when they are moved, and load states, as on other devices than ``meta``."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class _Builders(TorchFunctionMode):
    """Numbers given as Python's or NumPy's: torch makes no more than a shape of them for ``meta``."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.is_meta.__get__ and args[0].device == DEVICE:  # pyright: ignore[reportAttributeAccessIssue]
            return not holds_numbers(args[0])  # torch.nn.init leaves meta tensors as they are
        device = kwargs.get("device")
        if func is Tensor.new_tensor and args[0].device == DEVICE and device is None:
            func, device = torch.tensor, DEVICE
            kwargs = {"dtype": args[0].dtype, **kwargs}
            args = args[1:]
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_device(device):
            grad = kwargs.pop("requires_grad", False)
            data = args[0] if args else kwargs.pop("data")
            if isinstance(data, Tensor):  # moved as it is, not copied by way of the host
                return func(data, *args[1:], **kwargs)
            return func(data, *args[1:], **{**kwargs, "device": "cpu"}).to(DEVICE).requires_grad_(grad)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            args = (args[0], _index(args[1]), *args[2:])
        return func(*args, **kwargs)


def _index(key: Any) -> Any:
    """An index whose lists and arrays are tensors of the host."""
    if isinstance(key, tuple):
        return tuple(map(_index, key))
    return torch.as_tensor(key) if isinstance(key, list | np.ndarray) else key


def _planned(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], must: bool) -> Any:
    """What the op makes, by shape alone, before memory is taken for it; None where torch cannot tell."""
    try:
        return func(*args, **kwargs)
    except Exception:
        if must:
            raise
        return None


def _refuse_mixture(
    name: str, func: Any, tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse what torch refuses: tensors of both sides, the host's having dimensions or being changed."""
    if name in _COPIES or name in _MIXED or all(tensor.device == DEVICE for tensor in tensors):
        return
    if not any(tensor.device == DEVICE for tensor in tensors):
        return
    strange = next((t for t in tensors if t.device != DEVICE and t.dim()), None)
    if strange is not None or _writes_to_host(func, args, kwargs):
        shape = () if strange is None else tuple(strange.shape)
        raise AthenaError(
            f"{name} mixes tensors of the device with one of the host (shape {shape}) at {_caller()};"
            " make it with `device=`, or bring it there first."
        )


def _writes_to_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    written = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return any(isinstance(t, Tensor) and t.device != DEVICE for t in tree_leaves(written))


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device) == DEVICE


def _refusal(name: str, tensor: Tensor, size: int, rest: str) -> AthenaError:
    what = f"{_short(tensor.dtype)} (shape {tuple(tensor.shape)}, {size:,} B)"
    return AthenaError(f"{name} would put {what} on the device at {_caller()}, {rest}.")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _caller() -> str:
    """File and line of the nearest frame outside torch and this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH):
            break
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
