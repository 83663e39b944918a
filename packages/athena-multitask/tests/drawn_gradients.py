"""Gradients of several tasks, of every kind on which solvers have failed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

KINDS = (
    "plain",
    "rank-deficient",
    "rank-deficient, agreeing",
    "duplicates",
    "nearly opposed",
    "opposed",
    "zeros",
    "uneven",
    "huge",
    "tiny",
    "nearly equal",
    "conflicting",
)
TASKS = (1, 2, 3, 8, 50)


def drawn_gradients(kind: str, tasks: int, *, seed: int) -> Array:
    """A matrix ``(tasks, parameters)`` in float64."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(tasks, 3 * tasks + 2))
    half, rank = tasks // 2, max(1, tasks // 2)
    if kind.startswith("rank-deficient"):
        matrix = rng.normal(size=(tasks, rank))
        if kind.endswith("agreeing"):  # in one coordinate, so that some direction is good for all
            matrix[:, 0] = 3 * abs(matrix[:, 0]) + 0.1
    elif kind == "duplicates":
        matrix[half:] = matrix[: tasks - half]
    elif kind == "nearly opposed":
        matrix[half : 2 * half] = -matrix[:half] + 1e-3 * matrix[half : 2 * half]
    elif kind == "opposed" and tasks > 1:
        matrix[1] = -2 * matrix[0]
    elif kind == "zeros":
        matrix[::3] = 0
    elif kind == "nearly equal":
        matrix = matrix[0] + 1e-6 * matrix
    elif kind == "conflicting":
        matrix = matrix - 3 * matrix.mean(axis=0)
    scale = {"uneven": 10 ** rng.uniform(-10, 10, size=(tasks, 1)), "huge": 1e10, "tiny": 1e-10}
    return matrix * scale.get(kind, 1.0)


def gramian(matrix: Array) -> Tensor:
    """Of their inner products, in float64."""
    return torch.from_numpy(matrix @ matrix.T)
