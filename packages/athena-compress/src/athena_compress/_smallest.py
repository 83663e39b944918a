"""Where the smallest of many scores are, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.compiler import is_compiling

from athena_core import op

_transforms_active = torch._C._are_functorch_transforms_active


def smallest(scores: Tensor, count: int) -> Tensor:
    r"""Where the ``count`` smallest scores are; of equal ones the first come first. Boolean, flat.

    .. math:: m_i = [s_i < t] \lor [s_i = t]\,[\#\{j \le i : s_j = t\} \le c - \#\{j : s_j < t\}], \qquad
              t = s_{(c)}

    0 and -0 are equal. Among fewer than ``count`` numbers, the others being NaN, none is found.

    Shape: ``(...) -> (elements,)``. Raises ValueError if ``count`` exceeds the number of elements.
    Source: Athena's own. Departs from it: no.

    >>> smallest(torch.tensor([2.0, 1.0, 1.0, 1.0]), 2)
    tensor([False,  True,  True, False])
    """
    if count > scores.numel():
        raise ValueError(
            f"`count` must be at most {scores.numel()}, the number of `scores`; got {count}. Lower it."
        )
    return _op(scores, count)


def _smallest(scores: Tensor, count: int) -> Tensor:
    scores = scores.flatten()
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values
    found, ties = scores < threshold, scores == threshold
    if _listable(scores):
        found[ties.nonzero().flatten()[: count - int(found.sum())]] = True
        return found
    number = ties.cumsum(0, dtype=torch.int32 if len(ties) < 2**31 else torch.int64)
    return found | (ties & (number <= count - found.sum()))


def _listable(scores: Tensor) -> bool:
    """Whether the ties may be listed, a tenth faster than numbering all scores.

    Elsewhere one would wait for a device, and compilers and transforms need shapes that are known.
    """
    return scores.is_cpu and type(scores) is Tensor and not is_compiling() and not _transforms_active()


def _samples(device: str, dtype: torch.dtype, generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
    """Scores on which kernels are compared: odd, empty and strided; ties, infinities, and every count."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    yield draw(1), 1
    yield draw(0, 3), 0
    for count in (0, 1, 8, 15):
        yield draw(3, 5), count
    tied = torch.randint(-2, 3, (129,), generator=generator).to(device, dtype)
    yield tied, 60
    yield -tied.abs(), 100  # where -0 and 0 meet
    tied = tied.clone()
    tied[::3], tied[::7] = -torch.inf, torch.inf
    yield tied, 20
    yield tied, 120
    yield draw(7, 4).mT, 13


_op = op(
    "athena_compress::smallest(Tensor scores, int count) -> Tensor",
    reference=_smallest,
    samples=_samples,
    differentiable=False,
)
