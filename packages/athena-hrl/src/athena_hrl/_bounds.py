"""Spaces of continuous states, subgoals and actions: what is checked, and how they are scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]


def normalizer(space: spaces.Box | None) -> tuple[Array, Array]:
    """Centre and scale that bring a Box to [-1, 1]; 0 and 1 where a side is not bounded.

    >>> normalizer(spaces.Box(np.array([0.0, -np.inf]), np.array([4.0, np.inf]), dtype=np.float64))
    (array([2., 0.], dtype=float32), array([2., 1.], dtype=float32))
    """
    if space is None:
        return np.zeros(0, np.float32), np.ones(0, np.float32)
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = (high > low) & (high - low < 1e6)  # a float's largest numbers stand for no bound
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return ((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)


def checked_dims(goal_dims: Sequence[int], state_dim: int) -> list[int]:
    """Dimensions of a state. Raises ValueError for none, one twice or one there is not.

    >>> checked_dims([0, 1], 4)
    [0, 1]
    """
    dims = [int(dim) for dim in goal_dims]
    if not dims or len(set(dims)) < len(dims) or not all(0 <= dim < state_dim for dim in dims):
        raise ValueError(f"`goal_dims` must be different ones of 0 to {state_dim - 1}; got {dims}.")
    return dims


def checked_range(subgoal_range: ArrayLike, n_goal: int) -> Array:
    """A positive number a dimension. Raises ValueError for others.

    >>> checked_range(2.0, 2)
    array([2., 2.], dtype=float32)
    """
    given = np.asarray(subgoal_range, dtype=np.float32)
    if given.shape not in ((), (n_goal,)) or not bool((np.isfinite(given) & (given > 0)).all()):
        raise ValueError(f"`subgoal_range` must be positive, one number or {n_goal}; got {subgoal_range}.")
    return np.broadcast_to(given, (n_goal,)).copy()


def checked_box(space: spaces.Space[Any]) -> spaces.Box:
    """A bounded Box of actions. Raises ValueError for another space.

    >>> checked_box(spaces.Box(-1, 1, (2,))).shape
    (2,)
    """
    if isinstance(space, spaces.Box) and space.is_bounded() and len(space.shape) > 0:
        return space
    raise ValueError(
        f"actions must be a bounded Box; got {space}. Take options or a feudal network for discrete ones."
    )


def scaled_actions(action: Array, space: spaces.Box) -> NDArray[Any]:
    """Actions ``(N, A)`` in [-1, 1] as those of a bounded Box, ``(N, *shape)``.

    >>> scaled_actions(np.array([[0.0], [1.0]], dtype=np.float32), spaces.Box(0, 8, (1,))).tolist()
    [[4.0], [8.0]]
    """
    inside = space.low + (action.reshape(len(action), *space.shape) + 1) / 2 * (space.high - space.low)
    return np.clip(inside, space.low, space.high).astype(space.dtype)
