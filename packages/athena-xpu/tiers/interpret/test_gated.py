"""The kernels of swiglu and geglu."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import KERNELS, draw_rows, draw_width

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import geglu, swiglu
from athena_xpu.kernels._launch import tile_of

OPS = {"athena_nn::swiglu": swiglu, "athena_nn::geglu": geglu}


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor]:
    shape = (*draw_rows(generator), 2 * draw_width(generator))
    return ((3 * torch.randn(shape, generator=generator)).to(dtype),)


@pytest.mark.parametrize("op", OPS)
def test_drawn(op: str) -> None:
    check_drawn(KERNELS[op], draw)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(3, 2 * 2500), (700, 2 * 3), (2, 129, 2 * 20)])
def test_more_than_a_tile(op: str, shape: tuple[int, ...]) -> None:
    def draw_one(dtype: torch.dtype, generator: torch.Generator) -> tuple[torch.Tensor]:
        return (torch.randn(shape, generator=generator).to(dtype),)

    check_drawn(KERNELS[op], draw_one, draws=4, least=0.25)


@pytest.mark.parametrize("op", OPS)
def test_what_is_not_finite_stays_in_its_place(op: str) -> None:
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1.0])
    gate_up = torch.cartesian_prod(values, values)
    expected = OPS[op](gate_up)
    with offered(KERNELS[op]), np.errstate(invalid="ignore"):  # the interpreter computes with NumPy
        torch.testing.assert_close(OPS[op](gate_up), expected, equal_nan=True)


def test_an_odd_width_is_refused_by_the_reference() -> None:
    with offered(KERNELS["athena_nn::swiglu"]), pytest.raises(ValueError, match="must be even"):
        swiglu(torch.zeros(2, 3))


def test_narrow_rows_share_a_program() -> None:
    assert tile_of(1_000_000, 3) == (128, 16, 8)
    assert tile_of(5, 3) == (8, 16, 1)
    assert tile_of(1_000_000, 4096) == (1, 2048, 8)
    assert tile_of(0, 0) == (1, 16, 1)
