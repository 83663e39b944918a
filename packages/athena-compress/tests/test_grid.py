"""Grids, their scales and the affine map, against torch's own."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_compress import Grid, choose_qparams, dequantize_affine, fake_quantize, quantize_affine

UNSIGNED = Grid(signed=False, symmetric=False)
GRIDS = [
    Grid(bits, signed, symmetric)
    for bits in (2, 3, 4, 8)
    for signed in (True, False)
    for symmetric in (True, False)
]
EXTREMES = [0.0, 1e-45, 1e-40, 1.1754943508222875e-38, 1e-7, 0.3, 1.0, 127.0, 1e20, 1e38]
magnitudes = st.sampled_from(EXTREMES) | st.floats(0, 2.0**126, width=32)
values = st.tuples(magnitudes, st.sampled_from([1.0, -1.0])).map(lambda pair: pair[0] * pair[1])


def torch_qparams(low, high, grid, axis=None):
    """Of torch.ao's observers, given the same codes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

        kinds = {(False, True): torch.per_tensor_symmetric, (False, False): torch.per_tensor_affine}
        kinds |= {(True, True): torch.per_channel_symmetric, (True, False): torch.per_channel_affine}
        # torch takes no range without 0, so codes around 128 are compared with those around 0
        shift = (grid.low + grid.high) // 2 if grid.symmetric else 0
        options = {
            "dtype": torch.qint8 if grid.signed or grid.symmetric else torch.quint8,
            "qscheme": kinds[axis is not None, grid.symmetric],
            "quant_min": grid.low - shift,
            "quant_max": grid.high - shift,
        }
        if axis is None:
            observer = MinMaxObserver(**options)
            observer(torch.stack([low, high]))
        else:
            observer = PerChannelMinMaxObserver(ch_axis=0, **options)
            observer(torch.stack([low, high], 1))
        scale, zero_point = observer.calculate_qparams()
        return scale, zero_point.to(torch.int32) + shift


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=60)
@given(low=values, high=values)
def test_scales_equal_torchs_observer(grid, low, high):
    low, high = torch.tensor(min(low, high)), torch.tensor(max(low, high))
    scale, zero_point = choose_qparams(low, high, grid)
    expected_scale, expected_zero_point = torch_qparams(low, high, grid)
    assert torch.equal(scale, expected_scale.reshape(()))
    assert torch.equal(zero_point, expected_zero_point.reshape(()))
    assert zero_point.dtype == torch.int32
    assert scale.dtype == torch.float32


@pytest.mark.parametrize("grid", GRIDS)
def test_scales_per_channel_equal_torchs_observer(grid):
    low, high = torch.tensor([0.0, -3.0, 0.5, -2.0, 0.0]), torch.tensor([0.0, -1.0, 7.0, 1.0, 1e-9])
    scale, zero_point = choose_qparams(low, high, grid)
    expected_scale, expected_zero_point = torch_qparams(low, high, grid, axis=0)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(zero_point, expected_zero_point)


@pytest.mark.parametrize("grid", GRIDS)
def test_range_holds_zero_exactly_and_the_zero_point_is_a_code(grid):
    """Pitfall 1."""
    low, high = torch.tensor([3.0, -5.0, -1.0, 0.0]), torch.tensor([5.0, -3.0, 2.0, 0.0])
    scale, zero_point = choose_qparams(low, high, grid)
    assert bool(((zero_point >= grid.low) & (zero_point <= grid.high)).all())
    per_channel = Grid(grid.bits, grid.signed, grid.symmetric, axis=0)
    codes = quantize_affine(torch.zeros(4, 1), scale, zero_point, per_channel)
    assert torch.equal(codes.flatten().int(), zero_point)
    assert torch.equal(dequantize_affine(codes, scale, zero_point, per_channel), torch.zeros(4, 1))


def test_an_all_zero_channel_has_a_scale():
    """Pitfall 2."""
    scale, zero_point = choose_qparams(torch.zeros(2), torch.tensor([0.0, 1.0]), Grid(axis=0))
    assert scale[0] == torch.finfo(torch.float32).eps
    kept = fake_quantize(torch.tensor([[0.0], [1.0]]), scale, zero_point, Grid(axis=0))
    assert torch.equal(kept, torch.tensor([[0.0], [1.0]]))
    tiny, _ = choose_qparams(torch.tensor(0.0), torch.tensor(1e-9), Grid(), smallest=1e-30)
    assert torch.allclose(tiny, torch.tensor(1e-9 / 127))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_symmetric_scale_and_clipping_match(bits, signed):
    """Pitfall 3: the largest value is the largest code, on both sides, with no code beyond it."""
    grid = Grid(bits, signed, symmetric=True)
    scale, zero_point = choose_qparams(torch.tensor(-2.0), torch.tensor(2.0), grid)
    x = torch.tensor([-2.0, 2.0, -9.0, 9.0])
    codes = quantize_affine(x, scale, zero_point, grid).int() - zero_point
    assert codes.tolist() == [-grid.high + zero_point, grid.high - zero_point] * 2
    assert torch.allclose(
        dequantize_affine(codes + zero_point, scale, zero_point, grid).abs(), torch.tensor(2.0)
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_extremes_stay_finite(grid):
    largest = torch.finfo(torch.float32).max
    for low, high in [(-largest, largest), (0.0, largest), (-largest, 0.0), (-1e-45, 1e-45)]:
        low, high = torch.tensor(low), torch.tensor(high)
        scale, zero_point = choose_qparams(low, high, grid)
        assert bool(scale.isfinite())
        assert scale > 0
        codes = quantize_affine(torch.stack([low, high]), scale, zero_point, grid)
        assert bool(dequantize_affine(codes, scale, zero_point, grid).isfinite().all())
        ends = torch.tensor([grid.low, grid.high])
        assert bool(dequantize_affine(ends, scale, zero_point, grid).isfinite().all())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@settings(max_examples=100)
@given(
    x=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    scale=st.floats(2.0**-20, 1e4, width=32),
    zero_point=st.integers(0, 255),
)
def test_codes_equal_torchs(x, scale, zero_point):
    x = torch.tensor(x)
    expected = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
    codes = quantize_affine(x, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), UNSIGNED)
    assert torch.equal(codes, expected.int_repr())
    back = dequantize_affine(codes, torch.tensor(scale), torch.tensor(zero_point), UNSIGNED)
    assert torch.equal(back, expected.dequantize())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_codes_per_channel_equal_torchs(axis):
    x = torch.randn(3, 4, 5).transpose(0, 2)
    n = x.shape[axis]
    scale, zero_point = torch.rand(n) / 20 + 0.01, torch.randint(-20, 20, (n,), dtype=torch.int32)
    expected = torch.quantize_per_channel(x, scale.double(), zero_point, axis % 3, torch.qint8)
    grid = Grid(symmetric=False, axis=axis)
    codes = quantize_affine(x, scale, zero_point, grid)
    assert torch.equal(codes, expected.int_repr())
    assert torch.equal(dequantize_affine(codes, scale, zero_point, grid), expected.dequantize())


def test_halves_go_to_the_even_neighbour_before_the_zero_point():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantize_affine(x, torch.tensor(1.0), torch.tensor(3), UNSIGNED).tolist() == [3, 5, 5, 3, 1]


def test_infinities_go_to_the_ends():
    x = torch.tensor([-torch.inf, torch.inf, -1e38, 1e38])
    assert quantize_affine(x, torch.tensor(1e-7), torch.tensor(0), Grid()).tolist() == [-127, 127, -127, 127]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    x = torch.randn(7).to(dtype)
    low, high = UNSIGNED.extremes(x)
    assert low.dtype == torch.float32
    scale, zero_point = choose_qparams(low, high, UNSIGNED)
    codes = quantize_affine(x, scale, zero_point, UNSIGNED)
    assert torch.equal(codes, quantize_affine(x.float(), scale, zero_point, UNSIGNED))
    back = dequantize_affine(codes, scale, zero_point, UNSIGNED, dtype)
    assert back.dtype == dtype
    assert torch.equal(back, fake_quantize(x, scale, zero_point, UNSIGNED))


def test_groups_are_rows_of_their_own():
    x = torch.randn(3, 8, 6)
    grid = Grid(bits=4, group_size=3)
    low, high = grid.extremes(x)
    assert low.shape == (3, 8, 2)
    scale, zero_point = choose_qparams(low, high, grid)
    codes = quantize_affine(x, scale, zero_point, grid)
    rows = Grid(bits=4, axis=0)
    flat = [t.reshape(-1) for t in (scale, zero_point)]
    assert torch.equal(codes.reshape(-1, 3), quantize_affine(x.reshape(-1, 3), *flat, rows))
    back = dequantize_affine(codes, scale, zero_point, grid)
    assert bool(((back - x).abs() <= scale.repeat_interleave(3, -1) * 0.5001).all())
    assert torch.equal(back, fake_quantize(x, scale, zero_point, grid))


@pytest.mark.parametrize("grid", [Grid(), Grid(axis=0), Grid(axis=1), Grid(group_size=2)])
def test_extremes_equal_a_loop(grid):
    x = torch.randn(5, 3, 4).transpose(0, 1)
    low, high = grid.extremes(x)
    if grid.group_size:
        parts = list(x.reshape(-1, 2))
    else:
        parts = [x] if grid.axis is None else list(x.unbind(grid.axis))
    assert torch.equal(low.flatten(), torch.stack([part.min() for part in parts]))
    assert torch.equal(high.flatten(), torch.stack([part.max() for part in parts]))


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((0,), Grid()), ((3, 0), Grid(axis=0)), ((0, 3), Grid(axis=0)), ((2, 0), Grid(group_size=4))],
)
def test_no_elements(shape, grid):
    x = torch.empty(shape)
    scale, zero_point = choose_qparams(*grid.extremes(x), grid)
    assert bool((scale > 0).all())
    codes = quantize_affine(x, scale, zero_point, grid)
    assert codes.shape == shape
    assert dequantize_affine(codes, scale, zero_point, grid).shape == shape
    assert fake_quantize(x, scale, zero_point, grid).shape == shape


def test_one_element_without_axes():
    x = torch.tensor(3.0)
    scale, zero_point = choose_qparams(*Grid().extremes(x), Grid())
    assert quantize_affine(x, scale, zero_point, Grid()) == 127


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "`bits` must lie in"),
        ({"bits": 9}, "`bits` must lie in"),
        ({"group_size": 0}, "`group_size` must be at least 1"),
        ({"axis": 0, "group_size": 2}, "`axis` must be None"),
    ],
)
def test_refused_grids(options, message):
    with pytest.raises(ValueError, match=message):
        Grid(**options)


def test_refused_ranges():
    one = torch.tensor(1.0)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="must be finite"):
            choose_qparams(torch.tensor(bad), one, Grid())
    with pytest.raises(ValueError, match="must not exceed"):
        choose_qparams(one, -one, Grid())
    with pytest.raises(ValueError, match="must have the shape"):
        choose_qparams(one, one.expand(2), Grid())
    with pytest.raises(ValueError, match="`group_size` must divide"):
        quantize_affine(torch.ones(5), one, one, Grid(group_size=2))
    with pytest.raises(ValueError, match="`group_size` must divide"):
        quantize_affine(one, one, one, Grid(group_size=2))
