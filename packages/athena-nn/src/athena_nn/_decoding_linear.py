"""Frozen linear layers for few rows at a time, whose time is that of reading their weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PACKED_ROWS = 16
"""Most rows for torch's weight-only int8 kernel, which does as much work again for each row.

Milliseconds for the 33 layers of a 31 M parameter Llama (two cores with AMX), kernel against casting the
weight to bfloat16 and multiplying: 1 row 1.1 and 5.8, 8 rows 3.3 and 6.1, 16 rows 6.2 and 6.2,
32 rows 13 and 7.9, 256 rows 92 and 29.
"""

_PACKED_WIDTH = 16
"""What the kernel's inputs must be a multiple of: it reads past the end of others (torch 2.13)."""

_ALIGNMENT = 64
"""Bytes that torch's CPU allocations are aligned to; the kernel crashes below 32 (torch 2.13)."""

_packed_mm = getattr(torch, "_weight_int8pack_mm", None)  # private in torch, hence the plain path beside it


class DecodingLinear(nn.Module):
    r"""A linear layer without parameters: :math:`y = x W^\top + b`, ``W`` stored as a subclass likes it.

    Gradients flow to inputs, where asked for, and never to the weights, which are buffers. None is called
    ``weight``, so that what draws or changes the weights of linear layers does not find them.

    Shape: ``(..., in_features) -> (..., out_features)``, in the dtype of the input.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """``x W^T`` in the dtype of ``x``."""

    def reset_parameters(self) -> NoReturn:
        """Raises ValueError: there is nothing to draw."""
        raise ValueError(
            "`reset_parameters` needs a model as it was built; one prepared for decoding has no parameters "
            "to draw. Reset the model it came from, and prepare that again."
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class TransposedLinear(DecodingLinear):
    """The weight in its own dtype, stored ``(in, out)``: a row's product then runs along memory.

    How much that gains is the processor's and its BLAS's matter. One row took half the time of
    `nn.Linear` on an AMD EPYC and the same on an Intel Xeon, whose 8 rows took 1.3 times as long; a
    prompt's rows took the same.

    >>> linear = torch.nn.Linear(3, 2)
    >>> x = torch.randn(1, 3)
    >>> torch.allclose(TransposedLinear(linear)(x), linear(x))
    True
    """

    transposed: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.register_buffer(
            "transposed", linear.weight.detach().t().clone(memory_format=torch.contiguous_format)
        )

    def product(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.transposed)


class BFloat16Linear(DecodingLinear):
    """The weight in bfloat16, stored ``(out, in)``; inputs are rounded to bfloat16, sums are of float32.

    >>> linear = torch.nn.Linear(3, 2)
    >>> x = torch.randn(1, 3)
    >>> torch.allclose(BFloat16Linear(linear)(x), linear(x), atol=0.05)
    True
    """

    rounded: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.register_buffer("rounded", linear.weight.detach().to(torch.bfloat16, copy=True))

    def product(self, x: Tensor) -> Tensor:
        narrow = x.to(self.rounded.dtype)
        if _is_few(x, self.in_features, 1):  # the general product repacks the weight at each call
            return torch.mv(self.rounded, narrow.reshape(-1)).to(x.dtype).view(*x.shape[:-1], -1)
        return F.linear(narrow, self.rounded).to(x.dtype)


class Int8Linear(DecodingLinear):
    r"""The weight in int8 with a scale for each output, inputs and products in bfloat16.

    .. math:: s_o = \operatorname{bf16}\Big(\max_i |w_{oi}| / 127\Big), \quad
              q_{oi} = \operatorname{round}(w_{oi} / s_o), \quad y_o = s_o \sum_i q_{oi} x_i

    Rounding the scale before the weights, and not after, keeps the kernel's bfloat16 scales exact: then
    :math:`|w_{oi} - s_o q_{oi}| \le s_o / 2`, so that :math:`|y_o - \sum_i w_{oi} x_i| \le
    \tfrac{s_o}{2} \sum_i |x_i|` besides bfloat16's own rounding. No :math:`|q|` exceeds 127, as bfloat16
    moves a scale by less than one part in 254.

    Few rows on the CPU take torch's weight-only kernel. Many rows, other devices, inputs that want a
    gradient, an ``in_features`` that 16 does not divide and exported programs multiply by the weight, cast
    to bfloat16 for the moment.

    Raises ValueError for weights that are not finite.
    Source: Dettmers et al. 2022, arXiv:2208.07339, sections 2.1 (absmax) and 3.1 (a scale a row).
    Departs from it: activations are not quantized, and the scale is a bfloat16.

    >>> linear = torch.nn.Linear(3, 2)
    >>> x = torch.randn(1, 3)
    >>> torch.allclose(Int8Linear(linear)(x), linear(x), atol=0.05)
    True
    """

    quantized: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        largest = weight.abs().amax(1, keepdim=True)
        if not largest.isfinite().all():
            raise ValueError(
                "`dtype=torch.int8` requires finite weights; got inf or nan. Mend the model first."
            )
        scale = (largest / 127).bfloat16()
        scale = scale.where(scale > 0, 1.0)  # rows of zeros
        self.register_buffer("quantized", (weight / scale.float()).round_().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1))
        self.register_load_state_dict_post_hook(_align)

    def product(self, x: Tensor) -> Tensor:
        if _packed_mm is not None and self._is_packed(x):
            rows = x.reshape(-1, self.in_features)  # copied in any case: a view might not be aligned
            rows = rows.to(torch.bfloat16, copy=True, memory_format=torch.contiguous_format)
            y = _packed_mm(rows, self.quantized, self.scale.to(torch.bfloat16))
            return y.to(x.dtype).view(*x.shape[:-1], -1)
        y = F.linear(x.to(torch.bfloat16), self.quantized.to(torch.bfloat16))
        return y.to(x.dtype) * self.scale.to(x.dtype)

    def _is_packed(self, x: Tensor) -> bool:
        possible = self.in_features % _PACKED_WIDTH == 0 and not x.requires_grad
        return possible and _is_few(x, self.in_features, _PACKED_ROWS)


def _align(layer: nn.Module, _: object) -> None:
    """Copy weights that `load_state_dict(..., assign=True)` took from a file mapped into memory."""
    assert isinstance(layer, Int8Linear)
    if layer.quantized.data_ptr() % _ALIGNMENT:
        layer.quantized = layer.quantized.clone()


def _is_few(x: Tensor, in_features: int, rows: int) -> bool:
    """Whether ``x`` has 1 to ``rows`` rows and is on the CPU, of which alone the kernels' times are known.

    Exported programs run elsewhere and with other sizes: they take the general path. So do compiled ones
    in torch 2.11, whose Dynamo takes `torch.compiler.is_exporting` to be always true.
    """
    if torch.compiler.is_exporting() or not x.is_cpu:
        return False
    return 0 < x.numel() <= rows * in_features
