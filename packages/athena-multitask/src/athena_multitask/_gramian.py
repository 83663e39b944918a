"""Inner products of the gradients of several tasks."""

from __future__ import annotations

import torch
from torch import Tensor


def gramian_of(matrix: Tensor) -> Tensor:
    """Inner products of the rows, in float32 at least.

    Shape: ``(tasks, parameters) -> (tasks, tasks)``.

    >>> gramian_of(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[25.,  4.],
            [ 4.,  1.]])
    """
    if matrix.dtype not in (torch.float16, torch.bfloat16):
        return matrix @ matrix.T
    gramian = torch.zeros(len(matrix), len(matrix), device=matrix.device)
    for part in matrix.split(2**16, dim=1):  # a copy of all in float32 would be twice the matrix
        gramian += part.float() @ part.float().T
    return gramian
