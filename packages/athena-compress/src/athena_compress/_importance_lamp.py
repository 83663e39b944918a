"""LAMP: magnitudes that may be compared between layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_compress._importance import Importance, precise
from athena_core import as_float64


class Lamp(Importance):
    r"""A weight's share of the squares that are left once all smaller ones of its tensor are pruned.

    .. math:: I(w_u) = \frac{w_u^2}{\sum_{v \ge u} w_v^2}

    with the weights of a tensor in ascending order of magnitude. Each tensor's largest weight scores 1, so
    a global comparison never empties a layer. Where all that is left is 0, the score is 0.

    Source: Lee et al. 2021, arXiv:2010.07611, section 3. Departs from it: no.

    >>> Lamp().scores("weight", torch.nn.Parameter(torch.tensor([1.0, -3.0])))
    tensor([0.1000, 1.0000])
    """

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002
        squares, order = precise(parameter).square().flatten().sort(stable=True)
        wide = as_float64(squares)
        left = wide.flip(0).cumsum(0).flip(0)
        shares = torch.where(left > 0, wide / left.clamp(min=torch.finfo(left.dtype).tiny), 0.0)
        return torch.zeros_like(squares).scatter_(0, order, shares.to(squares)).view(parameter.shape)
