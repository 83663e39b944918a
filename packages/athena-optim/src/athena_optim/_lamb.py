"""LAMB: Adam's step, each parameter's scaled to its own norm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from athena_optim._base import Base, count, new_step, scalar
from athena_optim._checks import NonFinite
from athena_optim._clip import check_clipping, prepare, total_norm
from athena_optim._lamb_math import Options, lamb_lists, lamb_loop
from athena_optim._lamb_op import lamb_


class Lamb(Base):
    r"""LAMB: Adam's direction with decay, scaled layer by layer to the norm of the weights.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        u_t &= \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + \lambda\theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \eta\,\phi\,u_t, \qquad
        \phi = \min\!\Big(\max\!\Big(\frac{\lVert\theta_{t-1}\rVert}{\lVert u_t\rVert}, a\Big), b\Big)

    where :math:`\phi = 1` if either norm is 0. A parameter tensor is a layer. Norms of sharded
    parameters (DTensor) are those of the whole tensors.

    Args:
        params: parameters, or groups such as `athena_optim.param_groups` makes.
        lr: learning rate :math:`\eta`.
        betas: :math:`(\beta_1, \beta_2)`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`, inside the update whose norm is taken.
        bias_correction: divide the moments by :math:`1-\beta^t`; without it the first steps are of
            another size.
        adapt_no_decay: scale groups without decay too; False leaves their ratio at 1.
        min_ratio: least ratio :math:`a`.
        max_ratio: largest ratio :math:`b`; 10 in the paper's first version.
        normalize_gradients: divide all gradients by their norm together, before anything else. The fused
            step takes a second piece of scratch memory for it.
        max_norm: clip all groups' gradients together to this norm before each step, in place.
        maximize: climb instead of descending.
        foreach: list ops on all tensors.
        capturable: allow capture in a CUDA graph.
        differentiable: let autograd run through the step.
        fused: the op ``athena_optim::lamb_``, which builds on torch's fused Adam and which a device
            plugin can replace; None chooses it wherever every parameter supports it.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"``, ``"zero"``; None does
            not look, except that clipping raises.

    Raises ValueError for options outside their ranges, RuntimeError for sparse or complex gradients and
    for implementations that exclude each other.
    Source: You et al. 2020, arXiv:1904.00962, algorithm 2. Departs from it: the bounds are on the ratio,
    as in its first version, and not on the norm of the weights; the ratio of a zero norm is 1.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Lamb([weight], lr=0.1, weight_decay=0.0)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.data  # one tenth of its norm 5, along (1, 1)
    tensor([2.6464, 3.6464])
    """

    state_names = frozenset({"step", "exp_avg", "exp_avg_sq"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        bias_correction: bool = True,
        adapt_no_decay: bool = True,
        min_ratio: float = 0.0,
        max_ratio: float = inf,
        normalize_gradients: bool = False,
        max_norm: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        nonfinite: NonFinite | None = None,
    ) -> None:
        check_clipping({"max_norm": max_norm})
        if max_norm is not None and normalize_gradients:
            raise ValueError(
                "`max_norm` has no effect with `normalize_gradients`, which makes the norm 1; drop one."
            )
        if differentiable and (max_norm is not None or normalize_gradients):
            name = "normalize_gradients" if normalize_gradients else "max_norm"
            raise RuntimeError(f"`{name}` does not support `differentiable`: it is outside autograd.")
        if fused and capturable:
            raise RuntimeError("`fused` does not support `capturable`; leave it at None.")
        self.max_norm = max_norm
        self.normalize_gradients = normalize_gradients
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "adapt_no_decay": adapt_no_decay,
            "min_ratio": min_ratio,
            "max_ratio": max_ratio,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, options, nonfinite=nonfinite)
        self._scratch: dict[torch.dtype, Tensor] = {}

    def check(self, options: Mapping[str, Any]) -> None:
        """Check the bounds of the ratio too."""
        super().check(options)
        low, high = options["min_ratio"], options["max_ratio"]
        if not 0 <= low <= high or isnan(high) or low == inf:
            raise ValueError(
                f"`min_ratio` and `max_ratio` must satisfy 0 <= min_ratio <= max_ratio, min_ratio < inf; "
                f"got {low} and {high}. Leave them out for no bounds."
            )

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """The number of steps, and both moments."""
        return {
            "step": new_step(param, {**group, "fused": _fuses(group, [param])}),
            "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format),
        }

    def prepare(self, params: list[Tensor]) -> bool:
        """Clip, and measure the norm that gradients are divided by."""
        if not prepare(
            params, max_norm=self.max_norm, max_value=None, adaptive_clip=None, nonfinite=self.nonfinite
        ):
            return False
        if self.normalize_gradients:
            norm = total_norm(params)
            self._notes.norm = torch.where(norm > 0, norm, 1.0)
        return True

    def update(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """One step of a group, in the way that was asked for, or the fastest that its tensors allow."""
        exp_avgs, exp_avg_sqs, steps = ([s[n] for s in states] for n in ("exp_avg", "exp_avg_sq", "step"))
        options = Options(
            lr=scalar(group["lr"], group),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            bias_correction=group["bias_correction"],
            adapt=group["weight_decay"] != 0 or group["adapt_no_decay"],
            min_ratio=group["min_ratio"],
            max_ratio=group["max_ratio"],
            maximize=group["maximize"],
        )
        count(steps)
        lists = (params, grads, exp_avgs, exp_avg_sqs, steps)
        in_graph = group["capturable"] or is_compiling()
        if group["differentiable"] or (group["foreach"] is False and not group["fused"]):
            as_tensors = in_graph or group["differentiable"]
            for tensors in zip(*lists, strict=True):
                lamb_loop(*tensors, self._notes.norm, options, capturable=as_tensors)
        elif in_graph or not _fuses(group, params):
            lamb_lists(*lists, self._notes.norm, options, capturable=in_graph)
        else:
            rate = float(options.lr)  # a tensor only where the step is in a graph
            lamb_(*lists, self._notes.norm, self._memory(params), rate, *options[1:])

    def _memory(self, params: list[Tensor]) -> Tensor | None:
        """Scratch memory on the CPU, of the largest parameter's size, kept from step to step."""
        largest = max(params, key=torch.numel)
        if largest.device.type != "cpu":
            return None
        held = self._scratch.get(largest.dtype)
        if held is None or held.numel() < largest.numel():
            held = self._scratch[largest.dtype] = largest.new_zeros(largest.numel())
        return held

    def __getstate__(self) -> dict[str, Any]:
        own = {"max_norm": self.max_norm, "normalize_gradients": self.normalize_gradients}
        return super().__getstate__() | own | {"_scratch": {}}


def _fuses(group: Mapping[str, Any], params: Iterable[Tensor]) -> bool:
    """Whether the op takes these parameters, unless their step is in a graph."""
    if group["foreach"] or group["fused"] is False:
        return False
    return all(type(p) in (Tensor, torch.nn.Parameter) and p.is_floating_point() for p in params)
