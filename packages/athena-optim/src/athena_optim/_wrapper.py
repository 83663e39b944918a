"""What optimizers around an optimizer share: to the outside, all of torch's contract is the inner one's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from athena_optim._checks import check_keys
from athena_optim._evaluation import evaluation_weights
from athena_optim._notes import Notes, Noting

#: Key of the first group under which Lookahead counts its steps, and by which its state dict is known.
LOOKAHEAD_STEP = "lookahead_step"


def replayed(first: Any, closure: Callable[[], Any]) -> Callable[[], Any]:
    """A closure that gives ``first`` when it is called first, whose gradients are there; then ``closure``'s.

    >>> again = replayed(1, lambda: 2)
    >>> again(), again(), again()
    (1, 2, 2)
    """
    firsts = [first]
    return lambda: firsts.pop() if firsts else closure()


class Wrapper(Noting, Optimizer):
    """Base of optimizers around any optimizer, torch's own, others' and ours, in any order.

    Groups, defaults and state are the inner optimizer's own objects at all times, also after one of the
    two loads a state dict, so that either can be given to a scheduler, a GradScaler or a checkpoint. What
    a subclass keeps of a parameter stands in the same state under a name of its own.

    Hooks of the wrapper run once around its step and those of the inner optimizer once around the inner
    step; a global hook sees both optimizers, each with itself as argument. The wrapper claims none of the
    inner optimizer's special treatment by a GradScaler, which unscales gradients before it steps.

    Args:
        optimizer: the inner optimizer.

    Raises TypeError if it is not a `torch.optim.Optimizer`.
    """

    #: Attributes that hold the options: shown by `repr`, and copied and pickled with the optimizer.
    options: ClassVar[tuple[str, ...]] = ()
    keeps_slow_weights: ClassVar[bool] = False

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer; got {type(optimizer).__name__}. "
                f"Make one first: {type(self).__name__}(torch.optim.SGD(model.parameters(), lr=0.1))."
            )
        if any(group.get("differentiable") for group in optimizer.param_groups):
            raise RuntimeError(
                f"{type(self).__name__} does not support `differentiable`: it works outside autograd. "
                "Leave it at False in the inner optimizer."
            )
        # torch's constructor makes the hooks, and writes groups, state and defaults: into a blank.
        self.optimizer = Optimizer.__new__(Optimizer)
        super().__init__([{"params": []}], {})
        self.optimizer = optimizer
        self._notes = Notes()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's list of groups."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.optimizer.param_groups = value

    @property
    def state(self) -> Any:
        """The inner optimizer's state."""
        return self.optimizer.state

    @state.setter
    def state(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.optimizer.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimizer's defaults."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self.optimizer.defaults = value

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset gradients as the inner optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    @abstractmethod
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step the inner optimizer; returns what ``closure`` returned first, or None."""

    def inner_step(self, closure: Callable[[], Any] | None) -> Any:
        """Step the inner optimizer, and tell of its skipping a step.

        Without a closure it is called without an argument, since some optimizers take none.
        """
        loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        self._notes.skipped = getattr(self.optimizer, "skipped", False)
        return loss

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """As `athena_optim.evaluation_weights` of the inner optimizer."""
        return evaluation_weights(self.optimizer)

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, in which the wrapper's own state stands too."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.optimizer.state_dict()
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        return state_dict

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave.

        Raises ValueError, and changes nothing, if it was saved with or without a Lookahead and this
        optimizer is without or with one, and whatever the inner optimizer raises.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        check_keys(state_dict)
        self._load(state_dict)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _load(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict that the hooks of loading have seen."""
        check_lookahead(self, state_dict)
        self.optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("optimizer", "_notes", *self.options)}

    def __repr__(self) -> str:
        options = "".join(f", {name}={getattr(self, name)!r}" for name in self.options)
        return f"{type(self).__name__}({self.optimizer!r}{options})"


def chain(optimizer: Optimizer) -> list[Optimizer]:
    """An optimizer, the one that it wraps, and so on to the innermost.

    >>> from athena_optim import Lookahead
    >>> optimizer = Lookahead(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    >>> [type(each).__name__ for each in chain(optimizer)]
    ['Lookahead', 'SGD']
    """
    optimizers = [optimizer]
    while isinstance(optimizers[-1], Wrapper):
        optimizers.append(optimizers[-1].optimizer)
    return optimizers


def check_lookahead(optimizer: Wrapper, state_dict: dict[str, Any]) -> None:
    """Raise ValueError unless a state dict and an optimizer both have a Lookahead, or neither."""
    saved = any(LOOKAHEAD_STEP in group for group in state_dict["param_groups"])
    kept = any(isinstance(each, Wrapper) and each.keeps_slow_weights for each in chain(optimizer))
    if kept and not saved:
        raise ValueError(
            "`state_dict` must be of an optimizer with Lookahead; got one without slow weights. Load it "
            "into the optimizer that Lookahead wraps; slow weights then start at the present parameters."
        )
    if saved and not kept:
        raise ValueError(
            "`state_dict` must be of an optimizer without Lookahead; got one with slow weights. "
            "Wrap the optimizer in athena_optim.Lookahead before loading."
        )
