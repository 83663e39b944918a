"""Tasks by how far their losses have come down."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from athena_multitask._task_sampling import TaskSampling


class CurriculumSampling(TaskSampling):
    r"""Tasks whose losses have come down least so far are drawn most.

    .. math:: \bar L_t \leftarrow d \bar L_t + (1 - d) L_t, \qquad r_t = \bar L_t / L_t^0, \qquad
        p = (1 - \epsilon)\,\mathrm{softmax}(r / \tau) + \epsilon / T

    with :math:`L_t^0` a task's first loss, where :math:`\bar L_t` starts, and :math:`r_t = 1` before. Units
    of losses do not matter. Give each step's losses to `update`, of the tasks that it was of.

    Args:
        tasks, seed: see `TaskSampling`.
        temperature: :math:`\tau`; uniform where it is large.
        decay: :math:`d`, how long losses are remembered.
        floor: :math:`\epsilon`, the part that is drawn uniformly, so that no task is left.

    Raises ValueError for options outside their range; in `update` for an unknown task, a loss that is
    negative or not finite, or a first one that is 0.

    Source: Athena's own.

    >>> curriculum = CurriculumSampling(["a", "b"], temperature=0.5, decay=0.0, floor=0.0)
    >>> curriculum.update({"a": 8.0, "b": 3.0})
    >>> curriculum.update({"a": 4.0})
    >>> curriculum.probabilities()  # softmax of 0.5 / 0.5 and 1 / 0.5
    tensor([0.2689, 0.7311], dtype=torch.float64)
    """

    def __init__(
        self,
        tasks: Iterable[str],
        *,
        temperature: float = 0.2,
        decay: float = 0.9,
        floor: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(tasks, seed=seed)
        if not 0 < temperature < math.inf:
            raise ValueError(f"`temperature` must be finite and above 0; got {temperature}. Take 0.2.")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1); got {decay}. Take 0.9.")
        if not 0 <= floor <= 1:
            raise ValueError(f"`floor` must lie in [0, 1]; got {floor}. Take 0.1.")
        self.temperature, self.decay, self.floor = temperature, decay, floor
        self.first = torch.ones(len(self.tasks), dtype=torch.float64)
        self.mean = torch.ones(len(self.tasks), dtype=torch.float64)
        self.seen = torch.zeros(len(self.tasks), dtype=torch.bool)

    def probabilities(self) -> Tensor:
        """By how far losses have come down, ``(tasks,)``."""
        ratios = self.mean / self.first
        return (1 - self.floor) * (ratios / self.temperature).softmax(0) + self.floor / len(self.tasks)

    def update(self, losses: Mapping[str, float | Tensor]) -> None:
        """Take note of the losses of the tasks of a step."""
        taken = [
            (self._place(name), self._checked(name, float(torch.as_tensor(loss).detach())))
            for name, loss in losses.items()
        ]
        for place, loss in taken:
            if self.seen[place]:
                self.mean[place] = self.decay * self.mean[place] + (1 - self.decay) * loss
            else:
                self.first[place] = self.mean[place] = loss
                self.seen[place] = True

    def state_dict(self) -> dict[str, Any]:
        """The names, the generator's state, and what is remembered of losses."""
        remembered = {"first": self.first, "mean": self.mean, "seen": self.seen}
        return {**super().state_dict(), **{name: value.clone() for name, value in remembered.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; raises ValueError for that of other tasks."""
        super().load_state_dict(state)
        self.first, self.mean, self.seen = (state[name].cpu().clone() for name in ("first", "mean", "seen"))

    def _checked(self, name: str, loss: float) -> float:
        lowest = 0.0 if self.seen[self._place(name)] else torch.finfo(torch.float64).tiny
        if not lowest <= loss < math.inf:
            raise ValueError(
                f"`losses[{name!r}]` must be finite and at least 0, and a task's first above 0; got {loss}. "
                "Leave the step out."
            )
        return loss
