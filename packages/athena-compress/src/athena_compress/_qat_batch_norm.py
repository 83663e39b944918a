"""Quantization-aware training of a layer with a batch normalization folded into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from athena_compress._channels import replace_weight
from athena_compress._qat_layer import QATLayer, by_output
from athena_compress._qat_ranges import InputRange, WeightRange


class QATBatchNormLayer(QATLayer):
    r"""A layer and the batch normalization after it, trained as the one layer that they become.

    .. math::
        y = f\!\left(\hat x;\; \widehat{\frac{\gamma\, w}{\sqrt{\sigma^2 + \epsilon}}},\;
            \beta + \frac{\gamma\,(b - \mu)}{\sqrt{\sigma^2 + \epsilon}}\right)

    In training :math:`\mu` and :math:`\sigma^2` are those of :math:`f(\hat x; w, b)` over the batch, so that
    the layer is run twice, and the moving ones of the normalization follow them. In evaluation, once
    ``frozen_statistics`` is set, and where the normalization itself is in evaluation mode, they are the
    moving ones.

    Args:
        layer: a linear layer or a convolution.
        norm: the batch normalization; its weight, bias and moving statistics are used and trained.
        weights: what fake-quantizes the folded weight, given with output channels first.
        inputs: what fake-quantizes the input.

    Raises ValueError in training for a single value a channel, which has no variance.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2, eq. 14. Departs from it: no.

    >>> from athena_compress import Grid
    >>> from athena_compress._qat_ranges import ObservedWeights
    >>> conv, norm = nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)
    >>> layer = QATBatchNormLayer(conv, norm, ObservedWeights(Grid(axis=0)), None)
    >>> x = torch.randn(64, 2, 5)
    >>> bool((layer(x) - nn.BatchNorm1d(3)(conv(x))).abs().max() < 0.05)
    True
    """

    norm: Any  # a module, whose statistics are read and written

    def __init__(
        self, layer: nn.Module, norm: nn.Module, weights: WeightRange, inputs: InputRange | None
    ) -> None:
        super().__init__(layer, weights, inputs)
        self.norm = norm
        self.frozen_statistics = False

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002  # the layer's name
        x = self.quantized_input(input)
        weight, bias = self.folded(*self.statistics(x, *args, **kwargs))
        own = {"weight": by_output(self.layer, self.weights(weight))}
        if self.layer.bias is not None:
            return functional_call(self.layer, {**own, "bias": bias}, (x, *args), kwargs)
        y = functional_call(self.layer, own, (x, *args), kwargs)
        return y + bias.reshape(-1, *[1] * (y.ndim - 2))

    def statistics(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalize with; those of the batch are also averaged into the moving ones."""
        if not (self.training and self.norm.training) or self.frozen_statistics:
            return self.norm.running_mean, self.norm.running_var
        y = self.layer(x, *args, **kwargs)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        n_values = y.numel() // y.shape[1]
        if n_values < 2:
            raise ValueError(
                f"a batch must hold at least 2 values a channel to train batch normalization; got "
                f"{n_values}. Use larger batches, or freeze its statistics."
            )
        variance, mean = torch.var_mean(y, [axis for axis in range(y.ndim) if axis != 1], correction=0)
        self._average(mean.detach(), variance.detach() * (n_values / (n_values - 1)))
        return mean, variance

    def folded(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Weight, with output channels first, and bias of the one layer; differentiable."""
        factor = torch.rsqrt(variance + self.norm.eps)
        if self.norm.weight is not None:
            factor = factor * self.norm.weight
        weight = by_output(self.layer, self.layer.weight)
        bias = -mean if self.layer.bias is None else self.layer.bias - mean
        shifted = bias * factor if self.norm.bias is None else bias * factor + self.norm.bias
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        return scaled.to(weight.dtype), shifted.to(weight.dtype)

    def plain(self) -> nn.Module:
        with torch.no_grad():
            weight, bias = self.folded(self.norm.running_mean, self.norm.running_var)
        layer = super().plain()
        replace_weight(layer, by_output(self.layer, weight).contiguous(), bias)
        return layer

    @torch.no_grad()
    def _average(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        norm.num_batches_tracked += 1
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)
