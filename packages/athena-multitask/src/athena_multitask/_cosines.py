"""A Gramian as the cosines and lengths of its gradients, on the host."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


class Cosines(NamedTuple):
    """Cosines between gradients, with a diagonal of 1; their lengths; and what is told apart from zero.

    >>> Cosines(np.eye(1), np.ones(1), 1e-15).lengths
    array([1.])
    """

    cosines: Array
    lengths: Array
    resolution: float


def cosines_of(gramian: Tensor) -> Cosines:
    r"""Cosines :math:`C_{ij} = G_{ij} / (\|g_i\| \|g_j\|)` and lengths :math:`\|g_i\| = \sqrt{G_{ii}}`.

    What is solved in them, is solved as well for gradients of which some are 1e10 times others. They are
    copied to the host, in float64: a few hundred numbers, which devices without float64 could not hold.
    A gradient of zero has the cosine 0 with all others.

    Shape: ``(tasks, tasks) -> (tasks, tasks), (tasks,)``.

    Raises ValueError for a Gramian that is not square or not finite.

    >>> cosines_of(torch.tensor([[4.0, -1.0], [-1.0, 1.0]])).cosines
    array([[ 1. , -0.5],
           [-0.5,  1. ]])
    """
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or not len(gramian):
        raise ValueError(
            f"`gramian` must be (tasks, tasks); got {tuple(gramian.shape)}. Pass `matrix @ matrix.T`."
        )
    held = gramian.float() if gramian.dtype == torch.bfloat16 else gramian  # NumPy has no bfloat16
    values = held.numpy(force=True).astype(np.float64)
    lengths = np.sqrt(np.maximum(values.diagonal(), 0.0))
    divisors = lengths if lengths.all() else np.where(lengths == 0, 1.0, lengths)
    cosines = values / (divisors[:, None] * divisors)
    if not isfinite(cosines.sum()):
        raise ValueError(
            f"`gramian` must be finite; got tasks {_not_finite(values)} that are not. Leave their losses out."
        )
    cosines.reshape(-1)[:: len(cosines) + 1] = 1.0
    resolution = 8 * len(values) * torch.finfo(gramian.dtype).eps
    return Cosines(cosines, lengths, resolution)


def weights_like(weights: Array, gramian: Tensor) -> Tensor:
    """Weights in the type and on the device of the Gramian, by way of nothing the device could not hold.

    >>> weights_like(np.array([0.5]), torch.ones(1, 1))
    tensor([0.5000])
    """
    held = weights if gramian.dtype == torch.float64 else weights.astype(np.float32)
    return torch.from_numpy(held).to(gramian.device, gramian.dtype)


def _not_finite(values: Array) -> list[int]:
    return np.flatnonzero(~np.isfinite(values.diagonal())).tolist()
