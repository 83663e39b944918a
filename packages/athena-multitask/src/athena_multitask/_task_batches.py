"""Batches of several tasks, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from athena_multitask._restarted_loaders import RestartedLoaders
from athena_multitask._task_sampling import TaskSampling


class TaskBatches:
    """Batches of the tasks that are drawn: pairs of a task's name and its next batch.

    A loader that has ended is begun anew. To go on after ``load_state_dict`` gives what would have come
    without the break, if loaders are reproducible and torch's own generator has gone on too: their batches
    are loaded again up to where they were.

    Args:
        loaders: a ``DataLoader``, or what else can be iterated over again and again, by the task's name.
        sampling: which task comes next; of the same tasks. Tell it of losses by its `update`.
        steps: pairs to give in all.

    Raises ValueError for loaders of other tasks than the sampling's, two loaders with one generator, a
    negative number of steps, in use for a loader without batches, and in states for one with
    ``persistent_workers``.

    >>> from athena_multitask import UniformSampling
    >>> batches = TaskBatches({"a": [1, 2], "b": [7]}, UniformSampling(["a", "b"]), steps=4)
    >>> list(batches)
    [('b', 7), ('b', 7), ('a', 1), ('b', 7)]
    """

    def __init__(self, loaders: Mapping[str, Iterable[Any]], sampling: TaskSampling, *, steps: int) -> None:
        self._loaders = RestartedLoaders(loaders)
        if set(sampling.tasks) != set(loaders):
            raise ValueError(
                f"`sampling` must be of the tasks of `loaders`, {list(loaders)}; got {list(sampling.tasks)}. "
                "Make it with these."
            )
        self.sampling = sampling
        self.steps = checked_steps(steps)
        self.step = 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        while self.step < self.steps:
            task = self.sampling.sample()
            batch = self._loaders.take(task)
            self.step += 1  # before the pair is given: a state that is asked for in the loop is after it
            yield task, batch

    def state_dict(self) -> dict[str, Any]:
        """The step, where each loader is, and the sampling's state."""
        sampling = self.sampling.state_dict()
        return {"step": self.step, "loaders": self._loaders.state_dict(), "sampling": sampling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; raises ValueError for a state of other tasks or of more batches."""
        self.sampling.load_state_dict(state["sampling"])
        self._loaders.load_state_dict(state["loaders"])
        self.step = state["step"]


def checked_steps(steps: int) -> int:
    """The number of steps, if it is none or more.

    >>> checked_steps(3)
    3
    """
    if steps < 0:
        raise ValueError(f"`steps` must be at least 0; got {steps}. Give the number of batches.")
    return steps
