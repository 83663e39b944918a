"""The kernel of linear layers in int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from drawn import KERNELS, draw_int, draw_rows, draw_width
from torch import Tensor

from athena_compress import int8_linear, quantize
from athena_core import _kernels
from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_xpu import ARCHITECTURES, fitting
from athena_xpu.kernels import _int8_codes, _int8_linear

KERNEL = KERNELS["athena_compress::int8_linear"]
reference = _kernels.OPS["athena_compress::int8_linear"].reference


def draw(
    dtype: torch.dtype,
    generator: torch.Generator,
    rows: tuple[int, ...] | None = None,
    terms: int | None = None,
    outputs: int | None = None,
) -> tuple[Any, ...]:
    rows = draw_rows(generator) if rows is None else rows
    terms, outputs = terms or draw_width(generator), outputs or draw_width(generator)
    x = (3 * torch.randn(*rows, terms, generator=generator)).to(dtype)
    weight = torch.randint(-128, 128, (outputs, terms), generator=generator).to(torch.int8)
    scale = torch.rand(outputs, generator=generator) + 0.01
    bias = torch.randn(outputs, generator=generator).to(dtype) if draw_int(0, 1, generator) else None
    if draw_int(0, 1, generator):
        return x, weight, scale, bias
    zero = torch.tensor(draw_int(0, 255, generator), dtype=torch.int32)
    return x, weight, scale, bias, torch.tensor(0.01 * draw_int(1, 9, generator)), zero


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_to_the_reference_to_the_bit(dtype: torch.dtype) -> None:
    """Codes, sums and roundings, which no order of the sums changes."""
    # Triton's interpreter cuts where a device rounds to bfloat16: one unit in the last place.
    rounding = 2**-7 if dtype == torch.bfloat16 else 0.0
    generator = torch.Generator().manual_seed(0)
    with offered(KERNEL):
        for _ in range(20):
            args = draw(dtype, generator)
            torch.testing.assert_close(int8_linear(*args), reference(*args), rtol=rounding, atol=0)


@pytest.mark.parametrize(
    ("rows", "terms", "outputs"), [(1, 300, 130), (70, 129, 65), (33, 128, 64), (290, 20, 70)]
)
def test_larger_than_a_tile(rows: int, terms: int, outputs: int) -> None:
    """Also than the eight tiles of rows that run together."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2 if rows > 256 else 3):
        args = draw(torch.float32, generator, (rows,), terms, outputs)
        assert torch.equal(_int8_linear.run(*args), reference(*args))


@pytest.mark.parametrize("static", [False, True])
def test_rows_longer_than_a_program_reads_at_once(static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_int8_codes, "_MOST", 32)
    x, weight, scale, bias, *_ = draw(torch.float32, torch.Generator().manual_seed(2), (5,), 100, 7)
    grid = (torch.tensor(0.03), torch.tensor(77, dtype=torch.int32)) if static else ()
    args = (x, weight, scale, bias, *grid)
    assert torch.equal(_int8_linear.run(*args), reference(*args))


def test_halves_go_to_the_even_code() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    codes, scale = _int8_codes.quantized(x, None, None)
    assert codes[0, :7].tolist() == [127, 0, 2, 2, 0, -2, -2]
    assert scale.tolist() == [1.0]
    grid = torch.tensor(2.0), torch.tensor(128, dtype=torch.int32)
    codes, _ = _int8_codes.quantized(torch.tensor([[1.0, 3.0, 5.0, -1.0, 1e9, -1e9]]), *grid)
    assert codes[0, :6].tolist() == [0, 2, 2, 0, 127, -128]


def test_sums_at_the_ends_of_the_range() -> None:
    """The largest products, all of one sign, and their sums, are exact."""
    x = torch.full((1, 4000), 255.0)
    weight = torch.full((2, 4000), -128, dtype=torch.int8)
    for grid in ((), (torch.tensor(1.0), torch.tensor(0, dtype=torch.int32))):
        args = (x, weight, torch.ones(2), None, *grid)
        assert torch.equal(_int8_linear.run(*args), reference(*args))


def test_zero_rows_are_zero_and_nan_stays_in_its_row() -> None:
    x = torch.randn(4, 8)
    x[0], x[1, 2], x[2, 5] = 0, torch.nan, torch.inf
    weight = torch.randint(-127, 128, (3, 8), dtype=torch.int8)
    with np.errstate(all="ignore"):  # of which a device does not warn
        y = _int8_linear.run(x, weight, torch.ones(3))
    assert torch.equal(y[0], torch.zeros(3))
    assert not y[1:3].isfinite().any()
    assert torch.equal(y[3], reference(x, weight, torch.ones(3))[3])


def test_rows_of_tiny_numbers_have_the_smallest_scale() -> None:
    """Below it the inverse of a scale is infinite."""
    x, weight = 1e-37 * torch.randn(3, 8), torch.randint(-127, 128, (3, 8), dtype=torch.int8)
    assert torch.equal(_int8_linear.run(x, weight, torch.ones(3)), reference(x, weight, torch.ones(3)))


def test_the_layer_calls_the_kernel() -> None:
    """With a gradient, which is that of the layer with dequantized weights."""
    layer = quantize(torch.nn.Linear(7, 4))
    x = torch.randn(3, 7, requires_grad=True)
    with offered(KERNEL):
        layer(x).square().sum().backward()
        assert "cpu" in _kernels.OPS[KERNEL.op].installed
    torch.testing.assert_close(x.grad, 2 * layer(x.detach()) @ layer.weight)


def test_what_is_refused() -> None:
    x, weight, scale = torch.zeros(2, 6), torch.zeros(3, 6, dtype=torch.int8), torch.ones(3)
    step, zero = torch.ones(()), torch.zeros((), dtype=torch.int32)
    taken = _int8_linear.supports
    assert taken(x, weight, scale)
    assert taken(x, weight, scale, scale, step, zero)
    assert not taken(x.double(), weight, scale)
    assert not taken(x[:, :5], weight, scale)
    assert not taken(x, weight.t().contiguous().t(), scale)
    assert not taken(x, weight, scale.double())
    assert not taken(x, weight, scale, None, step)
    assert not taken(x, weight, scale, None, step, torch.zeros(3, dtype=torch.int32))
    assert not taken(x, weight, scale, scale.to("meta"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_some_configuration_fits_each_architecture(arch: str) -> None:
    """Judged on the CPU, before any launch."""
    caps = ARCHITECTURES[arch]
    kept = fitting(_int8_linear._CONFIGS, caps, shared=_int8_linear._stage_bytes)
    assert len(kept) >= 3
    assert all(_int8_linear._stage_bytes(one) * one.num_stages <= (caps.slm or 0) for one in kept)


def test_configurations_suit_the_number_of_rows() -> None:
    def tall(rows: int) -> list[int]:
        named: dict[str, Tensor] = {"y": torch.empty(1)}
        kept = _int8_linear._fitting(_int8_linear._CONFIGS, named, ROWS=_int8_linear._near(rows))
        return [one.kwargs["BLOCK_M"] for one in kept]

    assert max(tall(1)) <= 32
    assert max(tall(60)) <= 64
    assert len(tall(4000)) == len(_int8_linear._CONFIGS)
