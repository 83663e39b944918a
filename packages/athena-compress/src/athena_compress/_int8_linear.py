"""Linear layers that run in int8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from athena_compress._int8_layer import (
    Int8Layer,
    Packed,
    Quantized,
    signed_codes,
    static_codes,
    takes_kernel,
    unsigned,
)
from athena_compress._int8_ops import int8_linear

_LARGEST, _TINY = np.float32(127), np.finfo(np.float32).tiny


class Int8Linear(Int8Layer):
    r"""A linear layer in int8, as `int8_linear` computes it: static if the grid of its input is given.

    On the CPU with VNNI torch's kernels do the integer product. Which one was measured (two cores,
    AVX-512 VNNI, microseconds for 1024 -> 4096 features): a single row 40 by ``torch._int_mm``, which reads
    the weights as they are, and 70 by oneDNN's packed product; 4 rows 206 and 97, 16 rows 310 and 192,
    256 rows 4,263 and 2,893. So a single row takes the first and more rows the second. Their integer sums
    are identical and all roundings are those of the formula, so that a row's result depends neither
    on the other rows nor on their number.

    Args:
        linear: the float layer, for its sizes and bias.
        quantized: its weights as integers; and the grid of its input, if that is fixed.

    Shape: ``(..., in_features) -> (..., out_features)``, in the dtype of the input.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 2.2. Departs from it: outputs stay floats.

    >>> from athena_compress import quantize
    >>> linear = nn.Linear(16, 4)
    >>> layer = quantize(linear, "int8-dynamic")
    >>> x = torch.randn(3, 16)
    >>> torch.allclose(layer(x), linear(x), atol=0.05)
    True
    """

    def __init__(self, linear: nn.Linear, quantized: Quantized) -> None:
        super().__init__(quantized, linear.bias)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the float layer's name
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise ValueError(f"`input` must have shape (..., {self.in_features}); got {tuple(input.shape)}.")
        if not input.is_floating_point():
            raise ValueError(f"`input` must hold floats; got {input.dtype}. Use `input.float()`.")
        if takes_kernel(input):
            return self._run(input)
        scale, zero_point = self.input_scale, self.input_zero_point
        return int8_linear(input, self.weight_q, self.weight_scale, self.bias, scale, zero_point)

    def _run(self, x: Tensor) -> Tensor:
        if x.numel() == self.in_features > 1 and self.input_scale is None:
            return self._run_row(x)
        rows = x.reshape(-1, self.in_features)
        if x.dtype != torch.float32:
            rows = rows.float()
        # a single term is a product that torch gets wrong (2.13)
        one = rows.shape[0] == 1 and self.in_features > 1
        y = self._run_dynamic(rows) if self.input_scale is None else self._run_static(rows, one=one)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if x.dtype == torch.float32 else y.to(x.dtype)

    def _run_row(self, x: Tensor) -> Tensor:
        """A single row, as decoding has them: its scale is a number of Python's, for fewer calls of torch."""
        if self._row is None:
            self._row = self.weight_q.t(), self.weight_scale, self.bias
        columns, weight_scale, bias = self._row
        row = x if x.ndim == 2 else x.reshape(1, -1)
        if row.dtype != torch.float32:
            row = row.float()
        scale = np.maximum(np.float32(row.abs().amax().item()) / _LARGEST, _TINY)
        codes = row.mul(float(1 / scale)).round_().to(torch.int8)
        y = (torch._int_mm(codes, columns) * weight_scale).mul_(float(scale))
        if bias is not None:
            y.add_(bias)
        y = y if x.ndim == 2 else y.view(*x.shape[:-1], self.out_features)
        return y if x.dtype == torch.float32 else y.to(x.dtype)

    def _run_dynamic(self, rows: Tensor) -> Tensor:
        codes, scale = signed_codes(rows, 1)
        y = _product(unsigned(codes), self.pack(), None).mul_(scale)
        return y if self.bias is None else y.add_(self.bias)

    def _run_static(self, rows: Tensor, *, one: bool) -> Tensor:
        packed = self.pack()
        assert packed.shift is not None  # a static layer has one
        codes = static_codes(rows, packed.input_inverse, packed.input_zero_point)
        if not one:
            return _product(unsigned(codes), packed, packed.bias)
        y = torch._int_mm(codes, self.weight_q.t()).add_(packed.shift) * packed.scale
        return y if packed.bias is None else y.add_(packed.bias)

    def _laid_out(self, scale: Tensor, zero_point: int) -> Tensor:  # noqa: ARG002  the same for all
        return torch.ops.onednn.qlinear_prepack(self.weight_q, None)

    def extra_repr(self) -> str:
        kind = "static" if self.is_static else "dynamic"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {kind}"


def _product(codes: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, packed.input_zero_point, packed.weight, packed.scale, packed.zeros, bias,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
