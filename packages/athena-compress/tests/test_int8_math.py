"""Integer products against int64, at the ends of the range and past what float32 adds exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from athena_compress import _int8_math
from athena_compress._int8_math import (
    EXACT_TERMS,
    MOST_TERMS,
    integer_conv2d,
    integer_matmul,
    row_scales,
    stuffed,
)


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@pytest.fixture(params=["torch's kernel", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(_int8_math, "has_exact_int8", lambda: False)


@pytest.mark.parametrize("terms", [1, 2, 7, 64, EXACT_TERMS, EXACT_TERMS + 1, 3001])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_products_are_those_of_int64(way, rows, terms):
    x, weight = bytes_of(rows, terms), bytes_of(6, terms, seed=1)
    assert torch.equal(integer_matmul(x, weight).long(), x.long() @ weight.long().t())


@pytest.mark.parametrize("terms", [1041, 2048, 8192])
def test_no_product_of_the_largest_is_lost(way, terms):
    # pitfall 5: a float32 sum of these is off by 1,005 at 2,048 terms; pitfall 6: int16 would saturate
    x = torch.full((2, terms), 127, dtype=torch.int8)
    x[1] = -127
    weight = torch.full((3, terms), 127, dtype=torch.int8)
    weight[:, ::2] = 126
    assert torch.equal(integer_matmul(x, weight).long(), x.long() @ weight.long().t())


def test_most_terms_fit_int32_and_more_do_not():
    assert 255 * 127 * MOST_TERMS <= torch.iinfo(torch.int32).max < 255 * 127 * (MOST_TERMS + 1)
    assert 128 * 127 * EXACT_TERMS <= 2**24 < 128 * 127 * (EXACT_TERMS + 1)


def test_batches_of_products(way):
    x, weight = bytes_of(2, 3, 5, 9), bytes_of(3, 4, 9, seed=1)
    expected = torch.einsum("bgmk,gnk->bgmn", x.long(), weight.long())
    assert torch.equal(integer_matmul(x, weight).long(), expected)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "stride", "padding", "dilation", "groups"),
    [
        (3, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
        (4, 6, (3, 2), (2, 1), (0, 1), (1, 2), 2),
        (5, 5, (1, 1), (1, 1), (0, 0), (1, 1), 5),
        (150, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ],
)
def test_convolutions_are_those_of_float64(channels, outputs, kernel, stride, padding, dilation, groups):
    x, weight = bytes_of(2, channels, 7, 8), bytes_of(outputs, channels // groups, *kernel, seed=1)
    expected = F.conv2d(x.double(), weight.double(), None, stride, padding, dilation, groups)
    got = integer_conv2d(x, weight, stride, padding, dilation, groups)
    assert got.dtype == torch.int32
    assert torch.equal(got.double(), expected)


def test_scales_of_zero_and_of_tiny_rows_are_finite_and_so_are_their_inverses():
    scale = row_scales(torch.tensor([[0.0, 0.0], [1e-45, 0.0], [3e38, -1.0]]))
    assert (scale > 0).all()
    assert scale.reciprocal().isfinite().all()


@given(st.integers(0, 4), st.integers(1, 3))
def test_stuffing_puts_zeros_between(length, stride):
    x = torch.arange(1.0, length + 1)[None]
    expected = torch.zeros(1, max(0, (length - 1) * stride + 1))
    expected[:, ::stride] = x
    assert torch.equal(stuffed(x, (stride,), 0), expected)
