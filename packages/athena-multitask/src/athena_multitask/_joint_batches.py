"""Batches of all tasks at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from athena_multitask._restarted_loaders import RestartedLoaders
from athena_multitask._task_batches import checked_steps


class JointBatches:
    """One batch of each task a step, by name, as balancing and weighting need them.

    A loader that has ended is begun anew, so that tasks of little data come round more often. See
    `TaskBatches` for going on after a break.

    Args:
        loaders: a ``DataLoader``, or what else can be iterated over again and again, by the task's name.
        steps: steps to give in all.

    Raises ValueError for no loader, two with one generator, a negative number of steps, and in use for a
    loader without batches.

    >>> list(JointBatches({"a": [1, 2], "b": [7]}, steps=3))
    [{'a': 1, 'b': 7}, {'a': 2, 'b': 7}, {'a': 1, 'b': 7}]
    """

    def __init__(self, loaders: Mapping[str, Iterable[Any]], *, steps: int) -> None:
        self._loaders = RestartedLoaders(loaders)
        self.steps = checked_steps(steps)
        self.step = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.step < self.steps:
            batches = {name: self._loaders.take(name) for name in self._loaders.tasks}
            self.step += 1  # before they are given: a state that is asked for in the loop is after them
            yield batches

    def state_dict(self) -> dict[str, Any]:
        """The step, and where each loader is."""
        return {"step": self.step, "loaders": self._loaders.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; raises ValueError for a state of other tasks or of more batches."""
        self._loaders.load_state_dict(state["loaders"])
        self.step = state["step"]
