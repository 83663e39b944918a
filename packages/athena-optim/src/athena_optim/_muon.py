"""Muon: orthogonalised momentum for matrices, AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite, sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.optim.adamw import adamw

from athena_optim._base import Base, add_scaled, new_step, scalar, scale
from athena_optim._buckets import buckets, in_order, is_sharded, whole
from athena_optim._checks import NonFinite
from athena_optim._newton_schulz import JORDAN, newton_schulz

AdjustLr = Literal["original", "match_rms_adamw"]
NsDtype = Literal["bfloat16", "float32", "float64"]
DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

#: Elements of matrices of one shape that are orthogonalised together: several of a usual layer's size,
#: so that a batch keeps all cores at work, and little beside the state.
BATCH = 2**21


class Muon(Base):
    r"""Muon: momentum whose singular values are all moved close to 1; AdamW where there is no matrix.

    .. math::
        m_t &= \mu m_{t-1} + (1-\mu) g_t, \qquad
        u_t = \mu m_t + (1-\mu) g_t \ \text{(Nesterov; otherwise } m_t) \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1} - \eta\, s\, \mathrm{NS}(u_t)

    with :math:`\mathrm{NS}` of `newton_schulz` and the scale :math:`s` of ``adjust_lr``. It is
    `torch.optim.Muon` for matrices and `torch.optim.AdamW` for the rest, in one optimizer: every
    group is updated in one of the two ways, as its option ``orthogonalize`` says. True: Muon; a
    parameter with more axes counts as the matrix of its first against all others. False: AdamW. None:
    the group is split in two when it is added, its matrices (two axes) and the rest, so that each part
    has its own ``lr`` and schedules act on both. What a group itself says holds for all of it; what it
    leaves open is ``lr``, ``weight_decay`` and ``eps`` where it is orthogonalised, and ``adamw_lr``
    and so on elsewhere.

    Embeddings and the output layer are matrices too, but belong to AdamW: `muon_groups` makes groups
    that say so.

    Args:
        params: parameters, or groups such as `athena_optim.muon_groups` makes.
        lr: learning rate :math:`\eta` of matrices.
        weight_decay: decoupled decay :math:`\lambda` of matrices.
        momentum: :math:`\mu`.
        nesterov: look one step ahead.
        ns_coefficients: :math:`(a, b, c)` of the iteration.
        eps: least norm that a matrix is divided by.
        ns_steps: iterations.
        adjust_lr: :math:`s` for :math:`m \times n`: ``"original"``, :math:`\sqrt{\max(1, m/n)}`, or
            ``"match_rms_adamw"``, :math:`0.2\sqrt{\max(m, n)}`, with which rate and decay may be AdamW's.
        ns_dtype: type in which matrices are orthogonalised.
        orthogonalize: of groups that do not say it themselves.
        adamw_lr: learning rate of the rest.
        adamw_betas: AdamW's :math:`(\beta_1, \beta_2)`.
        adamw_eps: AdamW's :math:`\epsilon`.
        adamw_weight_decay: decoupled decay of the rest.
        maximize: climb instead of descending.
        foreach: matrices of one shape in batches and, for AdamW, list ops. None chooses both (on the CPU
            AdamW's fused kernel instead of list ops) unless ``differentiable``.
        capturable: allow capture in a CUDA graph.
        differentiable: let autograd run through the step.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"``, ``"zero"``; None does
            not look.

    A sharded matrix (DTensor) is gathered and orthogonalised as a whole, one at a time.

    Raises ValueError for options outside their ranges, RuntimeError for sparse or complex gradients and
    for ``foreach`` together with ``differentiable``.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; ``"match_rms_adamw"`` and
    decay: Liu et al. 2025, arXiv:2502.16982, eq. 4. Departs from it: as torch does, the momentum is a
    weighted mean, :math:`1-\mu` times the paper's, which NS divides out.

    >>> weight, bias = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.ones(2))
    >>> optimizer = Muon([weight, bias], lr=0.1, adamw_lr=0.01)
    >>> [(group["orthogonalize"], group["lr"]) for group in optimizer.param_groups]
    [(True, 0.1), (False, 0.01)]
    """

    state_names = frozenset({"momentum_buffer", "step", "exp_avg", "exp_avg_sq"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        *,
        ns_coefficients: tuple[float, float, float] = JORDAN,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr: AdjustLr = "original",
        ns_dtype: NsDtype = "bfloat16",
        orthogonalize: bool | None = None,
        adamw_lr: float | Tensor = 1e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 1e-2,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        nonfinite: NonFinite | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr": adjust_lr,
            "ns_dtype": ns_dtype,
            "orthogonalize": orthogonalize,
            "betas": adamw_betas,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        self._adamw = {"lr": adamw_lr, "eps": adamw_eps, "weight_decay": adamw_weight_decay}
        self.check({**options, **self._adamw})
        super().__init__(params, options, nonfinite=nonfinite)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError unless all options of a group are allowed."""
        super().check(options)
        momentum, steps, coefficients = (options[n] for n in ("momentum", "ns_steps", "ns_coefficients"))
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1); got {momentum}. 0.95 is usual.")
        if not (isinstance(steps, int) and 1 <= steps < 100):
            raise ValueError(f"`ns_steps` must be a whole number in [1, 99]; got {steps}. 5 is usual.")
        if len(coefficients) != 3 or not all(map(isfinite, coefficients)):
            raise ValueError(
                f"`ns_coefficients` must be three finite numbers; got {coefficients}. Jordan's are default."
            )
        for name, allowed in (
            ("adjust_lr", ("original", "match_rms_adamw")),
            ("ns_dtype", tuple(DTYPES)),
            ("orthogonalize", (True, False, None)),
        ):
            if options[name] not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}; got {options[name]!r}. Choose one.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, in two parts if it holds matrices and others and does not say how to update them."""
        count = len(self.param_groups)
        try:
            for group in self._parts(param_group):
                super().add_param_group(group)
        except BaseException:
            del self.param_groups[count:]
            raise

    def _parts(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if isinstance(group["params"], set):
            yield group  # which torch refuses
            return
        items = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        n_axes = [getattr(item[1] if isinstance(item, tuple) else item, "ndim", 0) for item in items]
        wanted = group.get("orthogonalize", self.defaults["orthogonalize"])
        if wanted and min(n_axes, default=2) < 2:
            raise ValueError(
                f"`orthogonalize=True` needs parameters with at least 2 axes; number "
                f"{n_axes.index(min(n_axes))} of the group has {min(n_axes)}. Leave it at None, or put that "
                "parameter into another group."
            )
        for orthogonalize in (True, False) if wanted is None else (wanted,):
            part = [
                item
                for item, n in zip(items, n_axes, strict=True)
                if wanted is not None or (n == 2) == orthogonalize
            ]
            if part or (not items and orthogonalize is not False) or wanted is not None:
                defaults = {} if orthogonalize else self._adamw
                yield {**defaults, **group, "params": part, "orthogonalize": orthogonalize}

    def required_names(self, state: Mapping[str, Any]) -> frozenset[str]:
        """The momentum of a matrix, or AdamW's state."""
        if not state or "momentum_buffer" in state:
            return frozenset()
        return self.state_names - {"momentum_buffer"}

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """The momentum of a matrix, or AdamW's step counter and moments; 0 at first."""

        def zeros() -> Tensor:
            return torch.zeros_like(param, memory_format=torch.preserve_format)

        if group["orthogonalize"]:
            return {"momentum_buffer": zeros()}
        return {"step": new_step(param, group), "exp_avg": zeros(), "exp_avg_sq": zeros()}

    def update(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """One step of a group."""
        if not group["orthogonalize"]:
            _adamw_step(group, params, grads, states)
            return
        momenta = [state["momentum_buffer"] for state in states]
        one_by_one = group["foreach"] is False or group["differentiable"]
        batched: dict[Any, list[int]] = {}
        for i, param in enumerate(params):
            if one_by_one or is_sharded(param):
                _matrix_step(group, param, grads[i], momenta[i])
            elif param.numel():
                batched.setdefault((param.device, param.dtype, param.shape), []).append(i)
        for places in batched.values():
            size = max(1, BATCH // params[places[0]].numel())
            for start in range(0, len(places), size):
                batch = places[start : start + size]
                _batch_step(group, *([tensors[i] for i in batch] for tensors in (params, grads, momenta)))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_adamw": self._adamw}


def _rate(group: Mapping[str, Any], shape: torch.Size) -> float | Tensor:
    """The learning rate of a matrix of this shape: the group's, times the scale of ``adjust_lr``."""
    m, n = shape[0], max(1, shape[1:].numel())
    ratio = sqrt(max(1, m / n)) if group["adjust_lr"] == "original" else 0.2 * sqrt(max(m, n))
    return scalar(group["lr"], group) * ratio


def _orthogonalize(group: Mapping[str, Any], matrices: Tensor) -> Tensor:
    return newton_schulz(
        matrices, coefficients=group["ns_coefficients"], n_steps=group["ns_steps"], eps=group["eps"]
    )


def _matrix_step(group: Mapping[str, Any], param: Tensor, grad: Tensor, momentum: Tensor) -> None:
    """One matrix, which may be sharded."""
    if group["maximize"]:
        grad = -grad
    momentum.lerp_(grad, 1 - group["momentum"])
    mixed = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    matrix = _orthogonalize(group, whole(mixed).flatten(1).to(DTYPES[group["ns_dtype"]]))
    direction = _like(matrix.reshape(mixed.shape).to(param.dtype), param)
    param.mul_(1 - scalar(group["lr"], group) * group["weight_decay"])
    rate = _rate(group, param.shape)
    if isinstance(rate, Tensor):
        param.sub_(direction * rate)
    else:
        param.add_(direction, alpha=-rate)


def _like(tensor: Tensor, param: Tensor) -> Tensor:
    """``tensor``, which every rank holds whole, cut as ``param`` is."""
    if not is_sharded(param):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(param, DTensor)
    copies = [Replicate()] * param.device_mesh.ndim
    return DTensor.from_local(tensor, param.device_mesh, copies, run_check=False).redistribute(
        placements=param.placements
    )


def _batch_step(
    group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], momenta: list[Tensor]
) -> None:
    """Matrices of one shape, device and dtype."""
    shape, mu = params[0].shape, group["momentum"]
    dtype = DTYPES[group["ns_dtype"]]
    mixed = torch.empty(len(params), shape[0], shape[1:].numel(), dtype=dtype, device=params[0].device)
    rows = [row.view(shape) for row in mixed]
    for _, gradients, moments, targets in buckets(grads, momenta, rows):
        signed = torch._foreach_neg(gradients) if group["maximize"] else gradients
        torch._foreach_lerp_(moments, signed, 1 - mu)
        ahead = torch._foreach_lerp(signed, moments, mu) if group["nesterov"] else moments
        torch._foreach_copy_(targets, ahead)
    mixed.copy_(_orthogonalize(group, mixed))  # tall ones come transposed, and pieces must be contiguous
    decay = 1 - scalar(group["lr"], group) * group["weight_decay"]
    for _, weights, steps in buckets(params, rows):
        scale(weights, decay)
        add_scaled(weights, [step.to(weights[0].dtype) for step in steps], -_rate(group, shape))


def _adamw_step(
    group: Mapping[str, Any], params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]]
) -> None:
    """torch's AdamW: its fused kernel on the CPU, list ops elsewhere, or what the group asks for."""
    unasked = group["foreach"] is None and not group["differentiable"]
    exp_avgs, exp_avg_sqs = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
    on_cpu = not is_compiling() and all(param.device.type == "cpu" for param in params)
    fused = unasked and on_cpu and in_order(params, grads, exp_avgs, exp_avg_sqs)
    listed = group["capturable"] or not isinstance(group["lr"], Tensor)  # torch's list ops want a number
    beta1, beta2 = group["betas"]
    adamw(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [state["step"] for state in states],
        foreach=not fused and (bool(group["foreach"]) or (unasked and listed)),
        capturable=group["capturable"],
        differentiable=group["differentiable"],
        fused=fused,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
