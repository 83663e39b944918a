"""Observers, against torch's, exact quantiles and brute force."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from athena_compress import (
    Grid,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    PercentileObserver,
    fake_quantize,
)
from athena_compress._observer_binned import BinnedObserver
from athena_compress._observer_histogram import _divergence, _Sums
from athena_compress._observer_mse import _error_integral

UNSIGNED = Grid(signed=False, symmetric=False)
BINNED = [PercentileObserver, MSEObserver, HistogramObserver]
DRAWS = {
    "normal": lambda n: torch.randn(n),
    "relu": lambda n: torch.randn(n).relu(),
    "heavy": lambda n: torch.randn(n) / torch.rand(n).sqrt(),
    "far": lambda n: torch.rand(n) + 1000,
    "negative": lambda n: -torch.randn(n).square(),
    "integers": lambda n: torch.randint(-3, 9, (n,)).float(),
}


def torchs(name, grid, axis=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import observer

        scheme = (
            f"per_{'tensor' if axis is None else 'channel'}_{'symmetric' if grid.symmetric else 'affine'}"
        )
        if axis is not None:
            options["ch_axis"] = axis
        return getattr(observer, name)(
            dtype=torch.qint8 if grid.signed else torch.quint8,
            qscheme=getattr(torch, scheme),
            quant_min=grid.low,
            quant_max=grid.high,
            **options,
        )


def assert_same_qparams(ours, theirs, grid):
    scale, zero_point = ours.qparams(grid)
    its_scale, its_zero_point = theirs.calculate_qparams()
    assert torch.equal(scale, its_scale.reshape(scale.shape))
    assert torch.equal(zero_point, its_zero_point.reshape(scale.shape).to(torch.int32))


@pytest.mark.parametrize("grid", [Grid(), UNSIGNED, Grid(bits=4), Grid(symmetric=False)])
def test_extremes_equal_torchs(grid):
    batches = [torch.randn(4, 5, 6) * (i + 1) for i in range(4)]
    for axis, kind in ((None, ""), (1, "PerChannel")):
        per_axis = Grid(grid.bits, grid.signed, grid.symmetric, axis)
        pairs = [(MinMaxObserver(axis=axis), torchs(f"{kind}MinMaxObserver", grid, axis))]
        moving = torchs(f"MovingAverage{kind}MinMaxObserver", grid, axis, averaging_constant=0.2)
        pairs.append((MovingAverageObserver(0.2, axis=axis), moving))
        for ours, theirs in pairs:
            for batch in batches:
                ours(batch)
                theirs(batch)
                assert_same_qparams(ours, theirs, per_axis)


def test_a_users_momentum_is_used():
    """Pitfall 9: quanto's inputs ignore it."""
    ends = {}
    for momentum in (0.01, 0.5, 1.0):
        observer = MovingAverageObserver(momentum)
        observer(torch.tensor([0.0, 1.0]))
        observer(torch.tensor([0.0, 3.0]))
        ends[momentum] = float(observer.high)
    assert ends == pytest.approx({0.01: 1.02, 0.5: 2.0, 1.0: 3.0})


@pytest.mark.parametrize("kind", [MinMaxObserver, MovingAverageObserver, *BINNED])
def test_a_fresh_observer_inside_a_model_takes_a_state(kind):
    """Pitfall 9: per-channel observers start empty, and loading them mismatched (pytorch#33830)."""
    trained = torch.nn.Sequential(torch.nn.Linear(3, 4), kind(axis=1), torch.nn.Linear(4, 2), kind())
    trained(torch.randn(9, 3))
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 4), kind(axis=1), torch.nn.Linear(4, 2), kind())
    fresh.load_state_dict(trained.state_dict())
    for name, value in trained.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
    assert torch.equal(fresh[1].qparams(Grid(axis=1))[0], trained[1].qparams(Grid(axis=1))[0])
    fresh.load_state_dict(torch.nn.Sequential(fresh[0], kind(), fresh[2], kind()).state_dict())
    assert fresh[1].is_empty  # and an empty state too


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
def test_percentile_is_the_exact_quantile_within_a_bin(draw, percentile):
    parts = [DRAWS[draw](2500) * (i + 1) for i in range(4)]
    observer = PercentileObserver(percentile)
    for part in parts:
        observer(part)
    x = torch.cat(parts).double().numpy()
    width = float(observer.width())
    low, high = (float(end) for end in observer.span(UNSIGNED))
    share = (1 + percentile / 100) / 2 * (1 - 1e-12)
    exact_high = max(np.quantile(x, share, method="inverted_cdf"), 0)
    exact_low = min(-np.quantile(-x, share, method="inverted_cdf"), 0)
    assert exact_high <= high <= exact_high + width
    assert exact_low - width <= low <= exact_low
    reach = float(observer.span(Grid())[1])
    exact = np.quantile(np.abs(x), percentile / 100 * (1 - 1e-12), method="inverted_cdf")
    assert exact - 1e-12 <= reach <= exact + width


@example(values=[62.0, -2.8e-45], at=1)  # beside a large number it is still below 0
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=50), st.integers(1, 50))
def test_histogram_counts_what_it_saw_whatever_the_order(values, at):
    x = torch.tensor(values)
    once, pieces = PercentileObserver(bins=16), PercentileObserver(bins=16)
    once(x)
    for part in x.flip(0).split(at):
        pieces(part)
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, pieces.get_buffer(name)), name
    edges, expected = once.edges()[0], x[x != 0].double()
    inside = (expected[:, None] >= edges[:-1]) & (expected[:, None] < edges[1:])
    assert torch.equal(once.counts[0], inside.sum(0))
    assert int(once.zeros) + int(once.counts.sum()) == len(values)
    span = float(once.high - once.low)
    if span > 1e-20:
        assert 15 <= span / float(once.width()) <= 32


def test_histogram_takes_constant_memory():
    observer = PercentileObserver(bins=64, axis=0)
    for size in (1, 10, 10_000):
        observer(torch.randn(3, size) * size)
        assert observer.counts.shape == (3, 128)


def test_percentile_of_everything_is_min_max():
    x = torch.randn(1000)
    whole, percentile = MinMaxObserver(), PercentileObserver(100)
    for observer in (whole, percentile):
        observer(x)
    for grid in (Grid(), UNSIGNED):
        assert torch.equal(whole.qparams(grid)[0], percentile.qparams(grid)[0])


def squared_error(x, low, high, grid):
    """In float64, of each clipping of ``x``."""
    steps = grid.high - grid.low
    scale = 2 * torch.maximum(-low, high) / steps if grid.symmetric else (high - low) / steps
    zero_point = torch.zeros_like(scale)
    if not grid.symmetric:
        zero_point = (grid.low - (low / scale).round()).clamp(grid.low, grid.high)
    codes = (x / scale[:, None]).round().add(zero_point[:, None]).clamp(grid.low, grid.high)
    return ((codes - zero_point[:, None]) * scale[:, None] - x).square().sum(1)


@pytest.mark.parametrize("draw", [name for name in DRAWS if name not in ("far", "integers")])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_as_good_as_brute_force(draw, bits, symmetric):
    x = DRAWS[draw](3000)
    grid = Grid(bits, signed=symmetric, symmetric=symmetric)
    observer = MSEObserver()
    for part in x.split(1000):
        observer(part)
    low, high = (end.double() for end in observer.span(grid))
    x = x.double()
    parts = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    lows, highs = min(x.min(), x.new_zeros(())) * parts, max(x.max(), x.new_zeros(())) * parts
    if symmetric:
        candidates = (-x.abs().max() * parts, x.abs().max() * parts)
    else:
        candidates = [grid_side.flatten() for grid_side in torch.meshgrid(lows, highs, indexing="ij")]
    brute = min(
        float(squared_error(x, *pair, grid).min())
        for pair in zip(*(c.split(200) for c in candidates), strict=True)
    )
    assert float(squared_error(x, low, high, grid)) <= brute * 1.03  # even density in a bin; ends in turn


def test_error_integral_is_an_antiderivative():
    low, high = torch.tensor(-3), torch.tensor(4)
    t = torch.linspace(-6, 7, 13_001, dtype=torch.float64)
    middle = (t[1:] + t[:-1]) / 2
    expected = (middle - middle.round().clamp(-3, 4)).square() * t.diff()
    assert torch.allclose(_error_integral(t, low, high).diff(), expected, atol=1e-9)


def test_divergence_equals_a_loop():
    counts = torch.tensor([[5.0, 0.0, 3.0, 1.0, 0.0, 7.0, 2.0, 4.0]], dtype=torch.float64)
    starts = torch.tensor([[[1, 4, 6], [8, 8, 8]]])  # two codes; none
    inside = slice(1, 6)
    clipped, kept = counts[0].clone(), counts[0, inside]
    clipped[1] += clipped[0]
    clipped[5] += clipped[6:].sum()
    clipped = clipped[inside]
    spread = torch.tensor([0.0, 2.0, 2.0, 0.0, 7.0], dtype=torch.float64)
    p, q = clipped / clipped.sum(), spread.clamp_min(1e-4) / kept.sum()
    expected = sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True) if a > 0)
    found = _divergence(_Sums.of(counts), starts)[0].tolist()
    assert found == pytest.approx([expected, torch.inf], rel=1e-8)  # rounded to 1e-9


def test_divergence_clips_an_outlier_and_keeps_a_flat_range():
    outlier, flat = HistogramObserver(), HistogramObserver()
    outlier(torch.cat([torch.randn(20_000), torch.tensor([300.0])]))
    flat(torch.rand(20_000) * 2 - 1)
    assert 2 < float(outlier.span(UNSIGNED)[1]) < 30
    assert float(flat.span(UNSIGNED)[1]) > 0.95
    assert float(flat.span(Grid())[1]) > 0.95


@pytest.mark.parametrize("kind", BINNED)
def test_clipping_lowers_the_error_of_few_bits(kind):
    x = torch.randn(20_000) * torch.rand(20_000).log()
    errors = []
    for observer in (MinMaxObserver(), kind()):
        observer(x)
        qparams = observer.qparams(Grid(bits=4))
        errors.append(float((fake_quantize(x, *qparams, Grid(bits=4)) - x).square().mean()))
    assert errors[1] < errors[0] / 1.5


@pytest.mark.parametrize("kind", [MinMaxObserver, MovingAverageObserver, *BINNED])
def test_channels_are_observed_apart(kind):
    x = torch.randn(40, 3, 5) * torch.tensor([0.01, 1.0, 100.0])[:, None]
    observer = kind(axis=1)
    observer(x)
    scale, zero_point = observer.qparams(Grid(axis=1, signed=False, symmetric=False))
    for channel in range(3):
        alone = kind()
        alone(x[:, channel])
        expected = alone.qparams(UNSIGNED)
        assert torch.equal(scale[channel], expected[0])
        assert torch.equal(zero_point[channel], expected[1])


@pytest.mark.parametrize("kind", [MinMaxObserver, MovingAverageObserver, *BINNED])
def test_half_precision_models_keep_ranges_in_float32(kind):
    observer, wide = kind().half(), kind()
    for batch in (torch.randn(50), torch.randn(50) * 2):
        observer(batch.half())
        wide(batch.half().float())
    assert torch.equal(observer.qparams(Grid())[0], wide.qparams(Grid())[0])


def test_refused():
    for momentum in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"`momentum` must lie in \(0, 1\]"):
            MovingAverageObserver(momentum)
    for percentile in (0.0, 101.0):
        with pytest.raises(ValueError, match="`percentile` must lie in"):
            PercentileObserver(percentile)
    with pytest.raises(ValueError, match="`bins` must be at least 16"):
        HistogramObserver(bins=8)
    observer = MinMaxObserver(axis=0)
    observer(torch.ones(3, 2))
    with pytest.raises(ValueError, match="axis 0 must keep its length; got 4 after 3"):
        observer(torch.ones(4, 2))
    for grid in (Grid(), Grid(axis=1), Grid(group_size=1)):
        with pytest.raises(ValueError, match="`grid` must share scales as the observer does"):
            observer.qparams(grid)


def test_what_they_print():
    assert repr(PercentileObserver(axis=1)) == "PercentileObserver(percentile=99.99, bins=2048, axis=1)"
    assert repr(MovingAverageObserver()) == "MovingAverageObserver(momentum=0.1)"
    assert issubclass(PercentileObserver, BinnedObserver)
