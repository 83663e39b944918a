"""AdamW: Adam with decoupled weight decay, torch's fused step, clipping, and exact state for bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from athena_optim._adamw_wide import DTYPES, Wide, fused_adamw_, takes_op
from athena_optim._base import check_new_group, count, evaluate, load_checked
from athena_optim._buckets import FUSED_DEVICES, in_order
from athena_optim._checks import (
    NonFinite,
    check_flags,
    check_gradients,
    check_group,
    check_nonfinite,
    check_states,
)
from athena_optim._clip import check_clipping, prepare
from athena_optim._notes import Notes, Noting

_DTYPE, _DEVICE = attrgetter("dtype"), attrgetter("device")
Precision = Literal["param", "float32", "stochastic"]


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
        if isinstance(item, dict) and not isinstance(item["params"], Tensor | set)
        else item
        for item in items
    ]


def _unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """``step`` without torch's step hooks: they already run around the subclass's own ``step``.

    torch patches its hooks into the step of every class that was ever instantiated, so a subclass
    that simply called it would run each hook twice, or once, depending on what else was made before.
    """
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]


class AdamW(Noting, torch.optim.AdamW):
    r"""Adam with decoupled weight decay.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1}
            - \eta\,\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    It is `torch.optim.AdamW`, with its options, state and state dict, and differs in five points:
    the fused step is chosen wherever every parameter supports it (torch chooses it nowhere by
    itself); groups' own options are checked; gradients are clipped, in one of three ways, if asked;
    those that are not finite meet a stated policy; and bfloat16 parameters need not lose small updates.
    A state dict goes from one to the other in both directions, unless ``precision`` says otherwise:
    the other additions are configuration, not state.

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
        fused: None chooses it where it is supported, and neither of the other steps was asked for. It is the
            op ``athena_optim::adamw_``, torch's fused step, which a device plugin can replace, unless with
            ``amsgrad``, ``capturable`` or a tensor as ``lr``.
        max_norm: clip all groups' gradients together to this norm before each step, in place.
        max_value: or clip each element to this magnitude.
        adaptive_clip: or clip each unit's gradient to this multiple of its weights' norm, as
            `athena_optim.clip_gradients_adaptively` does.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"`` (nothing changes, no
            step is counted), ``"zero"`` (all gradients become 0); None does not look, except that
            clipping by norm raises.
        precision: of what bfloat16 and float16 parameters are updated with. ``"param"``: their own
            dtype, torch's way; updates below a part in 256 of a weight are lost. ``"float32"``: moments
            and a master copy in float32, 12 bytes of state a parameter. ``"stochastic"``: bfloat16 only;
            computed in float32, weights and moments rounded up or down at random so that the mean is
            right (`athena_optim.round_stochastically`), 4 bytes. Both use the fused kernel, whatever
            ``foreach`` and ``fused`` say. Other parameters keep their dtype, and torch's step.
        seed: of the random roundings, which are a function of it and of the step alone.

    A GradScaler unscales gradients before the step, so bounds are in true units, and skips a step with
    infinite ones. A closure runs once, before clipping. A warm-up is a schedule's, such as `warmup_cosine`.

    Raises ValueError for options outside their ranges, and for more than one way of clipping;
    RuntimeError for sparse gradients and for ``fused`` together with ``foreach`` or ``differentiable``,
    as torch does, for ``differentiable`` together with clipping or another ``precision``, and for
    ``capturable`` together with random rounding.
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
        max_value: float | None = None,
        adaptive_clip: float | None = None,
        nonfinite: NonFinite | None = None,
        precision: Precision = "param",
        seed: int = 0,
    ) -> None:
        check_group({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        check_flags({"foreach": foreach, "differentiable": differentiable, "fused": fused})
        clipping = {"max_norm": max_norm, "max_value": max_value, "adaptive_clip": adaptive_clip}
        check_clipping(clipping)
        check_nonfinite(nonfinite)
        if precision not in get_args(Precision):
            raise ValueError(
                f"`precision` must be one of {get_args(Precision)}; got {precision!r}. 'param' is torch's."
            )
        given = [name for name, bound in clipping.items() if bound is not None]
        if differentiable and (given or precision != "param"):
            raise RuntimeError(
                f"`{given[0] if given else 'precision'}` does not support `differentiable`: "
                "it is outside autograd."
            )
        if capturable and precision == "stochastic":
            raise RuntimeError("`precision` 'stochastic' does not support `capturable`. Use 'float32'.")
        params = _materialised(params)
        if fused is None and foreach is None and not differentiable:
            fused = (
                all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in _tensors(params))
                or None
            )
        self.max_norm, self.max_value, self.adaptive_clip = max_norm, max_value, adaptive_clip
        self.nonfinite: NonFinite | None = nonfinite
        self.precision: Precision = precision
        self.seed = seed
        self._strided: list[dict[str, Any]] = []  # groups that leave the fused kernel for one step
        self._notes = Notes()
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
        # A GradScaler would leave unscaling and skipping to the fused kernel, which not every step calls.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its own options checked first."""
        check_new_group(self, param_group)
        if self.precision != "param":
            Wide.check(_tensors([param_group]), stochastic=self.precision == "stochastic")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, also of a model in another dtype.

        Raises ValueError, and changes nothing, if it is of another optimizer or model.
        """
        if any(group.get("decoupled_weight_decay") is False for group in state_dict.get("param_groups", ())):
            raise ValueError(
                "`state_dict` must be of AdamW; got one of Adam, whose decay is not decoupled. "
                "Load it into torch.optim.Adam."
            )
        names = frozenset({"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"})
        own_dtype = frozenset({"step"})
        if self.precision == "float32":
            names |= {"master"}
            own_dtype = names
        load_checked(self, super().load_state_dict, state_dict, names, own_dtype)
        for group in self.param_groups:
            # torch's AdamW leaves `fused` at None, here that is a choice made on construction.
            if self.defaults["fused"] and group["fused"] is None and group["foreach"] is None:
                group["fused"] = not group["differentiable"]
                for state in (self.state[p] for p in group["params"] if p in self.state):
                    state["step"] = state["step"].to(state["exp_avg"].device, torch.float32)
        if self.precision != "param":
            for group in self.param_groups:
                self._wide(group).adopt(group["params"], self.state)

    def __getstate__(self) -> dict[str, Any]:
        names = {"max_norm", "max_value", "adaptive_clip", "nonfinite", "precision", "seed", "_notes"}
        names.add("_step_supports_amp_scaling")  # which torch's own copies lose
        own = {key: self.__dict__[key] for key in names & self.__dict__.keys()}
        return super().__getstate__() | own | {"_strided": []}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient; returns what ``closure`` returned, or None."""
        loss = evaluate(closure)
        params = [p for group in self.param_groups for p in group["params"]]
        alike = check_gradients(params, complex_too=True)
        self._notes.skipped = not prepare(
            params,
            max_norm=self.max_norm,
            max_value=self.max_value,
            adaptive_clip=self.adaptive_clip,
            nonfinite=self.nonfinite,
        )
        if self._notes.skipped:
            return loss
        if not (alike and self.precision == "param" and self._step_fused()):
            self._step_sorted(params)
        # The fused kernels count no change in place, by which autograd knows a graph that is out of date.
        torch.autograd.graph.increment_version([p for p in params if p.grad is not None])
        return loss

    @torch.no_grad()
    def _step_fused(self) -> bool:
        """Step parameters of one kind by few calls; False if torch's step must sort them.

        With 2,000 small tensors, what torch's step does besides calling its kernel takes as long as that.
        """
        if torch.compiler.is_compiling():
            return False
        calls = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] for p in params]
            if not params:
                continue
            if not (group["fused"] and all(states)):
                return False
            names = ("exp_avg", "exp_avg_sq") + (("max_exp_avg_sq",) if group["amsgrad"] else ())
            moments = [[state[name] for state in states] for name in names]
            lists = [params, [p.grad for p in params], *moments]
            if not (takes_op(group, params) or (params[0].is_cpu and in_order(*lists))):
                return False
            if {*map(_DTYPE, chain(*moments))} != {params[0].dtype}:
                return False
            if not params[0].is_cpu and {*map(_DEVICE, chain(*moments))} != {params[0].device}:
                return False  # torch's own step says so
            calls.append((group, lists, [state["step"] for state in states]))
        for group, lists, steps in calls:
            count(steps)
            fused_adamw_(group, lists, steps)
        return True

    def _step_sorted(self, params: list[Tensor]) -> None:
        """Update parameters of any kinds, each in its own way."""
        own = [p for p in params if self.precision == "param" or p.dtype not in DTYPES]
        check_states(self, own, ("exp_avg", "exp_avg_sq"))
        if self.precision != "param":
            for index, group in enumerate(self.param_groups):
                wide = [p for p in group["params"] if p.grad is not None and p.dtype in DTYPES]
                if wide:
                    self._wide(group).step(wide, self.state, seed=(self.seed, index))
        try:
            _unhooked(torch.optim.AdamW.step)(self)
        finally:
            for group in self._strided:
                group["fused"] = True
            self._strided.clear()

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError unless all options of a group are allowed."""
        check_group(options)

    def required_names(self, state: Mapping[str, Any]) -> frozenset[str]:
        """What the state of a parameter must hold that holds ``state``."""
        return frozenset({"step", "exp_avg", "exp_avg_sq"} if state else ())

    def _wide(self, group: dict[str, Any]) -> Wide:
        return Wide(group, stochastic=self.precision == "stochastic")

    def _init_group(
        self,
        group: dict[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> Any:
        """Let torch's step see what is to be updated in the parameters' own dtype, and by which kernel."""
        lists = (params_with_grad, grads, exp_avgs, exp_avg_sqs)
        shown = group
        if self.precision != "param":
            shown = group | {"params": [p for p in group["params"] if p.dtype not in DTYPES]}
        has_complex = super()._init_group(shown, *lists, max_exp_avg_sqs, state_steps)
        if group["fused"] and not in_order(*lists):
            group["fused"] = False
            self._strided.append(group)
        return has_complex
