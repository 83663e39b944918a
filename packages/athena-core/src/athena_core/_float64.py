"""Double precision, on devices that have none too."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from athena_core._device import DeviceCaps, backend
from athena_core._errors import AthenaError
from athena_core._placement import storable


def has_float64(device: torch.device) -> bool:
    """Whether tensors of a device may be float64; no for a type that no installed package has a backend for.

    >>> import torch
    >>> has_float64(torch.device("cpu"))
    True
    """
    return device.type in ("cpu", "cuda") or _asked(device)


def as_float64(tensor: Tensor) -> Tensor:
    """``tensor`` in float64: where it lies if that device has the type, else on the host.

    For sums and searches that float32 would spoil. Bring what is made of it back by ``.to(device)``.

    >>> import torch
    >>> as_float64(torch.ones(2))
    tensor([1., 1.], dtype=torch.float64)
    """
    if has_float64(tensor.device):
        return tensor.double()
    return tensor.cpu().double()


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` there; float64 becomes float32 on the way to a device that has none.

    `athena.place` does so for all of a model's tensors at once; this is for data, one batch after another.

    >>> import torch
    >>> to_device(torch.ones(2, dtype=torch.float64), "cpu").dtype
    torch.float64
    """
    device = torch.device(device)
    if not has_float64(device):
        tensor = tensor.to(storable(tensor.dtype, DeviceCaps(fp64=False)))  # here, where it can be cast
    return tensor.to(device)


@cache
def _asked(device: torch.device) -> bool:
    try:
        return backend(device).caps(device.index or 0).fp64
    except AthenaError:
        return False
