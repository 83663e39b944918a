"""Rotary positions and their scalings against loops in float64, and the pitfalls of phases and layouts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_nn import (
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RotaryPositions,
    YarnScaling,
)
from athena_nn._rotary import _samples, change_rotary_layout, rotary
from athena_nn._rotary_scaling import rotary_frequencies

LAYOUTS = pytest.mark.parametrize("layout", ["half-split", "interleaved"])


def plain_rotary(
    x: torch.Tensor, positions: list[int], frequencies: list[float], layout: str = "half-split"
) -> torch.Tensor:
    """Pairs turned one by one, in float64."""
    y, n = x.double().clone(), len(frequencies)
    for t, position in enumerate(positions):
        for i, frequency in enumerate(frequencies):
            first, second = (i, i + n) if layout == "half-split" else (2 * i, 2 * i + 1)
            a, b = x[..., t, first].double(), x[..., t, second].double()
            cos, sin = math.cos(position * frequency), math.sin(position * frequency)
            y[..., t, first] = a * cos - b * sin
            y[..., t, second] = b * cos + a * sin
    return y


def plain_frequencies(rotary_dim: int, base: float = 10_000.0) -> list[float]:
    return [base ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2)]


def turned(part: RotaryPositions, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return part.rotate(x, part.phases(positions, x.dtype))


@LAYOUTS
@pytest.mark.parametrize("rotary_dim", [None, 2, 6])
@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 2.0])
def test_equals_the_loops(dtype, tolerance, base, rotary_dim, layout):
    x, positions = torch.randn(2, 3, 5, 8).to(dtype), [0, 1, 7, 100, 3]
    part = RotaryPositions(8, base=base, rotary_dim=rotary_dim, layout=layout)
    y = turned(part, x, torch.tensor(positions))
    assert y.dtype == dtype
    expected = plain_rotary(x, positions, plain_frequencies(rotary_dim or 8, base), layout)
    # float32 phases, even for float64 inputs: 2^-23 of position 100
    torch.testing.assert_close(
        y.double(), expected, **{name: max(bound, 3e-5) for name, bound in tolerance.items()}
    )


@LAYOUTS
def test_partial_rotation_passes_the_other_dimensions_on(layout):
    x, positions = torch.randn(2, 3, 4, 10), torch.arange(4)
    y = turned(RotaryPositions(10, rotary_dim=6, layout=layout), x, positions)
    assert torch.equal(y[..., 6:], x[..., 6:])
    assert torch.equal(y[..., :6], turned(RotaryPositions(6, layout=layout), x[..., :6], positions))


def test_golden_value():
    """Position 1, first pair: 1 radian. Position 2, second of two pairs: 2 * 10000^(-1/2) (equation 15)."""
    cos, sin = RotaryPositions(4).phases(torch.tensor([1, 2]), torch.float64)
    angles = torch.tensor([[1.0, 0.01], [2.0, 0.02]], dtype=torch.float64)
    torch.testing.assert_close(cos, angles.cos(), rtol=1e-6, atol=0)
    torch.testing.assert_close(sin, angles.sin(), rtol=1e-6, atol=0)


@settings(max_examples=50)
@given(
    m=st.integers(0, 500),
    n=st.integers(0, 500),
    shift=st.integers(0, 1000),
    layout=st.sampled_from(["half-split", "interleaved"]),
)
def test_scores_depend_on_distance_alone(m, n, shift, layout):
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    part = RotaryPositions(16, layout=layout)

    def score(query_position: int, key_position: int) -> float:
        turned_q = turned(part, q, torch.tensor([query_position]))
        return (turned_q * turned(part, k, torch.tensor([key_position]))).sum().item()

    # phases near 1500 are off by up to 2^-23 * 1500 = 2e-4
    assert score(m, n) == pytest.approx(score(m + shift, n + shift), abs=2e-3)


def test_a_bfloat16_model_keeps_exact_phases():
    """Pitfall 4: bfloat16 phases collapse 8,192 positions to 897 and err by 2.0 in the cosine."""
    positions = torch.arange(8192)
    one = torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16)
    one[..., 0] = 1  # the fastest pair: its rotation shows cos(position)
    cosines = turned(RotaryPositions(64).bfloat16(), one, positions)[0, 0, :, 0].double()
    exact = torch.cos(positions.double())
    assert (cosines - exact).abs().max() < 0.003
    collapsed = torch.cos(positions.bfloat16().double())
    assert len(positions.bfloat16().unique()) == 897
    assert (collapsed - exact).abs().max() > 1.9


def test_a_bfloat16_model_at_position_100_000():
    """The documented bound of angles, 2^-23 of the position, and half a unit of bfloat16 in the cosine."""
    positions = torch.tensor([99_999, 100_000])
    cos, sin = RotaryPositions(128).bfloat16().phases(positions, torch.bfloat16)
    angles = positions[:, None].double() * torch.tensor(plain_frequencies(128), dtype=torch.float64)
    for found, exact in ((cos, angles.cos()), (sin, angles.sin())):
        assert found.dtype == torch.bfloat16
        assert (found.double() - exact).abs().max() < 100_000 * 2**-23 + 2**-9


def test_each_row_at_its_own_position():
    """Pitfall 3: positions come from each row, not from the padded width."""
    part = RotaryPositions(8)
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])
    assert part.phases(positions, x.dtype)[0].shape == (2, 1, 4, 4)
    together = turned(part, x, positions)
    for row in range(2):
        torch.testing.assert_close(together[row : row + 1], turned(part, x[row : row + 1], positions[row]))


@pytest.mark.parametrize("rotary_dim", [None, 4])
@pytest.mark.parametrize("to", ["half-split", "interleaved"])
def test_layouts_are_equal_up_to_the_order_of_rows(to, rotary_dim):
    """Pitfall 5: the other layout silently corrupts weights; with rows reordered, scores are the same."""
    heads, head_dim, width = 3, 8, 16
    x, positions = torch.randn(2, 6, width), torch.arange(6)
    rows = torch.randn(2, heads * head_dim, width)  # of queries, and of keys

    def scores(rows: torch.Tensor, layout: str) -> torch.Tensor:
        part = RotaryPositions(head_dim, layout=layout, rotary_dim=rotary_dim)
        q, k = (
            turned(part, (x @ w.T).unflatten(-1, (heads, head_dim)).transpose(1, 2), positions) for w in rows
        )
        return q @ k.mT

    other = "interleaved" if to == "half-split" else "half-split"
    changed = torch.stack([change_rotary_layout(w, head_dim, to=to, rotary_dim=rotary_dim) for w in rows])
    wanted = scores(rows, other)
    torch.testing.assert_close(scores(changed, to), wanted, rtol=1e-4, atol=1e-4)
    assert (scores(rows, to) - wanted).abs().max() > 1  # what is silent without
    back = torch.stack([change_rotary_layout(w, head_dim, to=other, rotary_dim=rotary_dim) for w in changed])
    assert torch.equal(back, rows)


def test_norms_are_kept_and_position_0_changes_nothing():
    x = torch.randn(1, 1, 3, 16)
    y = turned(RotaryPositions(16), x, torch.tensor([0, 5, 900]))
    assert torch.equal(y[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def test_the_op_equals_the_loops_on_all_samples(dtype, tolerance):
    """The samples that kernels are compared on, so they are tried too."""
    for x, cos, sin, interleaved in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        n = cos.shape[-1]
        y = rotary(x, cos, sin, interleaved)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        first = x[..., 0 : 2 * n : 2] if interleaved else x[..., :n]
        second = x[..., 1 : 2 * n : 2] if interleaved else x[..., n : 2 * n]
        a, b, c, s = (each.double() for each in (first, second, cos, sin))
        found = (
            (y[..., 0 : 2 * n : 2], y[..., 1 : 2 * n : 2]) if interleaved else y[..., : 2 * n].chunk(2, -1)
        )
        torch.testing.assert_close(found[0].double(), a * c - b * s, **tolerance)
        torch.testing.assert_close(found[1].double(), b * c + a * s, **tolerance)
        assert torch.equal(y[..., 2 * n :], x[..., 2 * n :])


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_op_passes_gradcheck_twice(interleaved):
    x = torch.randn(2, 1, 3, 5, dtype=torch.float64, requires_grad=True)
    cos, sin = (torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(rotary, (x, cos, sin, interleaved))
    assert torch.autograd.gradgradcheck(rotary, (x, cos, sin, interleaved))


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_gradient_is_the_opposite_rotation(interleaved):
    x, upstream = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 5, 8)
    cos, sin = RotaryPositions(8).phases(torch.arange(5), x.dtype)
    rotary(x, cos, sin, interleaved).backward(upstream)
    torch.testing.assert_close(x.grad, rotary(upstream, cos, -sin, interleaved))


# Scalings


def test_linear_scaling_by_2_is_half_the_positions():
    positions = torch.arange(0, 2000, 2)
    scaled = RotaryPositions(16, scaling=LinearScaling(2.0)).phases(positions, torch.float32)
    halved = RotaryPositions(16).phases(positions // 2, torch.float32)
    assert torch.equal(scaled[0], halved[0])
    assert torch.equal(scaled[1], halved[1])


def test_ntk_scaling_slows_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all():
    ratio = NTKScaling(8.0).frequencies(64, 10_000.0) / rotary_frequencies(64, 10_000.0)
    assert ratio[0] == 1
    assert ratio[-1].item() == pytest.approx(1 / 8, rel=1e-6)
    assert (ratio.diff() < 0).all()


def plain_yarn(rotary_dim: int, base: float, scaling: YarnScaling) -> list[float]:
    """Section 3.2, with a ramp over whole pairs."""

    def pair(turns: float) -> float:
        """Where b^(2i/d) 2 pi turns = L."""
        return rotary_dim / 2 * math.log(scaling.original_length / (2 * math.pi * turns), base)

    first, last = math.floor(pair(scaling.beta_fast)), math.ceil(pair(scaling.beta_slow))
    found = []
    for i, theta in enumerate(plain_frequencies(rotary_dim, base)):
        share = min(max((i - first) / (last - first), 0.0), 1.0)
        found.append((1 - share) * theta + share * theta / scaling.factor)
    return found


def plain_llama3(rotary_dim: int, base: float, scaling: Llama3Scaling) -> list[float]:
    """By wavelengths, case by case."""
    found = []
    for theta in plain_frequencies(rotary_dim, base):
        turns = scaling.original_length / (2 * math.pi / theta)
        if turns > scaling.high_freq_factor:
            found.append(theta)
        elif turns < scaling.low_freq_factor:
            found.append(theta / scaling.factor)
        else:
            share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            found.append((1 - share) * theta / scaling.factor + share * theta)
    return found


@pytest.mark.parametrize(("rotary_dim", "base"), [(64, 10_000.0), (128, 500_000.0), (32, 1e6)])
@pytest.mark.parametrize(
    ("scaling", "plain"),
    [
        (YarnScaling(4.0, 4096), plain_yarn),
        (YarnScaling(16.0, 2048, beta_fast=64.0, beta_slow=2.0), plain_yarn),
        (Llama3Scaling(), plain_llama3),
        (Llama3Scaling(32.0, 2.0, 8.0, 4096), plain_llama3),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_scaled_frequencies_equal_the_plain_ones(scaling, plain, rotary_dim, base):
    expected = torch.tensor(plain(rotary_dim, base, scaling), dtype=torch.float64)
    found = scaling.frequencies(rotary_dim, base)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_golden_yarn_of_llama_2():
    """d = 128, b = 10,000, L = 4,096: pairs up to 20 are kept, from 46 on interpolated (section 3.2).

    Pair 20.94 turns 32 times within 4,096 tokens, pair 45.03 once. For s = 16, 0.1 ln 16 + 1 = 1.277.
    """
    scaling = YarnScaling(16.0, 4096)
    ratio = scaling.frequencies(128, 10_000.0) / rotary_frequencies(128, 10_000.0)
    assert (ratio[:21] == 1).all()
    assert ((ratio[21:46] < 1) & (ratio[21:46] > 1 / 16)).all()
    assert (ratio[46:] == 1 / 16).all()
    assert scaling.magnitude == pytest.approx(1.27726, abs=1e-5)


def test_golden_llama_3_1():
    """d = 128, b = 500,000: waves up to 8,192 / 4 = 2,048 tokens are kept, those over 8,192 divided by 8.

    Pair 28 has a wave of 1,956 tokens, pair 29 of 2,401, pair 34 of 6,693, pair 35 of 8,216.
    """
    ratio = Llama3Scaling().frequencies(128, 500_000.0) / rotary_frequencies(128, 500_000.0)
    assert (ratio[:29] == 1).all()
    assert ((ratio[29:35] < 1) & (ratio[29:35] > 1 / 8)).all()
    assert (ratio[35:] == 1 / 8).all()


def test_yarn_multiplies_cosines_and_sines_by_its_magnitude():
    positions = torch.arange(5)
    cos, sin = RotaryPositions(8, scaling=YarnScaling(4.0, 64)).phases(positions, torch.float32)
    torch.testing.assert_close(
        (cos.square() + sin.square()).sqrt(), torch.full((5, 4), 0.1 * math.log(4) + 1)
    )
    fixed = RotaryPositions(8, scaling=YarnScaling(4.0, 64, attention_factor=1.0)).phases(
        positions, torch.float32
    )
    torch.testing.assert_close(fixed[0] * (0.1 * math.log(4) + 1), cos)


def test_yarn_blends_between_fractions_of_pairs_unless_truncated():
    whole, exact = (
        YarnScaling(16.0, 4096, truncate=truncate).frequencies(128, 10_000.0) for truncate in (True, False)
    )
    ratio = exact / rotary_frequencies(128, 10_000.0)
    share = (21 - 20.9448) / (45.0264 - 20.9448)  # pair 21 lies just after 20.94
    assert ratio[21].item() == pytest.approx(1 - share * 15 / 16, abs=1e-4)
    assert not torch.equal(whole, exact)


@pytest.mark.parametrize(
    "scaling",
    [LinearScaling(1.0), NTKScaling(1.0), YarnScaling(1.0, 4096), Llama3Scaling(1.0, 1.0, 4.0, 8192)],
    ids=str,
)
def test_a_factor_of_1_changes_nothing(scaling):
    assert torch.equal(scaling.frequencies(64, 10_000.0), rotary_frequencies(64, 10_000.0))
    assert scaling.magnitude == 1


def test_yarn_of_a_short_text_and_few_pairs_stays_finite():
    """Both ends of the blend fall on pair 0."""
    frequencies = YarnScaling(4.0, original_length=4).frequencies(2, 10_000.0)
    assert torch.equal(frequencies, torch.ones(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 5}, "`head_dim` must be even and at least 2 with rotary positions; got 5"),
        ({"head_dim": 0}, "`head_dim`"),
        ({"head_dim": 4, "base": 0.0}, "`base` must be above 1"),
        ({"head_dim": 4, "base": math.nan}, "`base`"),
        ({"head_dim": 8, "rotary_dim": 3}, r"`rotary_dim` must be even and lie in \[2, 8\]; got 3"),
        ({"head_dim": 8, "rotary_dim": 10}, "`rotary_dim`"),
        ({"head_dim": 8, "rotary_dim": 0}, "`rotary_dim`"),
        ({"head_dim": 8, "layout": "split"}, "`layout` must be one of half-split, interleaved; got 'split'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RotaryPositions(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearScaling(0.5), "`factor` must be at least 1 and finite; got 0.5"),
        (lambda: NTKScaling(math.inf), "`factor`"),
        (lambda: NTKScaling(2.0).frequencies(2, 10.0), "at least 4 rotary dimensions; got 2"),
        (lambda: YarnScaling(math.nan, 4096), "`factor`"),
        (lambda: YarnScaling(2.0, 0), "`original_length`"),
        (
            lambda: YarnScaling(2.0, 64, beta_fast=1.0),
            "`beta_slow` must lie above 0 and below `beta_fast` = 1.0",
        ),
        (lambda: YarnScaling(2.0, 64, attention_factor=0.0), "`attention_factor` must be above 0"),
        (lambda: Llama3Scaling(0.0), "`factor`"),
        (lambda: Llama3Scaling(original_length=0), "`original_length`"),
        (lambda: Llama3Scaling(low_freq_factor=4.0), "`low_freq_factor` must lie above 0 and below"),
        (
            lambda: change_rotary_layout(torch.ones(6), 4, to="half-split"),
            "`head_dim` must divide the 6 rows",
        ),
        (lambda: change_rotary_layout(torch.ones(6), 3, to="half-split"), "`rotary_dim` must be even"),
        (lambda: change_rotary_layout(torch.ones(6), 6, to="split"), "`to` must be one of"),
    ],
)
def test_bad_scalings_and_layouts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
