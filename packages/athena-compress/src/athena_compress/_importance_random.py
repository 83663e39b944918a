"""Random importance: the baseline that every other one must beat."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor, nn

from athena_compress._importance import Importance
from athena_compress._sparsity_schedule import check_whole


class RandomImportance(Importance):
    r"""Uniform scores in [0, 1), :math:`I(w) \sim U(0, 1)`, that depend on the seed and the name alone.

    They are drawn on the CPU by a generator of their own: the global ones are left alone, and the order is
    the same on every device and after a resume.

    Args:
        seed: a whole number from 0 on.

    Raises TypeError or ValueError for another seed.
    Source: Athena's own, as a baseline. Departs from it: no.

    >>> weight = torch.nn.Parameter(torch.zeros(3))
    >>> first, again = (RandomImportance(seed=1).scores("weight", weight) for _ in range(2))
    >>> bool((first == again).all())
    True
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        check_whole("seed", seed, 0)
        self.seed = seed

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        # torch's generator on the CPU reads the low 32 bits of a seed alone.
        generator = torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))
        return torch.rand(parameter.shape, generator=generator).to(parameter.device)
