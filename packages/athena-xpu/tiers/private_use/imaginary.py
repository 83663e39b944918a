"""A made-up device: host memory behind torch's PrivateUse1 keys, through which kernels are really dispatched.

Its tensors are plain ones. What only changes sizes and strides runs as on the CPU; all else falls back to
the CPU's ops, on the same memory. Torch's autograd, autocast and dispatcher do what they do on any device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from athena_core import Component, DeviceBackend, DeviceCaps, hookimpl

NAME = "imaginary"
FELL_BACK: list[str] = []  # the ops that ran on the CPU since it was cleared last
_DEVICE_OF_EXTENSION = 12  # kDLExtDev, which torch takes for PrivateUse1
_METADATA_ONLY = (
    "as_strided",
    "view",
    "_reshape_alias",
    "set_.source_Storage",
    "set_.source_Storage_storage_offset",
)
_IN_LOW_PRECISION = ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention")
_IN_FLOAT32 = ("layer_norm", "softmax.int", "log_softmax.int", "nll_loss", "cross_entropy_loss", "mse_loss")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Module:
    """``torch.imaginary``: what torch asks of a device, autocast among them."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: Any = None) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Its random numbers are the host's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def on_device(host: Tensor) -> Tensor:
    """The same memory as a tensor of the device."""
    capsule = torch._C._to_dlpack(host.detach())
    pointer = _get_pointer(capsule, b"dltensor")
    assert pointer is not None
    # `DLManagedTensor` begins with a pointer to the data, then the device's type and index.
    ctypes.c_int32.from_address(pointer + ctypes.sizeof(ctypes.c_void_p)).value = _DEVICE_OF_EXTENSION
    return torch._C._from_dlpack(capsule)


def on_host(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the CPU, for as long as ``tensor`` lives."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)  # an `out=` may grow
    memory = torch._C._construct_storage_from_data_pointer(
        storage.data_ptr(), torch.device("cpu"), storage.nbytes()
    )
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride())


def _is_ours(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _fall_back(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an op on the CPU, on the same memory."""
    FELL_BACK.append(op.name())
    leaves, tree = tree_flatten((args, kwargs))
    hosts = [on_host(one) if _is_ours(one) else _host_device(one) for one in leaves]
    host_args, host_kwargs = tree_unflatten(hosts, tree)
    result = op(*host_args, **host_kwargs)
    pairs = [(ours, host) for ours, host in zip(leaves, hosts, strict=True) if _is_ours(ours)]
    for ours, host in pairs:
        if (host.data_ptr(), host.size(), host.stride()) != (ours.data_ptr(), ours.size(), ours.stride()):
            grown = on_device(host)  # an `out=`
            ours.set_(grown.untyped_storage(), 0, grown.size(), grown.stride())
    return tree_map(lambda one: _returned(one, pairs) if isinstance(one, Tensor) else one, result)


def _host_device(value: Any) -> Any:
    ours = isinstance(value, torch.device) and value.type == NAME
    return torch.device("cpu") if ours else value


def _returned(result: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    for ours, host in pairs:
        if result is host:  # changed in place
            return ours
    for ours, host in pairs:
        if host.numel() and result.untyped_storage().data_ptr() == host.untyped_storage().data_ptr():
            view = torch.empty(0, dtype=result.dtype, device=NAME)
            return view.set_(ours.untyped_storage(), result.storage_offset(), result.size(), result.stride())
    return on_device(result)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return on_device(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return on_device(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    with torch.no_grad():
        hosts = [on_host(one) if _is_ours(one) else one for one in (source, target)]
        hosts[1].copy_(hosts[0])
    return target


def _cast(overload: Any, dtype: torch.dtype | None) -> Any:
    """An op under autocast: floating arguments of the device go in as ``dtype``; None: as autocast says."""

    def under_autocast(*args: Any, **kwargs: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype(NAME)

        def cast(one: Any) -> Any:
            return one.to(wanted) if _is_ours(one) and one.is_floating_point() else one

        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return overload(*tree_map(cast, args), **tree_map(cast, kwargs))

    return under_autocast


def _of_the_cpu(overload: Any) -> Any:
    return lambda *args, **kwargs: overload.redispatch(_CPU, *args, **kwargs)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _pin(host: Tensor, device: Any = None) -> Tensor:
    return host


def _install() -> list[torch.library.Library]:
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    torch.Tensor.pin_memory = _pin  # torch asks C++ for the allocator; the device's memory is the host's
    aten = torch.library.Library("aten", "IMPL", "PrivateUse1")
    aten.impl("empty.memory_format", _empty)
    aten.impl("empty_strided", _empty_strided)
    aten.impl("_copy_from", _copy_from)
    for name in _METADATA_ONLY:
        aten.impl(name, _of_the_cpu(_overload(name)))
    casts = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, dtype in ((_IN_LOW_PRECISION, None), (_IN_FLOAT32, torch.float32)):
        for name in names:
            casts.impl(name, _cast(_overload(name), dtype))
    rest = torch.library.Library("_", "IMPL", "PrivateUse1")
    rest.fallback(_fall_back)
    autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel)  # which torch itself registers for its own devices
    return [aten, casts, rest, autocast]


LIBRARIES = _install()


@contextmanager
def falling_back() -> Iterator[list[str]]:
    """Collect the names of the ops that fall back to the CPU."""
    FELL_BACK.clear()
    yield FELL_BACK


class Backend(DeviceBackend):
    """The device as Athena places models on it; ``free`` is what it has room for."""

    type = NAME
    free: ClassVar[int] = 0

    def caps(self, index: int = 0) -> DeviceCaps:
        return DeviceCaps()

    def count(self) -> int:
        return 1

    def device(self, index: int | None = None) -> torch.device:
        return torch.device(NAME, 0)

    def memory(self, index: int = 0) -> tuple[int, int]:
        return self.free, 2**30


class Offer:
    """A plugin that offers it."""

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [Component("device", NAME, "imaginary:Backend", "host memory behind PrivateUse1")]
