"""Which task an observation is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TaskOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OneHotTask:
    r"""The task of observations that end in its one-hot code, :math:`\arg\max_k o_{d - n + k}`.

    Args:
        n_tasks: the length of the code; with 1 there is none.

    Shape: ``(batch, d) -> (batch,)``.

    >>> OneHotTask(2)(torch.tensor([[0.3, 9.0, 1.0, 0.0], [0.2, 7.0, 0.0, 1.0]]))
    tensor([0, 1])
    """

    n_tasks: int

    def __call__(self, obs: Tensor) -> Tensor:
        if self.n_tasks == 1:
            return torch.zeros(len(obs), dtype=torch.long, device=obs.device)
        return obs[:, -self.n_tasks :].argmax(1)

    def check(self, obs: Tensor) -> None:
        """Raise ValueError for observations that do not end in such a code."""
        code = obs.reshape(len(obs), -1)[:, -self.n_tasks :]
        if self.n_tasks == 1 or (code.shape[1] == self.n_tasks and bool(_is_one_hot(code))):
            return
        raise ValueError(
            f"`env` must give observations that end in the one-hot code of {self.n_tasks} tasks; got "
            f"{code[0].tolist()} there. Append it, or pass `task_of`."
        )


def _is_one_hot(code: Tensor) -> Tensor:
    return ((code == 0) | (code == 1)).all() & (code.sum(1) == 1).all()
