"""What this package's own optimizers share: the order of a step, its checks, and how state is loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from athena_core import to_device
from athena_optim._buckets import Tensors
from athena_optim._checks import (
    Grouped,
    NonFinite,
    check_complete,
    check_distinct,
    check_flags,
    check_gradients,
    check_group,
    check_nonfinite,
    check_placement,
    check_state_dict,
    check_states,
)
from athena_optim._clip import usable
from athena_optim._notes import Notes, Noting


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """What ``closure`` returns, run once with gradients enabled; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def scalar(value: float | Tensor, group: Mapping[str, Any]) -> float | Tensor:
    """``value`` as a number, unless the group's step must stay on the device or in a graph."""
    if isinstance(value, Tensor) and not (
        group["capturable"] or group["differentiable"] or torch.compiler.is_compiling()
    ):
        return value.item()
    return value


def new_step(param: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A step counter at 0: on the parameter's device where a step may not wait for it, else on the CPU."""
    on_device = group["capturable"] or group.get("fused")
    return torch.zeros((), dtype=torch.float32, device=param.device if on_device else "cpu")


def count(steps: list[Tensor]) -> None:
    """Add 1 to each step counter.

    A number would be made a tensor anew for every counter on the CPU, at three times the cost.
    """
    if steps and steps[0].device.type == "cpu" and not torch.compiler.is_compiling():
        torch._foreach_add_(steps, torch.ones((), device="cpu"), alpha=1.0)
    else:
        torch._foreach_add_(steps, 1)


def scale(tensors: Tensors, factor: float | Tensor | list[Any]) -> None:
    """``tensors *= factor``, which may be one a tensor.

    Of a number, torch's list op in place on the CPU takes what bfloat16 or float16 tensors would hold of
    it: a decay of 0.998 would be 0.996. A tensor without axes stays what it is.
    """
    narrow = tensors[0].dtype in (torch.bfloat16, torch.float16) and tensors[0].device.type == "cpu"
    if narrow and isinstance(factor, list):
        factor = [torch.as_tensor(one, dtype=torch.float64) for one in factor]
    elif narrow and not isinstance(factor, Tensor):
        factor = torch.tensor(factor, dtype=torch.float64)
    torch._foreach_mul_(tensors, factor)


def add_scaled(params: Tensors, directions: Tensors, scale: float | Tensor) -> None:
    """``params += scale * directions``; ``directions`` may be overwritten."""
    if isinstance(scale, Tensor):
        torch._foreach_mul_(directions, scale)
        torch._foreach_add_(params, directions)
    else:
        torch._foreach_add_(params, directions, alpha=scale)


class Checked(Grouped, Protocol):
    """An optimizer that says what its options and its state must be."""

    state: Any

    def check(self, options: Mapping[str, Any]) -> None: ...
    def required_names(self, state: Mapping[str, Any]) -> frozenset[str]: ...
    def register_load_state_dict_pre_hook(self, hook: Any) -> Any: ...


class Base(Noting, torch.optim.Optimizer):
    """Base of this package's own optimizers.

    A subclass says what its state holds (`state_names`), makes it (`new_state`), checks its own options
    (`check`) and updates one group (`update`). Everything else, torch's contract, is here: one closure
    call with gradients enabled, hooks, no-op without gradients, state made on the first gradient, and
    loading that keeps the dtypes of what is not of its parameter's (torch casts everything).

    Args:
        params: parameters or groups.
        defaults: options of a group that says nothing else.
        nonfinite: what a NaN or infinite gradient does to a step: ``"raise"``, ``"skip"`` (nothing
            changes, no step is counted), ``"zero"`` (all gradients become 0); None does not look.
    """

    state_names: ClassVar[frozenset[str]]
    #: Those whose dtype is not the parameter's.
    own_dtype_names: ClassVar[frozenset[str]] = frozenset({"step"})

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], *, nonfinite: NonFinite | None
    ) -> None:
        check_nonfinite(nonfinite)
        self.nonfinite: NonFinite | None = nonfinite
        self._notes = Notes()
        super().__init__(params, defaults)

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError unless all options of a group are allowed."""
        check_group(options)
        for index, beta in enumerate(options.get("betas", ())):
            if isinstance(beta, Tensor):
                raise ValueError(f"`betas[{index}]` must be a number; got a tensor. Pass its `.item()`.")

    @abstractmethod
    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """State of a parameter before its first step: tensors and primitives under `state_names`."""

    @abstractmethod
    def update(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
    ) -> None:
        """Update ``params``, those of the group that have a gradient, and their states, in place."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient; returns what ``closure`` returned, or None."""
        loss = evaluate(closure)
        params = [p for group in self.param_groups for p in group["params"]]
        check_gradients(params)
        self._notes.skipped = not self.prepare(params)
        if self._notes.skipped:
            return loss
        check_states(self, params, self.state_names - self.own_dtype_names)
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            for group in self.param_groups:
                held = [p for p in group["params"] if p.grad is not None]
                if held:
                    self.update(group, held, [p.grad for p in held], [self._state(p, group) for p in held])
        return loss

    def prepare(self, params: list[Tensor]) -> bool:
        """Treat all gradients before they are used; returns whether the step is to be taken."""
        return usable(params, self.nonfinite)

    def _state(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        state = self.state[param]
        if not state:
            state.update(self.new_state(param, group))
        return state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, its options checked first."""
        check_new_group(self, param_group)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, also of a model in another dtype.

        Raises ValueError, and changes nothing, if it is of another optimizer or model.
        """
        load_checked(self, super().load_state_dict, state_dict, self.state_names, self.own_dtype_names)

    def required_names(self, state: Mapping[str, Any]) -> frozenset[str]:
        """What the state of a parameter must hold that holds ``state``."""
        return self.state_names if state else frozenset()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"nonfinite": self.nonfinite, "_notes": self._notes}


def check_new_group(optimizer: Checked, param_group: dict[str, Any]) -> None:
    """Raise unless a group may be added, as far as torch does not check it; its parameters become a list."""
    if not isinstance(param_group, dict):
        raise TypeError(
            f"`param_group` must be a dict; got {type(param_group).__name__}. Pass {{'params': [...]}}."
        )
    options = {**optimizer.defaults, **param_group}
    optimizer.check(options)
    check_flags(options)
    check_placement(param_group)
    params = param_group["params"]
    if not isinstance(params, Tensor | set):
        param_group["params"] = params = list(params)
        check_distinct(params)


def load_checked(
    optimizer: Checked,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    state_names: frozenset[str],
    own_dtype_names: frozenset[str],
) -> None:
    """Let torch's ``load`` take a state dict once it is checked.

    torch casts all state to the dtype of its parameter, which is undone for what has a dtype of its own.
    The check is a hook that runs after the user's own, which may adapt a foreign state dict.
    """
    adapted: list[dict[str, Any]] = []

    def check(optimizer: Checked, state_dict: dict[str, Any]) -> None:
        check_state_dict(optimizer, state_dict, state_names)
        for group in state_dict["param_groups"]:
            optimizer.check(group)
            for key in group["params"]:
                state = state_dict["state"].get(key, {})
                check_complete(key, state, optimizer.required_names(state))
        adapted.append(state_dict)

    handle = optimizer.register_load_state_dict_pre_hook(check)
    try:
        load(state_dict)
    finally:
        handle.remove()
    params = (p for group in optimizer.param_groups for p in group["params"])
    keys = (key for group in adapted[0]["param_groups"] for key in group["params"])
    for param, key in zip(params, keys, strict=True):
        saved = adapted[0]["state"].get(key, {})
        for entry in own_dtype_names & saved.keys():
            loaded, value = optimizer.state[param][entry], saved[entry]
            if isinstance(value, Tensor) and value.dtype != loaded.dtype:
                optimizer.state[param][entry] = to_device(value, loaded.device).clone()
