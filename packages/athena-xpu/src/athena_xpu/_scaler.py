"""A gradient scaler for devices without float64."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.grad_scaler import OptState


class GradScaler(torch.amp.GradScaler):
    r"""`torch.amp.GradScaler` that needs no float64: gradients are divided by way of a float32 reciprocal.

    .. math:: g \leftarrow g \cdot \mathrm{fl}_{32}(1 / s)

    Torch works the reciprocal of the scale :math:`s` out in float64, which raises on Alchemist
    (torch-xpu-ops#1742). In float32 it is exact for every power of two within float32's range, so
    for the defaults, and otherwise within half a unit in the last place. State dicts are torch's own.

    Args:
        device: type of the device, ``"xpu"`` by default.
        kwargs: those of `torch.amp.GradScaler`.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2 (loss scaling).
    Departs from it: no; from torch's in the reciprocal alone.

    >>> import torch
    >>> from athena_xpu import GradScaler
    >>> weight = torch.ones(3, requires_grad=True)
    >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.5), GradScaler("cpu")
    >>> scaler.scale(weight.sum()).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> weight.tolist(), scaler.get_scale()
    ([0.5, 0.5, 0.5], 65536.0)
    """

    def __init__(self, device: str = "xpu", **kwargs: Any) -> None:
        super().__init__(device, **kwargs)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of ``optimizer`` by the scale, and note those that are not finite.

        Raises RuntimeError where it was called since the last `update`, AssertionError before `scale`.
        """
        if not self._enabled:
            return
        scale, _ = self._check_scale_growth_tracker("unscale_")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is not OptState.READY:
            done = "unscaled" if state["stage"] is OptState.UNSCALED else "stepped"
            raise RuntimeError(
                f"`unscale_`: the optimizer was already {done} since `update()`; call it once a step."
            )
        found = torch.zeros((), dtype=torch.float32, device=scale.device)
        state["found_inf_per_device"] = self._unscale_grads_(optimizer, scale.reciprocal(), found, False)
        state["stage"] = OptState.UNSCALED
