"""What learning tasks one after another has cost and brought, from the matrix of accuracies.

``accuracies[i, j]`` is that on task ``j`` after training on tasks 0 to ``i``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def average_accuracy(accuracies: ArrayLike) -> float:
    r"""Over all tasks, after the last.

    .. math:: \mathrm{ACC} = \frac1T \sum_i R_{T,i}

    Shape: ``(T, T)``.

    Raises ValueError for another shape, or an accuracy that is needed and NaN.

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equation 2. Departs from it: no.

    >>> average_accuracy([[0.75, 0.1], [0.5, 1.0]])
    0.75
    """
    return float(_known(_square(accuracies)[-1]).mean())


def backward_transfer(accuracies: ArrayLike) -> float:
    r"""What later tasks have done to earlier ones; below 0 they were forgotten.

    .. math:: \mathrm{BWT} = \frac{1}{T-1} \sum_{i<T} (R_{T,i} - R_{i,i})

    Shape: ``(T, T)``.

    Raises ValueError for another shape, fewer than two tasks, or an accuracy that is needed and NaN.

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equation 3. Departs from it: no.

    >>> backward_transfer([[0.75, 0.1], [0.5, 1.0]])
    -0.25
    """
    matrix = _square(accuracies, least=2)
    return float(_known(matrix[-1, :-1] - matrix.diagonal()[:-1]).mean())


def forward_transfer(accuracies: ArrayLike, untrained: ArrayLike) -> float:
    r"""What earlier tasks have done for later ones before these were trained on.

    .. math:: \mathrm{FWT} = \frac{1}{T-1} \sum_{i>1} (R_{i-1,i} - \bar b_i)

    Args:
        accuracies: also on tasks not trained on yet.
        untrained: accuracy on each task of a network with its first weights, :math:`\bar b`.

    Shape: ``(T, T)`` and ``(T,)``.

    Raises ValueError for other shapes, fewer than two tasks, or an accuracy that is needed and NaN.

    Source: Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equation 4. Departs from it: no.

    >>> forward_transfer([[0.75, 0.5], [0.5, 1.0]], [0.1, 0.25])
    0.25
    """
    matrix = _square(accuracies, least=2)
    baseline = np.asarray(untrained, dtype=np.float64)
    if baseline.shape != (len(matrix),):
        raise ValueError(
            f"`untrained` must be ({len(matrix)},), an accuracy a task; got {baseline.shape}. "
            "Test the network before its first task."
        )
    return float(_known(matrix.diagonal(1) - baseline[1:]).mean())


def forgetting(accuracies: ArrayLike) -> float:
    r"""How far below its best each earlier task has fallen, on average.

    .. math:: \frac{1}{T-1} \sum_{j<T} \Big(\max_{j \le l < T} R_{l,j} - R_{T,j}\Big)

    Shape: ``(T, T)``.

    Raises ValueError for another shape, fewer than two tasks, or an accuracy that is needed and NaN.

    Source: Chaudhry et al. 2018, Riemannian walk for incremental learning, arXiv:1801.10112. Departs
    from it: the best is looked for from the task's own training on, not before it.

    >>> forgetting([[0.75, 0.1], [0.5, 1.0]])
    0.25
    """
    matrix = _square(accuracies, least=2)
    last = len(matrix) - 1
    best = np.array([matrix[task:last, task].max() for task in range(last)])  # NaN if one is
    return float(_known(best - matrix[-1, :-1]).mean())


def _square(accuracies: ArrayLike, least: int = 1) -> Matrix:
    matrix = np.asarray(accuracies, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < least:
        tasks = "task" if least == 1 else "tasks"
        raise ValueError(
            f"`accuracies` must be a row and a column for each of at least {least} {tasks}; got "
            f"{matrix.shape}. Test on every task after each."
        )
    return matrix


def _known(values: Matrix) -> Matrix:
    if np.isnan(values).any():
        raise ValueError("`accuracies` must hold all that are needed; got NaN. Test on these tasks too.")
    return values
