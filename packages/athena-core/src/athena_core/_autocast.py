"""Mixed precision switched off, on devices that have none too."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switch autocast off for a type of device; a type for which torch has none, as ``meta``, needs nothing.

    For what 16 bits would spoil: the dtype is then the caller's, whatever surrounds the call.

    >>> import torch
    >>> with torch.autocast("cpu", torch.bfloat16), without_autocast("cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
