"""Every task as often."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_multitask._task_sampling import TaskSampling


class UniformSampling(TaskSampling):
    r"""Every task as often, whatever its data: :math:`p_t = 1/T`.

    Args:
        tasks, seed: see `TaskSampling`.

    Raises ValueError for no task, or a name that comes twice.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2 (equal mixing). Departs from it: no.

    >>> UniformSampling(["a", "b"]).probabilities()
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def probabilities(self) -> Tensor:
        """The same for all, ``(tasks,)``."""
        return torch.full((len(self.tasks),), 1 / len(self.tasks), dtype=torch.float64)
