"""Sums of two sine waves, of which each task shows another stretch."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_meta import _counter as counter
from athena_meta._regression_tasks import Parameters, RegressionTasks


class Harmonics(RegressionTasks):
    r"""Tasks :math:`y = a_1\sin(\omega x + b_1) + a_2\sin(2\omega x + b_2)`.

    :math:`\omega \sim U[5, 7]`, :math:`a_1, a_2 \sim N(0, 1)`, :math:`b_1, b_2 \sim U[0, 2\pi]`, and inputs
    :math:`x \sim N(\mu, 1)` with :math:`\mu \sim U[-4, 4]` for each task. The best unadapted predictor is 0,
    and both floors are :math:`\tfrac12 E[a_1^2] + \tfrac12 E[a_2^2] = 1` without noise.

    The arguments are those of :class:`RegressionTasks`.

    Source: Lacoste et al. 2018, arXiv:1806.07528, whose noise is 0.1. Departs from it: no.

    >>> tasks = Harmonics(k_shot=16, n_query=10, seed=0)
    >>> sorted(tasks.parameters(0, 4)), tasks.zero_error
    (['a_1', 'a_2', 'b_1', 'b_2', 'center', 'frequency'], 1.0)
    """

    def _make_parameters(self, key: counter.Words) -> dict[str, NDArray[np.float64]]:
        frequency, center, b_1, b_2 = counter.uniform(counter.keys(key, 0), 4).T
        a_1, a_2 = counter.normal(counter.keys(key, 1), 2).T
        phases = {"b_1": 2 * math.pi * b_1, "b_2": 2 * math.pi * b_2}
        return {"frequency": 5 + 2 * frequency, "center": 8 * center - 4, "a_1": a_1, "a_2": a_2, **phases}

    def _inputs(self, key: counter.Words, parameters: Parameters, count: int) -> NDArray[np.float64]:
        return parameters["center"].numpy()[:, None] + counter.normal(key, count)

    def target(self, x: Tensor, parameters: Parameters) -> Tensor:
        names = ("frequency", "a_1", "a_2", "b_1", "b_2")
        frequency, a_1, a_2, b_1, b_2 = (parameters[name][:, None, None] for name in names)
        return a_1 * (frequency * x + b_1).sin() + a_2 * (2 * frequency * x + b_2).sin()

    def unadapted(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @property
    def zero_error(self) -> float:
        return 1.0 + self.noise**2

    @property
    def unadapted_error(self) -> float:
        return self.zero_error
