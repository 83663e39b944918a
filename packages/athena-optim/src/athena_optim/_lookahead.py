"""Lookahead: slow weights that follow an optimizer's, and to which it returns every few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from athena_optim._buckets import buckets
from athena_optim._checks import check_shapes
from athena_optim._wrapper import LOOKAHEAD_STEP, Wrapper, chain, check_lookahead

#: Names under which optimizers keep a first moment, the direction in which they move.
FIRST_MOMENTS = ("exp_avg", "momentum_buffer", "momentum")
_PREFIX = "slow_"


class Lookahead(Wrapper):
    r"""Lookahead: k steps forward with any optimizer, then a part of that way from where they started.

    .. math::
        \theta_{t,i} &= \theta_{t,i-1} + A(\theta_{t,i-1}), \qquad \theta_{t,0} = \phi_{t-1},
            \qquad i = 1 \dots k \\
        \phi_t &= \phi_{t-1} + \alpha\,(\theta_{t,k} - \phi_{t-1})

    where the fast weights :math:`\theta` are the model's parameters, the slow ones :math:`\phi` begin at
    the parameters before their first step, and :math:`A` is a step of the inner optimizer. The slow
    weights are kept in float32 beside parameters of 16 bits, which they are rounded to, so that a part
    of a small way is not lost. They stand in the state dict; a parameter added or unfrozen later has its
    own from its first gradient on, and a step that the inner optimizer skips does not count.

    Args:
        optimizer: the inner optimizer.
        k: steps between two synchronisations; ``math.inf`` for none.
        alpha: :math:`\alpha` in (0, 1]; at 1 the inner optimizer is left as it is, bit for bit.
        momentum: what a synchronisation does to the inner optimizer's first moments (``exp_avg``,
            ``momentum_buffer``, ``momentum``): ``"keep"`` them; ``"reset"`` them to 0; ``"pullback"``:
            interpolate them as the weights, beside slow moments that begin at 0. Second moments and step
            counts stay in each: they measure how large gradients are, which does not change with the
            place, and a second moment of 0 would make the next steps huge.

    To evaluate the slow weights, use ``with optimizer.slow_weights():``.
    A synchronisation is decided on the host, so the step cannot be captured in a CUDA graph.

    Raises ValueError for options outside their ranges and a state dict without slow weights, TypeError
    for a Lookahead inside another, RuntimeError for ``reset`` or ``pullback`` if the inner optimizer
    keeps no first moment under those names.
    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     weight.grad = torch.tensor([2.0])
    ...     optimizer.step()
    ...     print(weight.item())
    -1.0
    -1.0
    """

    options = ("k", "alpha", "momentum")
    keeps_slow_weights = True

    def __init__(
        self,
        optimizer: Optimizer,
        k: float = 5,
        alpha: float = 0.5,
        *,
        momentum: Literal["keep", "reset", "pullback"] = "keep",
    ) -> None:
        if not (k >= 1 and (k == inf or k == int(k))):
            raise ValueError(
                f"`k` must be a whole number from 1 on; got {k}. To never synchronise, pass math.inf."
            )
        if not 0 < alpha <= 1:
            raise ValueError(f"`alpha` must lie in (0, 1]; got {alpha}. 0.5 is the paper's.")
        if momentum not in ("keep", "reset", "pullback"):
            raise ValueError(
                f"`momentum` must be 'keep', 'reset' or 'pullback'; got {momentum!r}. The default keeps it."
            )
        super().__init__(optimizer)
        if any(isinstance(inner, Lookahead) for inner in chain(optimizer)):
            raise TypeError("`optimizer` must have no Lookahead inside; got one. Keep one of them.")
        self.k = k
        self.alpha = alpha
        self.momentum = momentum
        self._fast: dict[Tensor, Tensor] | None = None  # inside `slow_weights`: what to return to
        for entries in self.state.values():  # of a Lookahead that the inner optimizer was in before
            for name in _own(entries):
                del entries[name]
        self.param_groups[0][LOOKAHEAD_STEP] = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step the inner optimizer, and synchronise after every ``k`` of its steps."""
        self._refuse_inside("step")
        starts = self._starts(unevaluated=closure is not None)
        loss = self.inner_step(closure)
        if not self.skipped:
            self._count(starts)
        return loss

    @torch._disable_dynamo
    def _starts(self, *, unevaluated: bool) -> dict[Tensor, Tensor]:
        """Copies of the parameters that have no slow weights yet and get a gradient, or may get one."""
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "Lookahead's step must run outside of CUDA graph capture: a graph would repeat one count of "
                "steps. Capture the step of the optimizer that it wraps, or use torch.compile."
            )
        return {
            param: _precise(param)
            for param in self.parameters
            if (param.grad is not None or (unevaluated and param.requires_grad))
            and "slow" not in self.state.get(param, ())
        }

    @torch._disable_dynamo
    @torch.no_grad()
    def _count(self, starts: dict[Tensor, Tensor]) -> None:
        """Count a step after which those of ``starts`` that have a gradient have slow weights."""
        # Only now, since optimizers know by an empty state that they have to make it.
        begun = [param for param in starts if param.grad is not None]
        for param in begun:
            self.state[param]["slow"] = starts[param]
        self._moments(begun)  # whose slow ones a checkpoint that is loaded into them must find
        count = self.param_groups[0].get(LOOKAHEAD_STEP, 0) + 1
        self.param_groups[0][LOOKAHEAD_STEP] = count
        if count % self.k == 0:
            self._synchronise()

    def _synchronise(self) -> None:
        # A parameter frozen since the last synchronisation stays as it is.
        params = [p for p in self.parameters if p.requires_grad and "slow" in self.state.get(p, ())]
        _interpolate([self.state[param]["slow"] for param in params], params, self.alpha)
        if self.momentum != "keep" and params:
            self._synchronise_moments(params)

    def _synchronise_moments(self, params: list[Tensor]) -> None:
        held = self._moments(params)
        if not held:
            raise RuntimeError(
                f"`momentum={self.momentum!r}` needs an optimizer whose state holds one of "
                f"{', '.join(FIRST_MOMENTS)}; got {type(chain(self)[-1]).__name__}. Pass momentum='keep'."
            )
        moments = [entries[name] for entries, name in held]
        if self.momentum == "reset":
            for _, fast in buckets(moments):
                torch._foreach_zero_(fast)
            return
        _interpolate([entries[_PREFIX + name] for entries, name in held], moments, self.alpha)

    def _moments(self, params: list[Tensor]) -> list[tuple[dict[str, Any], str]]:
        """States with the name of each first moment in them; a pull-back's slow ones are made."""
        held = []
        for param in params:
            entries = self.state[param]
            for name in FIRST_MOMENTS:
                moment = entries.get(name)
                if isinstance(moment, Tensor) and moment.shape == param.shape:
                    held.append((entries, name))
                    if self.momentum == "pullback" and _PREFIX + name not in entries:
                        entries[_PREFIX + name] = _precise(moment).zero_()
        return held

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """A context in which the parameters hold the slow weights, and after which the fast ones again.

        Inside, a further one changes nothing, and neither a step nor loading a state dict is allowed.
        Parameters that were never updated are left as they are.
        """
        if self._fast is not None:
            yield
            return
        params = [param for param in self.parameters if "slow" in self.state.get(param, ())]
        with torch.no_grad():
            self._fast = {param: param.clone() for param in params}
            for param in params:
                param.copy_(self.state[param]["slow"])
        try:
            yield
        finally:
            with torch.no_grad():
                for param, fast in self._fast.items():
                    param.copy_(fast)
            self._fast = None

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """The slow weights, as in `slow_weights`."""
        return self.slow_weights()

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict with the slow weights; outside of `slow_weights` alone.

        Inside, the parameters hold other weights than those that training goes on with.
        """
        self._refuse_inside("state_dict")
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        # A copy made inside `slow_weights` has parameters of its own, which no context changes back.
        return super().__getstate__() | {"_fast": None}

    def _refuse_inside(self, action: str) -> None:
        if self._fast is not None:
            raise RuntimeError(
                f"`{action}` must be called outside of slow_weights(); leave the context first."
            )

    def _load(self, state_dict: dict[str, Any]) -> None:
        self._refuse_inside("load_state_dict")
        check_lookahead(self, state_dict)
        groups = state_dict["param_groups"]
        keys = [key for group in groups for key in group["params"]]
        own = {key: _own(state_dict["state"].get(key, {})) for key in keys}
        # If the parameters differ in number, the inner optimizer says so.
        for param, key in zip(self.parameters, keys, strict=False):
            check_shapes(own[key], param, key)
        state = {
            key: {name: value for name, value in entries.items() if name not in own.get(key, ())}
            for key, entries in state_dict["state"].items()
        }
        inner = {
            "state": {key: entries for key, entries in state.items() if entries},
            "param_groups": [{k: v for k, v in group.items() if k != LOOKAHEAD_STEP} for group in groups],
        }
        self.optimizer.load_state_dict({**state_dict, **inner})
        self.param_groups[0][LOOKAHEAD_STEP] = max(group.get(LOOKAHEAD_STEP, 0) for group in groups)
        for param, key in zip(self.parameters, keys, strict=True):
            for name, value in own[key].items():  # in its own dtype; torch's loading casts to the parameter's
                self.state[param][name] = value.to(param.device, copy=True)


def _own(entries: dict[str, Any]) -> dict[str, Tensor]:
    """What Lookahead keeps among the state of a parameter."""
    names = ("slow", *(_PREFIX + name for name in FIRST_MOMENTS))
    return {name: entries[name] for name in names if name in entries}


def _precise(tensor: Tensor) -> Tensor:
    """A copy in at least float32."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _interpolate(slows: list[Tensor], fasts: list[Tensor], alpha: float) -> None:
    """Move ``slows`` by a part ``alpha`` of their way to ``fasts``, and ``fasts`` to ``slows``."""
    for _, fast, slow in buckets(fasts, slows):
        torch._foreach_lerp_(slow, [f.to(s.dtype) for f, s in zip(fast, slow, strict=True)], alpha)
        torch._foreach_copy_(fast, slow)
