"""Integer products and roundings of int8 layers in plain torch, exact on every device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

transforms_active = torch._C._are_functorch_transforms_active
traces = torch._C._len_torch_dispatch_stack

#: Most products of two 8-bit numbers, at most 127 in size, whose sum float32 holds exactly: below 2^24.
EXACT_TERMS = 2**24 // (128 * 127)

#: Most terms of a sum of unsigned times signed 8-bit numbers that int32 holds: 255 * 127 * n < 2^31.
MOST_TERMS = (2**31 - 1) // (255 * 127)

#: Smallest scale: one over it is finite in float32.
TINY = torch.finfo(torch.float32).tiny


def integer_matmul(x: Tensor, weight: Tensor) -> Tensor:
    r"""Product :math:`x W^\top` of integers, exactly.

    Float32 products of at most ``EXACT_TERMS`` terms are exact whatever their order, and are added as
    int32. So it is the same on any device with a float32 product, and nothing saturates.

    Shape: ``x (..., rows, terms)``, ``weight (..., outputs, terms)``, both int8 -> ``(..., rows, outputs)``,
    int32.

    >>> x = torch.tensor([[100, -100]], dtype=torch.int8)
    >>> integer_matmul(x, torch.tensor([[127, -127]], dtype=torch.int8))
    tensor([[25400]], dtype=torch.int32)
    """
    # torch's int8 product on the CPU has no batching rule, and is wrong for a single term (torch 2.13)
    if x.is_cpu and x.ndim == 2 and x.shape[1] > 1 and not transforms_active() and has_exact_int8():
        if x.shape[0] == 1 and traces():
            # Compiled, a single row may get a stride of 0, which the product takes at its word (torch 2.13).
            # Two rows have none to choose.
            return torch._int_mm(torch.cat([x, x]), weight.t())[:1]
        return torch._int_mm(x, weight.t())
    parts = zip(x.split(EXACT_TERMS, -1), weight.split(EXACT_TERMS, -1), strict=True)
    products = [(a.float() @ b.float().transpose(-1, -2)).to(torch.int32) for a, b in parts]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def row_scales(x: Tensor) -> Tensor:
    r"""Scale of each row's symmetric grid, :math:`s = \max_k |x_k| / 127`; ``(..., terms) -> (..., 1)``.

    >>> row_scales(torch.tensor([[1.0, -2.54], [0.0, 0.0]]))
    tensor([[2.0000e-02],
            [1.1755e-38]])
    """
    return x.abs().amax(-1, keepdim=True).div(127).clamp_min(TINY)


def integer_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of integers around 0, exactly: the patches, then `integer_matmul`.

    Shape: ``x (batch, channels, height, width)``, ``weight (outputs, channels / groups, *kernel)``, int8 ->
    ``(batch, outputs, height', width')``, int32.

    >>> x = torch.full((1, 1, 2, 2), 2, dtype=torch.int8)
    >>> integer_conv2d(x, torch.ones(1, 1, 2, 2, dtype=torch.int8), (1, 1), (0, 0), (1, 1), 1)
    tensor([[[[8]]]], dtype=torch.int32)
    """
    batch, outputs, kernel = x.shape[0], weight.shape[0], weight.shape[2:]
    size = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    patches = F.unfold(x.float(), tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
    # by batch, groups, places and terms
    patches = patches.unflatten(1, (groups, -1)).transpose(2, 3).to(torch.int8)
    filters = weight.reshape(groups, outputs // groups, -1)
    return integer_matmul(patches, filters).transpose(2, 3).reshape(batch, outputs, *size)


def stuffed(x: Tensor, stride: Sequence[int], zero: int) -> Tensor:
    """``x`` with ``stride - 1`` entries of ``zero`` between any two, along the last axes.

    >>> stuffed(torch.tensor([[[1, 2]]]), (2,), 0)
    tensor([[[1, 0, 2]]])
    """
    sides = zip(x.shape[-len(stride) :], stride, strict=True)
    spread = [(side - 1) * s + 1 if side else 0 for side, s in sides]
    wide = x.new_full((*x.shape[: -len(stride)], *spread), zero)
    wide[(..., *(slice(None, None, s) for s in stride))] = x
    return wide


@cache
def has_exact_int8() -> bool:
    """Whether torch's int8 products on this CPU are exact at the ends of the range.

    Processors without VNNI add pairs of products in saturating 16-bit numbers (oneDNN#717): tried once,
    with the numbers that would show it. Where it fails, plain torch's exact products run.

    >>> has_exact_int8() in (True, False)
    True
    """
    with _disable_current_modes(), torch.inference_mode(False):  # on real numbers, whoever asks first
        ends = torch.tensor([127, -127, -128], dtype=torch.int8, device="cpu").repeat(64)
        rows = torch.stack([ends, ends.clamp(-127).neg(), torch.full_like(ends, 127)])
        expected = rows.long() @ rows.long().t()
        ones, zeros = torch.ones(3, device="cpu"), torch.zeros(3, dtype=torch.long, device="cpu")
        try:
            narrow = torch._int_mm(rows, rows.t())
            packed = torch.ops.onednn.qlinear_prepack(rows, None)
            shifted = (rows.int() + 128).to(torch.uint8)
            wide = torch.ops.onednn.qlinear_pointwise(
                shifted, 1.0, 128, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )
        except (RuntimeError, AttributeError):  # a torch without oneDNN, or from before these ops
            return False
        return torch.equal(narrow.long(), expected) and torch.equal(wide.long(), expected)
