"""The schemes in which int8 layers choose the grid of their inputs as they run, or have no such grid."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from athena_compress._grid import Grid
from athena_compress._int8_conv import Int8Conv, Int8ConvTranspose
from athena_compress._int8_embedding import CodedEmbedding
from athena_compress._int8_layer import Int8Layer, Quantized
from athena_compress._int8_linear import Int8Linear
from athena_compress._int8_math import MOST_TERMS
from athena_compress._observer import Observer
from athena_compress._scheme import NotQuantizable, Scheme, refuse_unknown


class Int8Dynamic(Scheme):
    r"""Weights and inputs of 8 bits; the scale of a row of inputs (or an image) is chosen as it comes.

    Weights: symmetric, :math:`w_{oi} \approx s_o q_{oi}`, a scale an output channel. Inputs: symmetric,
    :math:`s = \max |x| / 127`, so that nothing is clipped and no data is needed. See `Int8Linear` and
    `Int8Conv`; embeddings are held in 8 bits a row (`CodedEmbedding`).

    Args:
        per_channel: one scale for each output channel, rather than one for the whole weight.
        weight_observer: what chooses the range of a weight, a name of kind ``observer``.

    Source: Yao et al. 2022, arXiv:2206.01861, section 3.1 (a scale a token). Departs from it: one scale an
    output channel of the weights, rather than a group.

    >>> Int8Dynamic().quantize(nn.Linear(3, 2))
    Int8Linear(3, 2, bias=True, dynamic)
    """

    def quantize(self, layer: nn.Module, inputs: Observer | None = None) -> nn.Module:  # noqa: ARG002
        refuse_unknown(layer)
        if isinstance(layer, nn.Embedding):
            return coded_embedding(self, layer, Grid())
        return int8_layer(layer, self.integers(layer))

    def integers(self, layer: nn.Module) -> Quantized:
        """The weights on the symmetric grid of 8 bits."""
        codes, scale, _ = self.coded(layer, Grid())
        return Quantized(codes, scale)


def int8_layer(layer: nn.Module, quantized: Quantized) -> Int8Layer:
    """The int8 layer in the place of a linear or convolution layer, its weights with output channels first.

    Raises NotQuantizable where int32 cannot hold the sums.

    >>> import torch
    >>> integers = Quantized(torch.ones(2, 3, dtype=torch.int8), torch.ones(2))
    >>> int8_layer(nn.Linear(3, 2, bias=False), integers)(torch.ones(1, 3))
    tensor([[3., 3.]])
    """
    terms = quantized.weight[0].numel()
    if terms > MOST_TERMS:
        raise NotQuantizable(f"its sums of {terms} products could overflow int32, which holds {MOST_TERMS}")
    if isinstance(layer, nn.Linear):
        return Int8Linear(layer, quantized)
    if isinstance(layer, _ConvTransposeNd):
        return Int8ConvTranspose(layer, quantized)
    assert isinstance(layer, _ConvNd)
    return Int8Conv(layer, quantized)


def coded_embedding(scheme: Scheme, embedding: nn.Embedding, grid: Grid) -> CodedEmbedding:
    """The embedding with integer rows. Raises NotQuantizable for one that renormalises its rows."""
    if embedding.max_norm is not None:
        raise NotQuantizable("it renormalises its rows (`max_norm`)")
    return CodedEmbedding(embedding, scheme.coded(embedding, grid), grid)
