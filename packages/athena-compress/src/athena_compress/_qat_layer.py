"""A layer in quantization-aware training: its weight and input are fake-quantized."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from athena_compress._channels import TRANSPOSED
from athena_compress._grid import Grid, quantize_affine
from athena_compress._int8_dynamic import int8_layer
from athena_compress._int8_embedding import CodedEmbedding
from athena_compress._int8_layer import Quantized
from athena_compress._mirror import outputs_first
from athena_compress._qat_ranges import InputRange, WeightRange
from athena_compress._scheme import NotQuantizable
from athena_compress._weight_only import Codes


class QATLayer(nn.Module):
    r"""A layer that computes with the values that int8 execution will have: :math:`f(\hat x; \hat w, b)`.

    Its float weight stays a parameter under ``layer``, whose attributes are also found here.

    Args:
        layer: a linear layer, a convolution or an embedding.
        weights: what fake-quantizes the weight, given with output channels first.
        inputs: what fake-quantizes the input; None for an embedding.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3. Departs from it: outputs stay floats.

    >>> import torch
    >>> from athena_compress._qat_ranges import ObservedWeights
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.4]]))
    >>> QATLayer(layer, ObservedWeights(Grid(bits=3, axis=0)), None)(torch.eye(2)).flatten().tolist()
    [3.0, -1.0]
    """

    layer: Any  # a module, whose weight and sizes are read

    def __init__(self, layer: nn.Module, weights: WeightRange, inputs: InputRange | None) -> None:
        super().__init__()
        self.layer, self.weights, self.inputs = layer, weights, inputs
        self.train(layer.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002  # the layer's name
        quantized = self.weights(by_output(self.layer, self.layer.weight))
        return self.run(self.quantized_input(input), quantized, *args, **kwargs)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input as its codes stand for it."""
        return x if self.inputs is None else self.inputs(x)

    def run(self, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer makes of ``x`` with another weight, whose output channels come first."""
        own = {"weight": by_output(self.layer, weight)}
        return functional_call(self.layer, own, (x, *args), kwargs)

    def plain(self) -> nn.Module:
        """The float layer as it is now, a copy in evaluation mode."""
        return copy.deepcopy(self.layer).eval()

    def converted(self) -> nn.Module:
        """The int8 layer with the codes that this one computes with. Raises NotQuantizable."""
        if self.inputs is not None and not self.inputs.is_known:
            raise NotQuantizable("it did not run in training")
        layer = self.plain()
        weight = outputs_first(layer)
        scale, zero_point = self.weights.qparams(weight)
        codes = quantize_affine(weight, scale, zero_point, self.weights.grid)
        scale, zero_point = (one.expand(len(weight)).clone() for one in (scale, zero_point))
        if isinstance(layer, nn.Embedding):
            return CodedEmbedding(layer, Codes(codes, scale, zero_point), Grid(self.weights.grid.bits)).eval()
        assert self.inputs is not None
        input_scale, input_zero_point = (one.clone() for one in self.inputs.qparams())
        return int8_layer(layer, Quantized(codes, scale, input_scale, input_zero_point)).eval()


def by_output(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight with its output channels first; applied to that, the weight again.

    Shape: of a transposed convolution ``(in, out / groups, *kernel) <-> (out, in / groups, *kernel)``.

    >>> import torch
    >>> by_output(nn.ConvTranspose1d(4, 6, 3, groups=2), torch.zeros(4, 3, 3)).shape
    torch.Size([6, 2, 3])
    """
    if not isinstance(layer, TRANSPOSED):
        return weight
    return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
