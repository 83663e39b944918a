"""Transitions as records: all that is stored of one lies together, and one gather brings it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_ACHIEVED, _DESIRED, _NEXT_DESIRED = "next_obs.achieved_goal", "obs.desired_goal", "next_obs.desired_goal"


class TransitionRecords:
    """Rows of transitions of an environment with goals.

    A record has ``obs`` and ``next_obs`` with each key of the observations, ``action``, ``reward`` and
    ``end``: 0 where the episode goes on, 1 terminated, 2 truncated, 3 both.

    Args:
        rows: how many.
        observation_space: a Dict with goals.
        action_space: of one environment.

    >>> space = spaces.Dict({key: spaces.MultiBinary(2) for key in ("achieved_goal", "desired_goal")})
    >>> records = TransitionRecords(3, space, spaces.Discrete(2))
    >>> records.fields["next_obs.achieved_goal"][:] = [[0, 0], [1, 0], [1, 1]]
    >>> taken = records.take(np.array([2, 0]))
    >>> taken["next_obs.achieved_goal"].tolist(), records.relabel(taken, np.array([1])).tolist()
    ([[1, 1], [0, 0]], [[1, 0]])
    >>> taken["obs.desired_goal"].tolist(), taken["next_obs.desired_goal"].tolist()
    ([[1, 0], [0, 0]], [[1, 0], [0, 0]])
    """

    def __init__(self, rows: int, observation_space: spaces.Dict, action_space: spaces.Space[Any]) -> None:
        fields: list[Any] = []
        for name in ("obs", "next_obs"):
            for key, space in observation_space.spaces.items():
                fields.append((f"{name}.{key}", space.dtype, space.shape or ()))
        fields += [("action", action_space.dtype, action_space.shape or ())]
        fields += [("reward", np.float32), ("end", np.uint8)]
        self.stored = np.zeros(rows, np.dtype(fields, align=True))
        self._look()

    def _look(self) -> None:
        self.fields: dict[str, NDArray[Any]] = {
            name: self.stored[name] for name in self.stored.dtype.names or ()
        }
        keys = [name[4:] for name in self.fields if name.startswith("obs.")]
        #: each key of observations, and what it is called before and after the action
        self.names = [(key, f"obs.{key}", f"next_obs.{key}") for key in keys]
        self.observations = [
            (key, self.fields[before], self.fields[after]) for key, before, after in self.names
        ]
        self.action, self.reward, self.end = (self.fields[name] for name in ("action", "reward", "end"))
        self._goals = _as_bytes(self.stored.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"stored": self.stored}  # copies and pickles would tear views from it

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.stored = state["stored"]
        self._look()

    def check(self, obs: Mapping[str, Any], count: int, name: str) -> None:
        """Raise ValueError for observations that are not ``(count, ...)``, or of one without its axis."""
        for key, stored, _ in self.observations:
            shape, expected = np.shape(obs[key]), stored.shape[1:]
            if shape != (count, *expected) and (count > 1 or shape != expected):
                raise ValueError(f"`{name}[{key!r}]` must have the shape {(count, *expected)}; got {shape}.")

    def take(self, row: NDArray[np.int64]) -> NDArray[Any]:
        """The records of these rows, ``(B,)``, as a copy."""
        return self.stored.take(row)

    def relabel(self, taken: NDArray[Any], goal_row: NDArray[np.int64]) -> NDArray[Any]:
        """Write the next achieved goals of some rows to the first records taken; the goals, ``(H, ...)``."""
        goals = self.stored.view(self._goals)[_ACHIEVED][goal_row]
        written = taken[: len(goal_row)].view(self._goals)
        written[_DESIRED] = written[_NEXT_DESIRED] = goals
        kind = self.fields[_ACHIEVED]
        return goals.view(kind.dtype).reshape(len(goal_row), *kind.shape[1:])

    def state_dict(self, filled: int) -> dict[str, Any]:
        """The first ``filled`` rows, an array for each field."""
        return {name: part[:filled].copy() for name, part in self.fields.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for that of other spaces."""
        shapes, given = (
            {name: np.shape(part)[1:] for name, part in one.items()} for one in (self.fields, state)
        )
        if shapes != given:
            raise ValueError(
                f"`state` must hold {shapes}; got {given}. Take that of a buffer of these spaces."
            )
        for name, part in self.fields.items():
            part[: len(state[name])] = np.asarray(state[name])


def _as_bytes(record: np.dtype[Any]) -> np.dtype[Any]:
    """A record as three goals of so many bytes each: they are copied twice as fast as arrays of numbers."""
    assert record.fields is not None
    names: list[Any] = [_ACHIEVED, _DESIRED, _NEXT_DESIRED]
    fields = [record.fields[name] for name in names]
    formats = [np.dtype((np.void, kind.itemsize)) for kind, *_ in fields]
    offsets = [at for _, at, *_ in fields]
    layout: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": record.itemsize}
    return np.dtype(layout)
