"""Embedding: the op that looks rows of a table up, and the layer that holds the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import op


def _samples(
    device: str, dtype: torch.dtype, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, int | None]]:
    """Inputs on which kernels are compared: repeated, missing and padding ids, one id alone, none."""
    for words, width, shape, padding_idx in (
        (5, 3, (2, 7), None),
        (5, 64, (40,), 4),
        (11, 257, (3, 5, 2), -11),
        (1, 1, (), None),
        (2, 6, (300,), 0),
        (4, 8, (0, 3), None),
        (3, 0, (5,), None),
    ):
        weight = torch.randn(words, width, generator=generator).to(device, dtype)
        ids = torch.randint(words, shape, generator=generator)
        yield weight, ids.to(device), padding_idx
        yield weight, ids.int().to(device), padding_idx
    yield weight.new_ones(8, 5), torch.full((2, 150), 7, device=device), None


def _embedding(weight: Tensor, ids: Tensor, padding_idx: int | None = None) -> Tensor:
    r"""Look up a row of the weight for each id: :math:`y_{p} = W_{t_p}`.

    The gradient of the weight is the sum of those at each id's places, and zero for ``padding_idx``.

    Shape: ``weight (words, width)``, integer ``ids (...)`` -> ``(..., width)``. Raises what
    `torch.nn.functional.embedding` raises, on an accelerator the device's own assertion, for an id
    outside the table. Source: Bengio et al. 2003, A neural probabilistic language model, section 2.
    Departs from it: no.

    >>> import torch
    >>> embedding(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0, 1]))
    tensor([[3., 4.],
            [1., 2.],
            [3., 4.]])
    """
    # Past the wrapper in Python, which takes as long as the op's own call.
    return torch.embedding(weight, ids) if padding_idx is None else F.embedding(ids, weight, padding_idx)


embedding = op(
    "athena_nn::embedding(Tensor weight, Tensor ids, int? padding_idx=None) -> Tensor",
    reference=_embedding,
    samples=_samples,
)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` by the op `embedding`, for which devices have kernels; all else is its own.

    With ``max_norm``, ``scale_grad_by_freq`` or ``sparse`` it does what the parent does.

    Args and shape: those of `torch.nn.Embedding`. Raises, source and departures: those of `embedding`.

    >>> import torch
    >>> layer = Embedding(2, 3, padding_idx=0)
    >>> layer(torch.tensor([0, 0])).sum().item()
    0.0
    """

    #: Whose results these are to the bit, for what takes layers of torch apart, such as quantization.
    computes_as: ClassVar[type[nn.Module]] = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the parent's name
        if self.max_norm is None and not self.scale_grad_by_freq and not self.sparse:
            return embedding(self.weight, input, self.padding_idx)
        return super().forward(input)
