"""What policies say where actions are Discrete: a number, or a probability for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array = NDArray[np.float64]


class DiscreteActions:
    """The actions of a Discrete space, read from what the policies of options give.

    Raises ValueError, in all methods, for what is neither actions nor probabilities.

    >>> actions = DiscreteActions(spaces.Discrete(2))
    >>> actions.drawn(np.array([[0.9, 0.1], [0.0, 1.0]]), np.array([0.5, 0.5]))
    array([0, 1])
    """

    def __init__(self, space: spaces.Discrete) -> None:
        self.space, self.first, self.count = space, int(space.start), int(space.n)

    def checked(self, found: NDArray[Any]) -> NDArray[np.int64]:
        """Actions of any shape."""
        number = found - self.first if found.dtype.kind in "iu" else np.array([-1])
        if not ((number >= 0) & (number < self.count)).all():
            raise self._error(found)
        return found.astype(np.int64)

    def chances(self, found: NDArray[Any]) -> Array:
        """Probabilities ``(N, A)`` of actions ``(N,)``, or of probabilities that sum to about 1."""
        if found.ndim == 1:
            return np.eye(self.count)[self.checked(found) - self.first]
        fits = found.ndim == 2 and found.shape[1] == self.count and found.dtype.kind == "f"
        if not (fits and (found >= 0).all() and np.allclose(found.sum(1), 1, atol=1e-5)):
            raise self._error(found)
        return found / found.sum(1, keepdims=True, dtype=np.float64)

    def cumulative(self, found: NDArray[Any]) -> Array:
        """Sums of `chances` that reach 1 with the last positive one: what has no chance is never drawn."""
        sums = np.cumsum(self.chances(found), 1)
        return np.where(sums > 1 - 1e-12, 1.0, sums)

    def drawn(self, found: NDArray[Any], uniform: Array | None) -> NDArray[np.int64]:
        """Actions ``(N,)`` as they are, or drawn from probabilities ``(N, A)`` by numbers in [0, 1)."""
        if found.ndim == 1:
            return self.checked(found)
        return self.drawn_below(self.cumulative(found), uniform)

    def drawn_below(self, cumulative: Array, uniform: Array | None) -> NDArray[np.int64]:
        """Actions ``(N,)`` of `cumulative` probabilities ``(N, A)``."""
        return (cumulative <= needed(uniform)[:, None]).sum(1) + self.first

    def _error(self, found: Any) -> ValueError:
        return ValueError(
            f"`policy` must give an action of {self.space}, or a probability for each; got "
            f"{one_line(found)}. Take options of this environment."
        )


def probabilities(values: NDArray[Any], name: str = "`termination`") -> NDArray[Any]:
    """The same numbers. Raises ValueError if one lies outside [0, 1].

    >>> probabilities(np.array([0.0, 1.0]))
    array([0., 1.])
    """
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} must give a probability, in [0, 1]; got {one_line(values)}.")
    return values


def needed(uniform: Array | None) -> Array:
    """The same numbers. Raises ValueError if there are none.

    >>> needed(np.array([0.5]))
    array([0.5])
    """
    if uniform is None:
        raise ValueError(
            "`uniform` must hold a number in [0, 1) for each row, since these options draw; got None. See "
            "`stochastic`."
        )
    return uniform


def one_line(value: Any) -> str:
    """A value as text without line breaks, for errors.

    >>> one_line(np.eye(2))
    '[[1. 0.] [0. 1.]]'
    """
    return " ".join(str(value).split())
