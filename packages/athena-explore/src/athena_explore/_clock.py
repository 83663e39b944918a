"""The number of each transition since the start, by which a bonus may decay."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Clock(nn.Module):
    r"""Numbers transitions over all environments, :math:`t = 1, 2, \dots`; rows not valid take no time.

    Args:
        decay: :math:`\kappa`, of the factor :math:`(1 - \kappa)^{t - 1}`, 1 at the first transition.

    Shape: ``valid`` is ``(T, N)``, and so are the numbers, in int64.

    Raises ValueError if ``decay`` lies outside [0, 1).

    >>> clock = Clock(decay=0.5)
    >>> times, after = clock(torch.tensor([[True, False], [True, True]]))
    >>> times.tolist()
    [[1, 1], [2, 3]]
    >>> clock.factor(times).tolist()
    [[1.0, 1.0], [0.5, 0.25]]
    """

    passed: Tensor

    def __init__(self, *, decay: float = 0.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1); got {decay}. Take 1e-5, or 0 for none.")
        self.decay = decay
        self.register_buffer("passed", torch.zeros((), dtype=torch.int64))

    def forward(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The number of each row, and what `commit` keeps; changes nothing."""
        numbers = self.passed + valid.flatten().long().cumsum(0).view(valid.shape)
        return numbers, self.passed + valid.sum()

    def commit(self, after: Tensor) -> None:
        """Become what ``forward`` said."""
        self.passed.copy_(after)

    def factor(self, times: Tensor) -> Tensor:
        """What the bonus is multiplied by at these times."""
        return torch.exp((times - 1).clamp(min=0) * math.log1p(-self.decay))
