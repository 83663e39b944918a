"""The state of the random generators, kept and repeated, so that what is done again draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """The states of the CPU's generator and of the device's."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device)


@contextmanager
def repeated(state: tuple[Tensor, ...], device: torch.device) -> Iterator[None]:
    """Within it the generators go on from a state; afterwards from where they were."""
    now = random_state(device)
    _set(state, device)
    try:
        yield
    finally:
        _set(now, device)


def _set(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for own in state[1:]:
        torch.get_device_module(device).set_rng_state(own, device)
