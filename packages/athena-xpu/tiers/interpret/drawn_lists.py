"""Lists of tensors that the optimizers' kernels are tried on."""

from __future__ import annotations

import torch
from drawn import draw_int, draw_width
from torch import Tensor

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def draw_shape(generator: torch.Generator) -> tuple[int, ...]:
    """Of a tensor without axes, empty, of one to three axes."""
    kind = draw_int(0, 5, generator)
    width = draw_width(generator)
    return [(), (0,), (width,), (width, 3), (draw_width(generator, 9), width), (2, 1, width)][kind]


def draw_lists(dtype: torch.dtype, generator: torch.Generator, shapes: list[tuple[int, ...]]) -> Lists:
    """Parameters, gradients, both moments, and steps that differ; among narrow ones some of float32.

    Squares stay above float16's smallest numbers, below which it has no digits to compare.
    """
    drawn = [torch.float32 if draw_int(0, 4, generator) == 0 else dtype for _ in shapes]

    def tensors(least: float = 0.0) -> list[Tensor]:
        random = [torch.randn(shape, generator=generator) for shape in shapes]
        return [
            (one.square() + least if least else one).to(kind) for one, kind in zip(random, drawn, strict=True)
        ]

    steps = [torch.tensor(float(10 ** draw_int(0, 5, generator) + draw_int(0, 3, generator))) for _ in shapes]
    return tensors(), tensors(), tensors(), tensors(0.01), steps


def draw_rates(generator: torch.Generator) -> tuple[float, float, float, float, float]:
    """Learning rate, both betas (0 among them), epsilon, weight decay."""
    beta1 = (0.0, 0.9, 0.95)[draw_int(0, 2, generator)]
    beta2 = (0.9, 0.999, 0.99999)[draw_int(0, 2, generator)]
    return (
        0.01 * draw_int(1, 9, generator),
        beta1,
        beta2,
        10.0 ** -draw_int(3, 8, generator),
        0.1 * draw_int(0, 3, generator),
    )
