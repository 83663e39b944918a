"""MTAN's attention module: a task's soft mask over features that all tasks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TaskAttention(nn.Module):
    r"""Shared features, each weighted by a number between 0 and 1 that the task computes.

    .. math:: \hat a = \sigma(m([u; f(\hat a')])) \odot p

    with :math:`u` and :math:`p` what the two parts of a shared stage give, and :math:`\hat a'` the task's
    masked features of the stage before; the first stage has none, and :math:`m(u)` alone. Features are joined
    along axis 1.

    Args:
        mask: from the joined features to logits that have, or broadcast to, the shape of :math:`p`;
            `mask_network` makes the paper's.
        link: from the stage before to what is joined to :math:`u`; None in the first stage.

    Shape: ``u`` is ``(B, C, ...)``, ``p`` and the result ``(B, D, ...)``.

    Source: Liu et al. 2019, arXiv:1803.10704, equations 1 and 2. Departs from it: no.

    >>> attention = TaskAttention(nn.Linear(3, 2))
    >>> attention(torch.ones(4, 3), torch.ones(4, 2), None).shape
    torch.Size([4, 2])
    """

    def __init__(self, mask: nn.Module, link: nn.Module | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.link = link

    def forward(self, u: Tensor, p: Tensor, previous: Tensor | None) -> Tensor:
        """The masked features of this stage."""
        if self.link is not None:
            u = torch.cat([u, self.link(previous)], dim=1)
        return masked(p, self.mask(u))


def masked(features: Tensor, logits: Tensor) -> Tensor:
    r"""Features under a soft mask, :math:`\sigma(l) \odot p`.

    Shape: as the features.

    Source: Liu et al. 2019, arXiv:1803.10704, equation 1. Departs from it: no.

    >>> masked(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 100.0]))
    tensor([1., 2.])
    """
    return logits.sigmoid().to(features.dtype) * features


def mask_network(width: int, channels: int, *, image: bool = False) -> nn.Sequential:
    """The paper's mask: two maps of each place's channels, each followed by batch normalisation.

    Args:
        width: channels of the joined features.
        channels: channels of the features to mask, and between the two maps.
        image: maps are convolutions of one pixel, for ``(B, C, height, width)``; else linear, for ``(B, C)``.

    Source: Liu et al. 2019, arXiv:1803.10704, section 3.2. Departs from it: in its linear form for vectors.

    >>> mask_network(3, 8, image=True)(torch.ones(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """
    if image:
        first, second = nn.Conv2d(width, channels, 1), nn.Conv2d(channels, channels, 1)
        norms: list[nn.Module] = [nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)]
    else:
        first, second = nn.Linear(width, channels), nn.Linear(channels, channels)
        norms = [nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)]
    return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])
