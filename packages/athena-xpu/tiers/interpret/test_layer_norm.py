"""The kernel of layer_norm."""

from __future__ import annotations

import pytest
import torch
from draw_norms import WIDE, check_reproducible, check_rows_stay_apart, draw_shape, norm_arguments
from drawn import KERNELS, draw_int

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import layer_norm
from athena_xpu.kernels import _norms

KERNEL = KERNELS["athena_nn::layer_norm"]


def test_drawn() -> None:
    def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple:
        biased = bool(draw_int(0, 1, generator))
        return norm_arguments(draw_shape(generator), dtype, generator, biased=biased)

    check_drawn(KERNEL, draw)


def test_wider_than_a_block() -> None:
    check_drawn(
        KERNEL, lambda dtype, draw: norm_arguments((2, WIDE), dtype, draw, biased=True), draws=12, least=0.25
    )


@pytest.mark.parametrize("middle", [1e4, 1e6])
@pytest.mark.parametrize("width", [64, WIDE])
def test_far_from_zero(width: int, middle: float) -> None:
    """Deviations of 1 around 10,000 and more: what one pass over squares would lose altogether."""
    x = middle + torch.randn(2, width)
    weight, bias = torch.randn(2, width)
    with offered(KERNEL):
        found = layer_norm(x, weight, bias, 1e-5)
    exact = layer_norm(x.double(), weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy tells of NaN
def test_rows_stay_apart() -> None:
    for width in (7, WIDE):
        args = norm_arguments((5, width), torch.float32, torch.Generator().manual_seed(0), biased=True)
        check_rows_stay_apart(KERNEL, layer_norm, args)


def test_what_lies_elsewhere_is_refused() -> None:
    x, weight = torch.ones(2, 3), torch.ones(3)
    there = weight.to("meta")
    assert _norms.norm_supports(x, x, weight, weight)
    assert not _norms.norm_supports(x, None, there, None)
    assert not _norms.norm_supports(x, None, weight, there)
    assert not _norms.norm_supports(x, x.to("meta"), weight, None)


def test_half_precision_under_autocast_is_the_references() -> None:
    """Which may answer in float32."""
    x, weight = torch.ones(2, 3), torch.ones(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert _norms.norm_supports(x, x.bfloat16(), weight, weight)
        assert not _norms.norm_supports(x.bfloat16(), None, weight.bfloat16(), None)
    assert _norms.norm_supports(x.bfloat16(), None, weight.bfloat16(), None)


def test_gradients_of_weights_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(shape: tuple[int, int]) -> tuple:
        return norm_arguments(shape, torch.float32, torch.Generator().manual_seed(0), biased=True)

    check_reproducible(KERNEL, layer_norm, draw, monkeypatch)
