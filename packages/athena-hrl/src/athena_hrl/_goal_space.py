"""Goals: where they lie, how far apart they are, and when one is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]


def euclidean(achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.float64]:
    r"""How far goals are apart, :math:`\lVert a - g \rVert_2`.

    Shape: ``(..., d), (..., d) -> (...)``.

    >>> float(euclidean(np.zeros(2), np.array([3.0, 4.0])))
    5.0
    """
    difference = np.asarray(achieved, np.float64) - np.asarray(desired, np.float64)
    return np.sqrt((difference * difference).sum(axis=-1))


def hamming(achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.float64]:
    r"""In how many places goals differ, :math:`\sum_i [a_i \ne g_i]`.

    Shape: ``(..., d), (..., d) -> (...)``.

    >>> float(hamming(np.array([0, 1, 1]), np.array([1, 1, 0])))
    2.0
    """
    return (np.asarray(achieved) != np.asarray(desired)).sum(axis=-1).astype(np.float64)


class GoalSpace:
    r"""The goals of a task, with a distance :math:`d` and a tolerance :math:`\epsilon`.

    A goal :math:`g` is reached where :math:`d(a, g) \le \epsilon`, and the sparse reward is

    .. math:: r(a, g) = -[d(a, g) > \epsilon].

    `compute_reward` and `compute_terminated` have the form that gymnasium-robotics gave them, so that an
    environment can take both from here.

    Args:
        space: a Box of one axis, MultiBinary or MultiDiscrete of one, or Discrete.
        distance: "euclidean", "hamming", or a function of achieved and desired goals ``(..., d) -> (...)``;
            left out, it is the former for a Box and the latter for all others.
        tolerance: :math:`\epsilon`.

    Shape: goals ``(..., d)``, distances ``(...)``; goals of Discrete are ``(...)``.

    Raises TypeError for another space, ValueError for an unknown distance, a tolerance below 0, and goals
    that have another shape or lie outside the space, of which the first is named.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 3 (binary rewards of goals). Departs from it:
    no.

    >>> goals = GoalSpace(spaces.Box(-1, 1, (2,)), tolerance=0.1)
    >>> goals.achieved(np.array([[0.0, 0.0], [0.5, 0.0]]), np.array([0.05, 0.0]))
    array([ True, False])
    >>> GoalSpace(spaces.MultiBinary(3)).compute_reward(np.ones(3), np.array([1, 0, 1]), {})
    np.float32(-1.0)
    """

    def __init__(
        self, space: spaces.Space[Any], *, distance: str | Distance | None = None, tolerance: float = 0.0
    ) -> None:
        flat = (
            isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete)
            and len(space.shape) == 1
        )
        if not flat and not isinstance(space, spaces.Discrete):
            raise TypeError(
                "`space` must be Discrete, or a Box, MultiBinary or MultiDiscrete of one axis; got "
                f"{space}. Flatten it."
            )
        if not tolerance >= 0:
            raise ValueError(f"`tolerance` must be at least 0; got {tolerance}.")
        named: dict[Any, Distance] = {"euclidean": euclidean, "hamming": hamming}
        if distance is None:
            distance = "euclidean" if isinstance(space, spaces.Box) else "hamming"
        if not callable(distance) and distance not in named:
            raise ValueError(f'`distance` must be "euclidean", "hamming" or a function; got {distance!r}.')
        self.space, self.tolerance = space, float(tolerance)
        self._metric: Distance = distance if callable(distance) else named[distance]

    def distance(self, achieved: ArrayLike, desired: ArrayLike) -> NDArray[np.float64]:
        """How far goals ``(..., d)`` are apart, ``(...)``."""
        pair = np.asarray(achieved), np.asarray(desired)
        if isinstance(self.space, spaces.Discrete):
            return self._metric(pair[0][..., None], pair[1][..., None])
        for name, goals in zip(("achieved", "desired"), pair, strict=True):
            if goals.shape[-1:] != self.space.shape:
                raise ValueError(
                    f"`{name}` must end in the shape {self.space.shape} of a goal; got {goals.shape}."
                )
        return self._metric(*pair)

    def achieved(self, achieved: ArrayLike, desired: ArrayLike) -> NDArray[np.bool_]:
        """Which desired goals are reached, ``(...)``; a NaN reaches nothing."""
        return np.asarray(self.distance(achieved, desired) <= self.tolerance)

    def compute_reward(self, achieved: ArrayLike, desired: ArrayLike, info: Any) -> NDArray[np.float32]:  # noqa: ARG002
        """0 where the goal is reached, -1 elsewhere, ``(...)``."""
        return np.asarray(self.achieved(achieved, desired), np.float32) - np.float32(1)

    def compute_terminated(self, achieved: ArrayLike, desired: ArrayLike, info: Any) -> NDArray[np.bool_]:  # noqa: ARG002
        """Whether an episode that ends on success has ended, ``(...)``."""
        return self.achieved(achieved, desired)

    def check(self, goals: ArrayLike, name: str = "goal") -> NDArray[Any]:
        """The goals ``(..., d)`` as an array. Raises ValueError for the first that lies outside the space."""
        values = np.asarray(goals)
        axes = len(self.space.shape or ())
        if values.shape[values.ndim - axes :] != (self.space.shape or ()):
            raise ValueError(
                f"`{name}` must end in the shape {self.space.shape} of a goal; got {values.shape}."
            )
        low, high = _bounds(self.space)
        wrong = ~((values >= low) & (values <= high))  # a NaN is on neither side
        if not isinstance(self.space, spaces.Box):
            wrong |= values != np.floor(values)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0].tolist())
            goal = place[: values.ndim - axes]
            where = f" at {goal}" if goal else ""
            raise ValueError(
                f"`{name}` must lie in {self.space}; got {values[goal].tolist()}{where}. Clip it, or widen "
                "the space."
            )
        return values


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    return 0, 1
