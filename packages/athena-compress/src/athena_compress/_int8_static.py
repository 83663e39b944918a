"""The scheme in which the grids of all inputs are fixed by calibration."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from athena_compress._grid import Grid
from athena_compress._int8_dynamic import Int8Dynamic, int8_layer
from athena_compress._observer import Observer
from athena_compress._scheme import NotQuantizable, refuse_unknown


class Int8Static(Int8Dynamic):
    r"""Weights and inputs of 8 bits, the grid of each layer's input fixed by what calibration saw.

    Inputs: unsigned codes, :math:`x \approx s (q - z)`, one scale a layer; values outside the range are
    clipped, and NaN becomes some code. Faster than `Int8Dynamic`, which looks for each row's largest value.

    Args:
        symmetric: whether the zero point of inputs is fixed at 128 rather than chosen.
        per_channel: one scale for each output channel of the weights, rather than one for all.
        weight_observer: what chooses the range of a weight, a name of kind ``observer``.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 2; Krishnamoorthi 2018, arXiv:1806.08342,
    section 3. Departs from them: outputs of layers stay floats.

    >>> import torch
    >>> from athena_compress import calibrate, quantize
    >>> linear = nn.Linear(3, 2)
    >>> quantize(calibrate(linear, [torch.randn(8, 3)]), "int8-static")
    Int8Linear(3, 2, bias=True, static)
    """

    needs_inputs: ClassVar[bool] = True

    def __init__(
        self, *, symmetric: bool = False, per_channel: bool = True, weight_observer: str = "min-max"
    ) -> None:
        super().__init__(per_channel=per_channel, weight_observer=weight_observer)
        self.symmetric = symmetric

    def quantize(self, layer: nn.Module, inputs: Observer | None = None) -> nn.Module:
        if isinstance(layer, nn.Embedding):
            return super().quantize(layer)
        refuse_unknown(layer)
        if inputs is None:
            raise NotQuantizable("it did not run during calibration")
        integers = self.integers(layer)
        scale, zero_point = inputs.qparams(Grid(signed=False, symmetric=self.symmetric))
        return int8_layer(layer, integers._replace(input_scale=scale, input_zero_point=zero_point))
