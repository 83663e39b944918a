"""Tasks by how much data they have."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from athena_multitask._task_sampling import TaskSampling, checked_data_sizes


class ProportionalSampling(TaskSampling):
    r"""Tasks by how much data they have, so that all examples are seen as often.

    .. math:: p_t = \frac{\min(n_t, K)}{\sum_s \min(n_s, K)}

    Args:
        sizes: number of examples of each task, by name.
        limit: the most that a task counts for, :math:`K`, so that a huge one does not drown the others; None
            is no limit.
        seed: see `TaskSampling`.

    Raises ValueError for no task, one without examples, or a limit below 1.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2 (examples-proportional mixing). Departs from
    it: no.

    >>> ProportionalSampling({"a": 90, "b": 10}).probabilities()
    tensor([0.9000, 0.1000], dtype=torch.float64)
    >>> ProportionalSampling({"a": 90, "b": 10}, limit=30).probabilities()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, sizes: Mapping[str, int], *, limit: int | None = None, seed: int = 0) -> None:
        super().__init__(sizes, seed=seed)
        if limit is not None and limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {limit}. Pass None for none.")
        known = checked_data_sizes(sizes)
        self.sizes = known if limit is None else known.clamp(max=limit)

    def probabilities(self) -> Tensor:
        """By the number of examples, ``(tasks,)``."""
        return self.sizes / self.sizes.sum()
