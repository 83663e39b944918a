"""What int8 layers have in common: their tensors, and when torch's own int8 kernels may run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from athena_compress._int8_math import TINY, has_exact_int8, traces, transforms_active


class Quantized(NamedTuple):
    """What a layer is made of: integers, their scales, and for a static one the grid of its input.

    >>> Quantized(torch.ones(2, 3, dtype=torch.int8), torch.ones(2)).input_scale is None
    True
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None


class Packed(NamedTuple):
    """A layer laid out for torch's int8 kernels on the CPU."""

    weight: Tensor
    scale: Tensor  # of the products: times that of the input, if it is fixed
    zeros: Tensor  # zero points of the weights
    bias: Tensor | None
    input_inverse: Tensor  # of the scale of the input
    input_zero_point: int
    shift: Tensor | None  # what signed codes of the input, less by 128, leave out of the sums


class Int8Layer(nn.Module):
    """A frozen layer whose weights are int8: buffers, with one float32 scale an output.

    ``weight_q`` holds the integers, ``weight_scale`` their scales; a static layer has ``input_scale`` and
    ``input_zero_point`` beside them. On the CPU weights are laid out once more for torch's kernel when
    it first runs: in memory 2 bytes a weight, on disk 1. What is written into the buffers in place is not
    seen after that; `load_state_dict` is. Scales stay float32 when a model is cast.
    """

    _not_saved: ClassVar[tuple[str, ...]] = ("_packed", "_row")

    weight_q: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight_q", quantized.weight)
        self.register_buffer("weight_scale", quantized.weight_scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("input_scale", quantized.input_scale)
        self.register_buffer("input_zero_point", quantized.input_zero_point)
        self._packed: Packed | None = None
        self._row: tuple[Tensor, Tensor, Tensor | None] | None = None

    @property
    def weight(self) -> Tensor:
        """The weights that the integers stand for, made anew, for models that read those of their layers."""
        return self.weight_q * self.weight_scale.view(-1, *[1] * (self.weight_q.ndim - 1))

    @property
    def is_static(self) -> bool:
        """Whether the grid of the input is fixed, and not chosen anew for each row or image."""
        return self.input_scale is not None

    def pack(self) -> Packed:
        """The layer for torch's kernels, laid out at the first call."""
        if self._packed is None:
            with torch.inference_mode(False), torch.no_grad():
                self._packed = self._pack()
        return self._packed

    def _pack(self) -> Packed:
        inverse, zero_point, scale, shift = torch.ones(()), 128, self.weight_scale, None
        if self.input_scale is not None and self.input_zero_point is not None:
            inverse, zero_point = self.input_scale.reciprocal(), int(self.input_zero_point.item())
            scale = self.input_scale * scale
            shift = (128 - self.input_zero_point) * self.weight_q.flatten(1).sum(1, dtype=torch.int32)
        weight, zeros = self._laid_out(scale, zero_point), torch.zeros_like(scale, dtype=torch.long)
        bias = None if self.bias is None else self.bias.float()
        return Packed(weight, scale, zeros, bias, inverse, zero_point, shift)

    @abstractmethod
    def _laid_out(self, scale: Tensor, zero_point: int) -> Tensor:
        """The weights as the kernel takes them."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weight_scale, self.input_scale
        super()._apply(fn, recurse)
        for name, scale in zip(("weight_scale", "input_scale"), exact, strict=True):
            moved = getattr(self, name)
            if scale is not None and moved.dtype != scale.dtype:  # `model.bfloat16()` is not meant for scales
                setattr(self, name, scale.to(moved.device))
        self._packed = self._row = None
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._packed = self._row = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_packed": None,
            "_row": None,
        }  # laid-out weights can be neither copied nor written


def takes_kernel(x: Tensor) -> bool:
    """Whether torch's int8 kernels may run on ``x``: it is on the CPU, and nobody traces or differentiates.

    >>> takes_kernel(torch.ones(2, requires_grad=True))
    False
    """
    return (
        x.is_cpu
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.dtype != torch.float64
        and not transforms_active()
        and not traces()
        and not torch.jit.is_tracing()
        and has_exact_int8()
    )


def signed_codes(x: Tensor, axis: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Integers within -127 and 127 and their scales, each shared by the elements along ``axis``.

    >>> codes, scale = signed_codes(torch.tensor([[1.0, -2.54]]), 1)
    >>> codes, round(scale.item(), 6)
    (tensor([[  50, -127]], dtype=torch.int8), 0.02)
    """
    scale = x.abs().amax(axis, keepdim=True).div_(127).clamp_min_(TINY)
    return (x * scale.reciprocal()).round_().to(torch.int8), scale


def unsigned(codes: Tensor) -> Tensor:
    """Signed bytes plus 128, in place.

    >>> unsigned(torch.tensor([-128, 0, 127], dtype=torch.int8))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return codes.view(torch.uint8).bitwise_xor_(128)


def static_codes(x: Tensor, inverse: Tensor, zero_point: int) -> Tensor:
    """Codes of a fixed grid less 128, as `athena_compress.quantize_affine` rounds them.

    ``inverse`` is one over the scale.

    torch's own quantizer would take a third of the time, but rounds halves otherwise, from the sum with the
    zero point, and is deprecated (torch 2.13).

    >>> static_codes(torch.tensor([-9.0, 0.0, 0.5]), torch.tensor(10.0), 10)
    tensor([-128, -118, -113], dtype=torch.int8)
    """
    return x.mul(inverse).round_().add_(zero_point - 128).clamp_(-128, 127).to(torch.int8)
