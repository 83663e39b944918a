"""Magnitude: small weights matter little."""

from __future__ import annotations

from torch import Tensor, nn

from athena_compress._importance import Importance, precise


class Magnitude(Importance):
    r"""Large weights matter: :math:`I(w) = |w|^p`.

    A unit's score, the sum over its elements, is the L1 norm of its weights for :math:`p = 1` and the
    squared L2 norm for :math:`p = 2`. For single weights both give one order.

    Args:
        norm: :math:`p`, 1 or 2.

    Raises ValueError for another norm.
    Source: Han et al. 2015, arXiv:1506.02626, section 3; for filters Li et al. 2016, arXiv:1608.08710,
    section 3.1. Departs from it: no.

    >>> import torch
    >>> Magnitude(norm=1).scores("weight", torch.nn.Parameter(torch.tensor([1.0, -2.0])))
    tensor([1., 2.])
    """

    def __init__(self, *, norm: int = 2) -> None:
        super().__init__()
        if norm not in (1, 2):
            raise ValueError(f"`norm` must be 1 or 2; got {norm!r}. 2 is usual for channels.")
        self.norm = norm

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002
        return precise(parameter).abs() if self.norm == 1 else precise(parameter).square()
