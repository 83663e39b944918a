"""What a bonus is asked about: transitions of vectorised environments, with the true next observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from athena_core import to_device

Observation = Any  # a tensor, or a dictionary or tuple of observations


def _data(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)  # stays on its device


def mapped(function: Callable[[Any], Tensor], value: Any) -> Any:
    """`tree_map`, which for one tensor or array takes longer than most functions."""
    return function(value) if isinstance(value, Tensor | np.ndarray) else tree_map(function, value)


@dataclass(frozen=True, eq=False)
class Transition:
    r"""Transitions :math:`(s_t, a_t, s_{t+1})` of ``N`` environments over ``T`` steps.

    ``next_obs`` is the observation that the action led to, also where the episode ended there: never the
    one that the next episode starts from. A row that is not ``valid`` is none: under NEXT_STEP autoreset the
    step after the end of an episode ignores its action and only resets. It enters nothing, and its bonus
    is 0. Arrays become tensors, and tensors lose their gradients; nothing is copied. Do not change the
    tensors of a transition that was scored.

    Args:
        obs: a tensor (or a dictionary or tuple of tensors) of shape ``(T, N, *shape)``.
        action: shape ``(T, N, *shape)``.
        next_obs: as ``obs``.
        terminated: shape ``(T, N)``; whether the environment reached an end.
        truncated: shape ``(T, N)``; whether the episode was cut, by a limit of time for instance.
        valid: shape ``(T, N)``; all rows where left out.

    Samples of a replay buffer, which have no order, have shape ``(B, ...)`` in place of ``(T, N, ...)``.

    Raises ValueError where the leading shapes differ.

    >>> obs = torch.zeros(5, 2, 3)
    >>> ends = torch.zeros(5, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(5, 2), obs + 1, ends, ends)
    >>> transition.shape, transition.flat().shape
    (torch.Size([5, 2]), torch.Size([10]))
    """

    obs: Observation
    action: Tensor
    next_obs: Observation
    terminated: Tensor
    truncated: Tensor
    valid: Tensor = None  # pyright: ignore[reportAssignmentType]  # never None once made

    def __post_init__(self) -> None:
        for name in ("obs", "action", "next_obs"):
            object.__setattr__(self, name, mapped(_data, getattr(self, name)))
        for name in ("terminated", "truncated"):
            object.__setattr__(self, name, _data(getattr(self, name)).bool())
        valid = torch.ones_like(self.terminated) if self.valid is None else _data(self.valid).bool()
        object.__setattr__(self, "valid", valid)
        lead = self.terminated.shape
        for name in ("obs", "action", "next_obs", "truncated", "valid"):
            value = getattr(self, name)
            for leaf in (value,) if isinstance(value, Tensor) else tree_leaves(value):
                if leaf.shape[: len(lead)] != lead:
                    raise ValueError(
                        f"`{name}` must begin with the shape of `terminated`, {tuple(lead)}; got "
                        f"{tuple(leaf.shape)}. Stack steps first, environments second."
                    )

    @property
    def shape(self) -> torch.Size:
        """``(T, N)``, or ``(B,)`` of samples without order."""
        return self.terminated.shape

    @property
    def device(self) -> torch.device:
        return self.terminated.device

    @property
    def done(self) -> Tensor:
        """Whether the episode ended in this row, either way: there its memory is cleared."""
        return (self.terminated | self.truncated) & self.valid

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A transition of these tensors after ``function``."""
        names = ("obs", "action", "next_obs", "terminated", "truncated", "valid")
        return replace(self, **{name: mapped(function, getattr(self, name)) for name in names})

    def to(self, device: torch.device | str) -> Self:
        """The same on a device, itself where it is there already; what that cannot hold is cast first."""
        if self.device == torch.device(device):
            return self
        return self.map(lambda tensor: to_device(tensor, device))

    def flat(self) -> Self:
        """The valid rows alone, in the order of time and then of environments, of shape ``(B, ...)``."""
        lead = len(self.shape)
        flat = self.map(lambda tensor: tensor.flatten(0, lead - 1)) if lead > 1 else self
        return flat if bool(flat.valid.all()) else flat.map(lambda tensor: tensor[flat.valid])

    def __getitem__(self, rows: Any) -> Self:
        """Some rows, by an index, slice or mask of the first axis (or axes)."""
        numbers = isinstance(rows, Tensor) and rows.dim() == 1 and rows.dtype == torch.int64
        if numbers and rows.device == self.device == torch.device("cpu") and not bool((rows < 0).any()):
            return self.map(lambda tensor: tensor.index_select(0, rows))  # the same in a fifth of the time
        return self.map(lambda tensor: tensor[rows])
