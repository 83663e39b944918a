"""Straight lines: the regression tasks of which everything is known in closed form."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_meta import _counter as counter
from athena_meta._regression_tasks import Parameters, RegressionTasks


class Lines(RegressionTasks):
    r"""Tasks :math:`y = ax + b` with slope and intercept :math:`a, b \sim U[-3, 3]`.

    Inputs are :math:`x \sim U[-5, 5]`. The best unadapted predictor is 0, and both floors are
    :math:`E[a^2]E[x^2] + E[b^2] = 3 \cdot \tfrac{25}{3} + 3 = 28` without noise.

    The arguments are those of :class:`RegressionTasks`.

    Source: Finn et al. 2018, arXiv:1806.02817, section 5.1, whose noise is 0.3. Departs from it: lines alone,
    where the paper mixes them with sinusoids.

    >>> tasks = Lines(k_shot=2, n_query=10, seed=0)
    >>> tasks.draw(0, 4).query_y.shape, tasks.zero_error
    (torch.Size([4, 10, 1]), 28.0)
    """

    def _make_parameters(self, key: counter.Words) -> dict[str, NDArray[np.float64]]:
        slope, intercept = 6 * counter.uniform(key, 2).T - 3
        return {"slope": slope, "intercept": intercept}

    def target(self, x: Tensor, parameters: Parameters) -> Tensor:
        slope, intercept = (parameters[name][:, None, None] for name in ("slope", "intercept"))
        return slope * x + intercept

    def unadapted(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @property
    def zero_error(self) -> float:
        return 28.0 + self.noise**2

    @property
    def unadapted_error(self) -> float:
        return self.zero_error
