"""Tasks by a root of how much data they have."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from athena_multitask._task_sampling import TaskSampling, checked_data_sizes


class TemperatureSampling(TaskSampling):
    r"""Tasks by a root of how much data they have: between by data and uniform.

    .. math:: p_t = \frac{n_t^{1/\tau}}{\sum_s n_s^{1/\tau}}

    :math:`\tau = 1` is `ProportionalSampling`, and :math:`\tau \to \infty` is `UniformSampling`.

    Args:
        sizes: number of examples of each task, by name.
        temperature: :math:`\tau`; the paper of multilingual translation takes 5.
        seed: see `TaskSampling`.

    Raises ValueError for no task, one without examples, or a temperature that is not positive.

    Source: Arivazhagan et al. 2019, arXiv:1907.05019 (sampling by temperature); Raffel et al. 2020,
    arXiv:1910.10683, section 3.5.2 (temperature-scaled mixing). Departs from them: no limit of sizes.

    >>> TemperatureSampling({"a": 81, "b": 1}, temperature=4.0).probabilities()
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, sizes: Mapping[str, int], *, temperature: float = 5.0, seed: int = 0) -> None:
        super().__init__(sizes, seed=seed)
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"`temperature` must be finite and above 0; got {temperature}. Take 1 for by data."
            )
        # Logarithms, as a power of a large size with a small temperature leaves float64.
        self.logits = checked_data_sizes(sizes).log() / temperature

    def probabilities(self) -> Tensor:
        """By roots of the number of examples, ``(tasks,)``."""
        return self.logits.softmax(0)
