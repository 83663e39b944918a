"""The kernel of swiglu."""

from __future__ import annotations

import torch
from drawn import KERNELS, draw_rows, draw_width

from athena_core.testing import check_drawn
from athena_nn import swiglu  # noqa: F401  # defines the op

KERNEL = KERNELS["athena_nn::swiglu"]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor]:
    shape = (*draw_rows(generator), 2 * draw_width(generator))
    return ((3 * torch.randn(shape, generator=generator)).to(dtype),)


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


def test_wider_than_a_block() -> None:
    check_drawn(
        KERNEL, lambda dtype, generator: (torch.randn(3, 2 * 2500, generator=generator).to(dtype),), draws=6
    )
