"""Wanda: pruning by weights and activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from athena_compress._importance import Importance, precise
from athena_compress._prunable import CONVOLUTIONS, TRANSPOSED


class Wanda(Importance):
    r"""Weights matter as much as they are large and their inputs are.

    .. math:: I(W_{ij}) = |W_{ij}|\, \lVert X_j \rVert_2

    where :math:`X_j` is the input feature :math:`j` over all tokens of all batches given to
    ``pruner.calibrate(batches)``. Unless told otherwise, each output's weights are compared with one
    another. In a convolution a feature is an element of the patch (a channel at an offset of the kernel),
    in a transposed one a channel, in an embedding a row, whose norm is the root of how often it is read.

    Raises RuntimeError if the layer was never called; ValueError for inputs that are not finite.
    Source: Sun et al. 2023, arXiv:2306.11695, eq. 1. Departs from it: the inputs of all layers are those
    of the dense model, where the paper prunes block after block.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]])
    >>> importance = Wanda()
    >>> importance.observe_inputs("weight", layer, torch.tensor([[0.0, 3.0], [1.0, 4.0]]))
    >>> importance.scores("weight", layer.weight)
    tensor([[3., 5.]])
    """

    needs_inputs = True
    scope = "row"

    def observe_inputs(self, name: str, layer: nn.Module, inputs: Tensor) -> None:
        squares = _squares(layer, inputs.detach())
        if not torch.isfinite(squares).all():
            raise ValueError(
                f"`inputs` of the layer of `{name}` must be finite; got NaN, infinity or an overflow. "
                "Leave such batches out."
            )
        self.gather(name, squares)

    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        return precise(parameter).abs() * self.seen(name, parameter).sqrt()


def _squares(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Sums of the squares of each input feature, as a tensor that broadcasts to the layer's weight."""
    if isinstance(layer, nn.Embedding):
        return torch.bincount(inputs.flatten(), minlength=layer.num_embeddings).float()[:, None]
    squares = precise(inputs).square()
    if isinstance(layer, CONVOLUTIONS):
        return _patches(layer, squares)
    if isinstance(layer, TRANSPOSED):
        spatial = len(layer.kernel_size)
        channel = squares.transpose(0, -1 - spatial).flatten(1).sum(1)
        return channel.view(-1, *[1] * (1 + spatial))
    return squares.flatten(0, -2).sum(0)[None]


def _patches(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, squares: Tensor) -> Tensor:
    """Sums over all places where the kernel is laid, for each of its elements."""
    spatial = len(layer.kernel_size)
    if squares.dim() == spatial + 1:
        squares = squares[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    squares = functional.pad(squares, layer._reversed_padding_repeated_twice, mode=mode)
    for axis in range(spatial):
        squares = squares.unfold(2 + axis, layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1, 1)
    steps = [slice(None, None, stride) for stride in layer.stride]
    offsets = [slice(None, None, dilation) for dilation in layer.dilation]
    squares = squares[(slice(None), slice(None), *steps, *offsets)]
    sums = squares.sum((0, *range(2, 2 + spatial)))
    if layer.groups == 1:
        return sums[None]
    grouped = sums.view(layer.groups, 1, -1, *sums.shape[1:])
    return grouped.expand(-1, layer.out_channels // layer.groups, *grouped.shape[2:]).flatten(0, 1)
