"""What the kernels' tests draw."""

from __future__ import annotations

import torch

from athena_xpu._plugin import kernels_for

#: The kernels, offered for the CPU, where Triton's interpreter runs them; by op.
KERNELS = {kernel.op: kernel for kernel in kernels_for("cpu")}


def draw_int(low: int, high: int, generator: torch.Generator) -> int:
    """An integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_width(generator: torch.Generator, most: int = 70) -> int:
    """One, odd, a power of two, or any."""
    drawn = draw_int(1, most, generator)
    return (1, drawn | 1, 1 << (drawn.bit_length() - 1), drawn)[draw_int(0, 3, generator)]


def draw_rows(generator: torch.Generator, most: int = 5) -> tuple[int, ...]:
    """Leading sizes: none, one or two axes, sometimes empty."""
    return tuple(
        draw_int(0 if draw_int(0, 9, generator) == 0 else 1, most, generator)
        for _ in range(draw_int(0, 2, generator))
    )
