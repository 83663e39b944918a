"""GradDrop: in each coordinate, keep gradients of one sign."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from athena_multitask._balancer import Balancer


class GradDrop(Balancer):
    r"""Draw a sign for each coordinate, and sum what has that sign.

    .. math:: P = \tfrac{1}{2} \Bigl(1 + \frac{\sum_i g_i}{\sum_i |g_i|}\Bigr), \qquad
        d = \sum_i \bigl(\ell + (1 - \ell)\, m_i\bigr) \odot g_i, \qquad
        m_i = [P > U]\,[g_i > 0] + [P \le U]\,[g_i < 0], \quad U \sim \mathcal{U}(0, 1)

    Args:
        leak: the part :math:`\ell` of gradients of the other sign that is kept, in [0, 1].
        seed: of the signs.

    Shape: see `Balancer`; only `direction` is there.

    Raises ValueError for a leak outside its range or a matrix that is not finite, TypeError for a Gramian.

    Source: Chen et al. 2020, arXiv:2010.06808, equations 1 and 2 and algorithm 1. Departs from it: it is
    applied to gradients of parameters, not of activations; one leak for all tasks.

    >>> matrix = torch.tensor([[1.0, 2.0, -3.0], [1.0, -2.0, -1.0]])
    >>> GradDrop(seed=0).direction(matrix)
    tensor([ 2., -2., -4.])
    """

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling"})
    needs_matrix: ClassVar[bool] = True

    def __init__(self, *, leak: float = 0.0, seed: int = 0) -> None:
        if not 0 <= leak <= 1:
            raise ValueError(f"`leak` must lie in [0, 1]; got {leak}. Take 0 to keep one sign.")
        self.leak = leak
        self.generator = torch.Generator().manual_seed(seed)

    def weights(self, gramian: Tensor) -> Tensor:
        raise TypeError(
            f"`GradDrop` needs the gradients; got their Gramian, {tuple(gramian.shape)}. Call `direction`."
        )

    def direction(self, matrix: Tensor) -> Tensor:
        drawn = torch.rand(matrix.shape[1], generator=self.generator)
        return graddrop_direction(matrix, drawn.to(matrix.device), leak=self.leak)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())


def graddrop_direction(matrix: Tensor, drawn: Tensor, *, leak: float = 0.0) -> Tensor:
    r"""The direction for numbers :math:`U` that were drawn.

    With :math:`S = \sum_i g_i` and :math:`A = \sum_i |g_i|`, positive gradients sum to :math:`(A + S) / 2`
    and negative ones to :math:`(S - A) / 2`, so that no second matrix is needed.

    Shape: ``(tasks, parameters), (parameters,) -> (parameters,)``.

    Raises ValueError for a matrix that is not finite.

    >>> matrix = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    >>> graddrop_direction(matrix, torch.tensor([0.5, 0.9])), graddrop_direction(matrix, torch.zeros(2))
    (tensor([ 4., -1.]), tensor([4., 2.]))
    """
    total = matrix.sum(0)
    size = matrix[0].abs()
    for row in matrix[1:]:
        size += row.abs()
    if not size.isfinite().all():
        raise ValueError("`matrix` must be finite; got NaN or inf. Leave the task out that has it.")
    positive = (1 + total / torch.where(size > 0, size, 1)) / 2 > drawn
    kept = (total + torch.where(positive, size, -size)) / 2
    return leak * total + (1 - leak) * kept
