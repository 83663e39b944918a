"""AdamW: Adam with decoupled weight decay, torch's fused step, and clipping built in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from athena_optim._checks import check_group
from athena_optim._clip import NonFinite, check_clipping, clip_gradients

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def _tensors(groups: Iterable[Any]) -> Iterable[Tensor]:
    """All tensors of what an optimizer takes: tensors, (name, tensor) pairs, or groups of either."""
    for item in groups:
        if isinstance(item, dict):
            params = item["params"]
            yield from _tensors([params] if isinstance(params, Tensor) else params)
        else:
            yield item[1] if isinstance(item, tuple) else item


def _materialised(params: Iterable[Any]) -> list[Any]:
    """The same parameters, every generator in them turned into a list so that it can be read twice."""
    if isinstance(params, Tensor):
        raise TypeError("`params` must be an iterable of tensors or groups; got one tensor. Pass [tensor].")
    items = list(params)
    return [
        {**item, "params": list(item["params"])}
        if isinstance(item, dict) and not isinstance(item["params"], Tensor)
        else item
        for item in items
    ]


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """``step`` without torch's step hooks: they already run around the subclass's own ``step``.

    torch patches its hooks into the step of every class that was ever instantiated, so a subclass
    that simply called it would run each hook twice, or once, depending on what else was made before.
    """
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]


class AdamW(torch.optim.AdamW):
    r"""Adam with decoupled weight decay.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    It is `torch.optim.AdamW`, with its options, state and state dict, and differs in three points:
    the fused step is chosen wherever every parameter supports it (torch chooses it nowhere by
    itself); groups' own options are checked; and ``max_norm`` clips. A state dict goes from one to
    the other in both directions: ``max_norm`` and ``nonfinite`` are configuration, not state.

    Args:
        params: parameters, or groups such as `athena_optim.param_groups` makes.
        lr: learning rate :math:`\eta`.
        betas: :math:`(\beta_1, \beta_2)`.
        eps: :math:`\epsilon`.
        weight_decay: decoupled decay :math:`\lambda`.
        amsgrad: divide by the largest :math:`v` so far.
        maximize: climb instead of descending.
        foreach: torch's multi-tensor step instead of the fused one.
        capturable: allow capture in a CUDA graph.
        differentiable: let autograd run through the step.
        fused: None chooses it where it is supported, and neither of the other steps was asked for.
        max_norm: clip all groups' gradients together to this norm before each step, in place.
        nonfinite: what a NaN or infinite gradient norm does when clipping, as in `clip_gradients`.

    With a GradScaler and ``max_norm``, gradients are unscaled first, so the bound is in true units,
    and a step with infinite gradients is skipped by the scaler. A closure runs once, before clipping.

    Raises ValueError for options outside their ranges, RuntimeError for sparse gradients and for
    ``fused`` together with ``foreach`` or ``differentiable``, as torch does, and for ``max_norm``
    together with ``differentiable``.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. Departs from it: the decay is
    multiplied by the learning rate, as in torch.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = AdamW([weight], lr=0.1, weight_decay=0.0, max_norm=1.0)
    >>> (weight**2).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([ 0.9000, -1.9000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_norm: float | None = None,
        nonfinite: NonFinite = "raise",
    ) -> None:
        check_group({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        if max_norm is not None:
            check_clipping(max_norm, nonfinite)
            if differentiable:
                raise RuntimeError(
                    "`max_norm` does not support `differentiable`: clipping is outside autograd."
                )
        params = _materialised(params)
        if fused is None and not foreach and not differentiable:
            fused = (
                all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in _tensors(params))
                or None
            )
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
        self.max_norm = max_norm
        self.nonfinite: NonFinite = nonfinite
        if max_norm is not None:
            # The scaler would leave unscaling to the fused kernel, after clipping; so it must not.
            self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its own options checked first."""
        check_group(param_group)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"max_norm": self.max_norm, "nonfinite": self.nonfinite}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient; returns what ``closure`` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.max_norm is not None:
            parameters = (p for group in self.param_groups for p in group["params"])
            clip_gradients(parameters, self.max_norm, nonfinite=self.nonfinite)
        _unhooked(torch.optim.AdamW.step)(self)
        return loss
