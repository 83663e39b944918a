"""Sine waves of random amplitude and phase, on which MAML was first tried."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from athena_meta import _counter as counter
from athena_meta._regression_tasks import Parameters, RegressionTasks

_AMPLITUDES = 0.1, 5.0
_MEAN_AMPLITUDE = sum(_AMPLITUDES) / 2
_MEAN_SQUARE_AMPLITUDE = (_AMPLITUDES[1] ** 3 - _AMPLITUDES[0] ** 3) / (3 * (_AMPLITUDES[1] - _AMPLITUDES[0]))


class Sinusoids(RegressionTasks):
    r"""Tasks :math:`y = A\sin(x - \varphi)`, :math:`A \sim U[0.1, 5]`, :math:`\varphi \sim U[0, \pi]`.

    Inputs are :math:`x \sim U[-5, 5]`. The floors, without noise, are 4.2517 and 3.0057:

    .. math:: E[y^2] = \tfrac12 E[A^2], \qquad E[y \mid x] = -\tfrac2\pi E[A] \cos x, \qquad
        E[y^2] - E\big[E[y \mid x]^2\big] = \tfrac12 E[A^2] - \tfrac{4}{\pi^2} E[A]^2
        \Big(\tfrac12 + \tfrac{\sin 10}{20}\Big).

    The arguments are those of :class:`RegressionTasks`.

    Source: Finn et al. 2017, arXiv:1703.03400, section 5.1. Departs from it: no; the paper leaves the
    sign of the phase open, which here is that of its authors' code. The floors are the same with either.

    >>> tasks = Sinusoids(k_shot=5, n_query=10, seed=0)
    >>> tasks.draw(0, 25).support_x.shape
    torch.Size([25, 5, 1])
    >>> round(tasks.zero_error, 4), round(tasks.unadapted_error, 4)
    (4.2517, 3.0057)
    """

    def _make_parameters(self, key: counter.Words) -> dict[str, NDArray[np.float64]]:
        amplitude, phase = counter.uniform(key, 2).T
        low, high = _AMPLITUDES
        return {"amplitude": low + (high - low) * amplitude, "phase": math.pi * phase}

    def target(self, x: Tensor, parameters: Parameters) -> Tensor:
        amplitude, phase = (parameters[name][:, None, None] for name in ("amplitude", "phase"))
        return amplitude * (x - phase).sin()

    def unadapted(self, x: Tensor) -> Tensor:
        return -2 / math.pi * _MEAN_AMPLITUDE * x.cos()

    @property
    def zero_error(self) -> float:
        # The square of the sine is 1/2 on average, since its phase covers a half period at every x.
        return _MEAN_SQUARE_AMPLITUDE / 2 + self.noise**2

    @property
    def unadapted_error(self) -> float:
        mean_square_cosine = 0.5 + math.sin(10) / 20  # over [-5, 5]
        return self.zero_error - (2 / math.pi * _MEAN_AMPLITUDE) ** 2 * mean_square_cosine
