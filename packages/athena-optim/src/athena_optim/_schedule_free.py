"""Schedule-free AdamW: an average of iterates in the place of a decaying learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from athena_core import has_float64
from athena_optim._base import Base, new_step, scale
from athena_optim._buckets import buckets
from athena_optim._checks import NonFinite


class ScheduleFreeAdamW(Base):
    r"""AdamW without a schedule: gradients at an interpolation of the iterate and its average.

    .. math::
        y_t &= (1-\beta_1) z_t + \beta_1 x_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \qquad
            \eta_t = \eta \min(1, t / T) \\
        d_t &= \frac{g_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + \lambda y_t, \qquad
            z_{t+1} = z_t - \eta_t d_t \\
        w_t &= t^r \big(\max_{s \le t} \eta_s\big)^p, \qquad c_t = w_t \Big/ \sum_{s \le t} w_s, \qquad
            x_{t+1} = (1-c_t)\, x_t + c_t z_{t+1}

    with :math:`g_t` the gradient at :math:`y_t`. The parameters hold :math:`y`, where gradients belong.
    :math:`x` is the result, to be evaluated and deployed::

        with optimizer.evaluation_weights():
            evaluate(model)

    or `eval` and `train`, as with modules. Evaluation changes nothing, not even by rounding: `eval`
    keeps :math:`y` in the state, beside :math:`z` and :math:`v`, until `train` puts it back. A state
    dict says which of both the parameters held; the model's, saved beside it, holds the same. What is
    written into the parameters in between is lost.

    Every parameter counts its own steps, so one that is unfrozen late has its own warm-up and average.
    No schedule is needed; one acts through ``lr``.

    Args:
        params: parameters, or groups such as `athena_optim.param_groups` makes.
        lr: learning rate :math:`\eta`; good ones are 1 to 10 times AdamW's.
        betas: :math:`(\beta_1, \beta_2)`, the first above 0.
        eps: :math:`\epsilon`.
        weight_decay: decay :math:`\lambda`, at :math:`y`.
        warmup_steps: :math:`T`; 0 for none.
        r: power :math:`r` of the step in the average's weights.
        weight_lr_power: power :math:`p` of the largest rate so far in them.
        maximize: climb instead of descending.
        foreach: list ops on buckets of tensors; None chooses them unless ``capturable`` or
            ``differentiable``.
        capturable: allow capture in a CUDA graph.
        differentiable: let autograd run through the step.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"``, ``"zero"``; None does
            not look.

    State has the parameters' dtype. Batch norm's running means belong to :math:`y` too: recompute them
    over some batches before :math:`x` is evaluated.

    Raises ValueError for options outside their ranges, RuntimeError for a step in evaluation, for sparse
    or complex gradients, and for ``foreach`` together with ``capturable`` or ``differentiable``.
    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1. Departs from it, as its authors' own
    code does: the bias correction is inside the root instead of in :math:`\eta_t`, so it has no part
    in decay and weights, and the weights take the largest rate so far.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = ScheduleFreeAdamW([weight], lr=0.1)
    >>> for _ in range(3):
    ...     weight.grad = weight.detach().sign()
    ...     optimizer.step()
    >>> with optimizer.evaluation_weights():  # of 0.9, 0.8, 0.7 and the same below 0
    ...     weight.data
    tensor([ 0.8000, -1.8000])
    """

    state_names = frozenset({"step", "weight_sum", "lr_max", "z", "exp_avg_sq", "y"})
    own_dtype_names = frozenset({"step", "weight_sum", "lr_max"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        nonfinite: NonFinite | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "training": True,
        }
        super().__init__(params, options, nonfinite=nonfinite)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError unless all options of a group are allowed."""
        super().check(options)
        beta1, steps = options["betas"][0], options["warmup_steps"]
        if beta1 == 0:
            raise ValueError("`betas[0]` must lie in (0, 1): with 0 the average has no part in y; got 0.")
        if not (isinstance(steps, int) and steps >= 0):
            raise ValueError(
                f"`warmup_steps` must be a whole number, at least 0; got {steps}. Pass steps, not a share."
            )
        for name in ("r", "weight_lr_power"):
            if not 0 <= options[name] < float("inf"):
                raise ValueError(
                    f"`{name}` must be finite and at least 0; got {options[name]}. The paper's is default."
                )
        if options["foreach"] and options["capturable"]:
            raise RuntimeError("`foreach` does not support `capturable`; leave it at None.")

    @property
    def training(self) -> bool:
        """Whether the parameters hold y, where gradients belong; x otherwise."""
        return all(group["training"] for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what its parameters hold is y and x alike."""
        super().add_param_group({**param_group, "training": self.training})

    @torch.no_grad()
    def eval(self) -> None:
        """Put x, the average, into the parameters; y stays in the state."""
        for group in self.param_groups:
            if not group["training"]:
                continue
            for state, param in self._stepped(group):
                state["y"] = param.clone(memory_format=torch.preserve_format)
                param.lerp_(state["z"], 1 - 1 / group["betas"][0])
            group["training"] = False

    @torch.no_grad()
    def train(self) -> None:
        """Put y back into the parameters, bit for bit."""
        for group in self.param_groups:
            if group["training"]:
                continue
            for state, param in self._stepped(group):
                param.copy_(state.pop("y"))
            group["training"] = True

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """A context in which the parameters hold x, and after which they hold what they held before."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()

    def _stepped(self, group: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """State and parameter of those that took a step; before it, y and x are the same."""
        return ((self.state[p], p) for p in group["params"] if self.state.get(p))

    def required_names(self, state: Mapping[str, Any]) -> frozenset[str]:
        """All but y, which is there while the parameters hold x."""
        return super().required_names(state) - {"y"}

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """Counters at 0, z the parameter itself, no second moment."""
        step = new_step(param, group)
        # float64 where there is one: rates to a power, summed over a whole training
        total = torch.zeros_like(step, dtype=torch.float64 if has_float64(step.device) else torch.float32)
        with torch.set_grad_enabled(group["differentiable"]):  # z depends on the first parameters
            z = param.clone(memory_format=torch.preserve_format)
        return {
            "step": step,
            "weight_sum": total,
            "lr_max": total.clone(),
            "z": z,
            "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format),
        }

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient; returns what ``closure`` returned, or None."""
        if not self.training:
            raise RuntimeError(
                "`step` needs the training weights in the parameters, which hold the averaged ones. Call "
                "`train()` of the schedule-free optimizer first, or evaluate in its `evaluation_weights()`."
            )
        return super().step(closure)

    def update(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """One step of a group."""
        on_device = group["capturable"] or group["differentiable"] or torch.compiler.is_compiling()
        if on_device or group["foreach"] is False:
            for param, grad, state in zip(params, grads, states, strict=True):
                rates = _count(group, [state])
                numbers = (rate.to(param.device, param.dtype) if on_device else rate.item() for rate in rates)
                _step_one(group, param, grad, state, *numbers)
            return
        alike: dict[tuple[float, ...], list[int]] = {}
        for i, state in enumerate(states):
            key = tuple(state[name].item() for name in ("step", "weight_sum", "lr_max"))
            alike.setdefault(key, []).append(i)
        for places in alike.values():
            held = [states[i] for i in places]
            rate, share, bias2 = (number.item() for number in _count(group, held))
            lists = [params[i] for i in places], [grads[i] for i in places]
            lists += tuple([state[name] for state in held] for name in ("z", "exp_avg_sq"))
            for _, *bucket in buckets(*lists):
                _step_many(group, *bucket, rate=rate, share=share, bias2=bias2)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, also of a model in another dtype.

        Raises ValueError, and changes nothing, if it is of another optimizer or model.
        """
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in state.keys() & {"weight_sum", "lr_max"}:  # torch keeps `step` alone where it was
                state[name] = state[name].to(state["step"].device)


def _count(group: Mapping[str, Any], states: list[dict[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Count a step in the states, which are alike; :math:`\\eta_t`, :math:`c_t` and :math:`1-\\beta_2^t`."""
    first, *others = states
    time = first["step"].add_(1).to(first["lr_max"].dtype)
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        rate = lr.to(time.device, time.dtype)
    else:
        rate = torch.zeros_like(time) + lr  # no copy from the host, which a CUDA graph cannot capture
    if group["warmup_steps"]:
        rate = rate * (time / group["warmup_steps"]).clamp(max=1)
    lr_max = first["lr_max"].clamp_(min=rate)
    weight = time ** group["r"] * lr_max ** group["weight_lr_power"]
    weight_sum = first["weight_sum"].add_(weight)
    share = torch.where(weight_sum > 0, weight / weight_sum, 0.0)  # a rate of 0 so far: nothing moved
    for state in others:
        for name in ("step", "lr_max", "weight_sum"):
            state[name].copy_(first[name])
    return rate, share, 1 - group["betas"][1] ** time


def _step_one(
    group: Mapping[str, Any],
    y: Tensor,
    grad: Tensor,
    state: dict[str, Any],
    rate: float | Tensor,
    share: float | Tensor,
    bias2: float | Tensor,
) -> None:
    beta1, beta2 = group["betas"]
    gradient = -grad if group["maximize"] else grad
    z, square = state["z"], state["exp_avg_sq"]
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    direction = gradient / ((square / bias2).sqrt() + group["eps"])
    if group["weight_decay"]:
        direction = direction + y * group["weight_decay"]
    # y = (1 - beta1) z + beta1 x before and after, x eliminated.
    y.lerp_(z, share).add_(direction * (rate * (beta1 * (1 - share) - 1)))
    z.sub_(direction * rate)


def _step_many(
    group: Mapping[str, Any],
    y: list[Tensor],
    grads: list[Tensor],
    z: list[Tensor],
    square: list[Tensor],
    *,
    rate: float,
    share: float,
    bias2: float,
) -> None:
    """`_step_one` on lists."""
    beta1, beta2 = group["betas"]
    signed = torch._foreach_neg(grads) if group["maximize"] else grads
    scale(square, beta2)
    torch._foreach_addcmul_(square, signed, signed, value=1 - beta2)
    denominators = torch._foreach_div(square, bias2)
    torch._foreach_sqrt_(denominators)
    torch._foreach_add_(denominators, group["eps"])
    directions = torch._foreach_div(signed, denominators)
    if group["weight_decay"]:
        torch._foreach_add_(directions, y, alpha=group["weight_decay"])
    torch._foreach_lerp_(y, z, share)
    torch._foreach_add_(y, directions, alpha=rate * (beta1 * (1 - share) - 1))
    torch._foreach_add_(z, directions, alpha=-rate)
