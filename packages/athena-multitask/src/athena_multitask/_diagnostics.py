"""What to look at while several tasks are trained: cosines, conflicts and weights over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_multitask._balance import Balanced

Array = NDArray[np.float64]


class TaskHistory:
    r"""Weights of tasks, and cosines between their gradients, step by step.

    Record what `balance` returns, and the weights of a weighting. Each record waits for the values, so take
    every tenth step or so where that costs. What is not known of a task in a step is NaN.

    Args:
        tasks: names of all tasks that may occur.

    Raises ValueError for no task, a name that comes twice, and in use for an unknown one.

    >>> history = TaskHistory(["a", "b"])
    >>> gramian = torch.tensor([[4.0, -2.0], [-2.0, 4.0]])
    >>> history.record(0, balanced=Balanced(("a", "b"), gramian, None, ()), weights={"a": 0.3, "b": 0.7})
    >>> history.cosines[0, 0, 1], history.conflict_rates, history.weights
    (np.float64(-0.5), array([1.]), array([[0.3, 0.7]]))
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self.tasks = tuple(tasks)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f'`tasks` must be names, each once; got {self.tasks!r}. Give ["a", "b"].')
        self._steps: list[int] = []
        self._weights: list[Array] = []
        self._cosines: list[Array] = []

    def record(
        self,
        step: int,
        *,
        balanced: Balanced | None = None,
        weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    ) -> None:
        """Add a step.

        Args:
            step: its number, larger than those before.
            balanced: what `balance` returned. A task whose gradient is not finite is left out of the cosines.
            weights: of tasks by name, or of all in the order of ``tasks``; by default those of ``balanced``.
        """
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"`step` must be larger than {self._steps[-1]}; got {step}. Record each once.")
        count = len(self.tasks)
        cosines, weighted = np.full((count, count), np.nan), np.full(count, np.nan)
        if balanced is not None:
            rows = self._rows(balanced.tasks)
            cosines[np.ix_(rows, rows)] = balanced.cosines.tolist()
            if weights is None and balanced.weights is not None:
                weighted[rows] = balanced.weights.tolist()
        if isinstance(weights, Mapping):
            weighted[self._rows(weights)] = list(weights.values())
        elif weights is not None:
            weighted[:] = self._of_all(weights)
        self._steps.append(step)
        self._weights.append(weighted)
        self._cosines.append(cosines)

    def _rows(self, names: Iterable[str]) -> list[int]:
        if unknown := [name for name in names if name not in self.tasks]:
            raise ValueError(
                f"tasks must be of {list(self.tasks)}; got {unknown[0]!r}. Make the history with all."
            )
        return [self.tasks.index(name) for name in names]

    def _of_all(self, weights: Sequence[float] | Tensor) -> list[float]:
        values = weights.tolist() if isinstance(weights, Tensor) else list(weights)
        if len(values) != len(self.tasks):
            raise ValueError(
                f"`weights` must be of the {len(self.tasks)} tasks; got {len(values)}. Give them by name."
            )
        return values

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps that were recorded, ``(steps,)``."""
        return np.array(self._steps, np.int64)

    @property
    def weights(self) -> Array:
        """Weights, ``(steps, tasks)``."""
        return np.array(self._weights).reshape(-1, len(self.tasks))

    @property
    def cosines(self) -> Array:
        """Cosines, ``(steps, tasks, tasks)``."""
        return np.array(self._cosines).reshape(-1, len(self.tasks), len(self.tasks))

    @property
    def conflict_rates(self) -> Array:
        """The `conflict_rate` of each step, ``(steps,)``."""
        return np.array([conflict_rate(cosines) for cosines in self._cosines])

    def mean_cosines(self) -> Array:
        """The mean over the steps that know each pair, ``(tasks, tasks)``; NaN where none does."""
        cosines = self.cosines
        known = ~np.isnan(cosines)
        total, count = np.where(known, cosines, 0).sum(0), known.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def state_dict(self) -> dict[str, Any]:
        """All that was recorded, as tensors."""
        return {
            "tasks": list(self.tasks),
            "steps": torch.from_numpy(self.steps),
            "weights": torch.from_numpy(self.weights),
            "cosines": torch.from_numpy(self.cosines),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ValueError for one of other tasks."""
        if state["tasks"] != list(self.tasks):
            raise ValueError(
                f"the checkpoint must be of the tasks {list(self.tasks)}; got {state['tasks']}. "
                "Make the history with these, in this order."
            )
        self._steps = state["steps"].tolist()
        self._weights = list(state["weights"].numpy().copy())
        self._cosines = list(state["cosines"].numpy().copy())


def conflict_rate(cosines: Tensor | Array) -> float:
    r"""The share of pairs of tasks whose gradients point against each other.

    .. math:: \frac{|\{i < j : \cos(g_i, g_j) < 0\}|}{|\{i < j\}|}

    over the pairs that are known, that is not NaN; NaN if there is none. A zero gradient conflicts with none.

    Shape: ``(tasks, tasks) -> ()``.

    Source: Yu et al. 2020, arXiv:2001.06782, definition 1 (conflicting gradients). Departs from it: the share
    is ours.

    >>> conflict_rate(torch.tensor([[1.0, -0.1, 0.2], [-0.1, 1.0, 0.0], [0.2, 0.0, 1.0]]))
    0.3333333333333333
    """
    values = np.asarray(cosines.tolist() if isinstance(cosines, Tensor) else cosines, np.float64)
    pairs = values[np.triu_indices(len(values), k=1)]
    known = pairs[~np.isnan(pairs)]
    return float((known < 0).mean()) if len(known) else math.nan
