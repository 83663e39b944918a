"""Rotary positions against complex numbers in float64, and the pitfalls of phases and layouts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_nn import NoPositions, RotaryPositions
from athena_nn._rotary import rotary_phases


def plain_rotary(x: torch.Tensor, positions: list[int], base: float) -> torch.Tensor:
    """Half-split pairs as complex numbers, turned one by one in float64."""
    width = x.shape[-1]
    y = x.double().clone()
    for t, position in enumerate(positions):
        for i in range(width // 2):
            angle = position * base ** (-2 * i / width)
            a, b = x[..., t, i].double(), x[..., t, i + width // 2].double()
            y[..., t, i] = a * math.cos(angle) - b * math.sin(angle)
            y[..., t, i + width // 2] = b * math.cos(angle) + a * math.sin(angle)
    return y


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 2.0])
def test_equals_complex_rotation(dtype, tolerance, base):
    x = torch.randn(2, 3, 5, 8).to(dtype)
    positions = [0, 1, 7, 100, 3]
    q, k = RotaryPositions(8, base).rotate(x, 2 * x, torch.tensor(positions))
    assert q.dtype == dtype
    expected = plain_rotary(x, positions, base)
    # float32 phases, even for float64 inputs: 2^-23 of position 100
    bounds = {name: max(bound, 2e-5) for name, bound in tolerance.items()}
    torch.testing.assert_close(q.double(), expected, **bounds)
    torch.testing.assert_close(k.double(), 2 * expected, **bounds)


def test_golden_value():
    """Position 1, first pair: 1 radian. Position 2, second of two pairs: 2 * 10000^(-1/2) (equation 15)."""
    torch.testing.assert_close(
        rotary_phases(torch.tensor([1, 2]), 4, 10_000.0), torch.tensor([[1.0, 0.01], [2.0, 0.02]])
    )


@settings(max_examples=50)
@given(m=st.integers(0, 500), n=st.integers(0, 500), shift=st.integers(0, 1000))
def test_scores_depend_on_distance_alone(m, n, shift):
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    rotary = RotaryPositions(16)

    def score(query_position: int, key_position: int) -> float:
        rotated_q = rotary.rotate(q, q, torch.tensor([query_position]))[0]
        rotated_k = rotary.rotate(k, k, torch.tensor([key_position]))[1]
        return (rotated_q * rotated_k).sum().item()

    # phases near 1500 are off by up to 2^-23 * 1500 = 2e-4
    assert score(m, n) == pytest.approx(score(m + shift, n + shift), abs=2e-3)


def test_a_bfloat16_model_keeps_exact_phases():
    """Pitfall 4: bfloat16 phases collapse 8,192 positions to 897 and err by 2.0 in the cosine."""
    positions = torch.arange(8192)
    rotary = RotaryPositions(64).bfloat16()
    one = torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16)
    one[..., 0] = 1  # the fastest pair: its rotation shows cos(position)
    cosines = rotary.rotate(one, one, positions)[0][0, 0, :, 0].double()
    exact = torch.cos(positions.double())
    assert (cosines - exact).abs().max() < 0.003
    collapsed = torch.cos(positions.bfloat16().double())
    assert (collapsed - exact).abs().max() > 1.9


def test_phases_at_position_100_000():
    """The documented bound, 2^-23 of the position, for every frequency."""
    positions = torch.tensor([99_999, 100_000])
    exponents = torch.arange(0, 128, 2, dtype=torch.float64) / 128
    exact = positions[:, None].double() * 10_000.0**-exponents
    error = (rotary_phases(positions, 128, 10_000.0).double() - exact).abs().max().item()
    assert error < 100_000 * 2**-23


def test_each_row_at_its_own_position():
    """Pitfall 3: positions come from each row, not from the padded width."""
    rotary = RotaryPositions(8)
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])
    together = rotary.rotate(x, x, positions)[0]
    for row in range(2):
        alone = rotary.rotate(x[row : row + 1], x[row : row + 1], positions[row])[0]
        torch.testing.assert_close(together[row : row + 1], alone)


def test_identity_with_the_interleaved_layout():
    """Pitfall 5: the paper turns (2i, 2i+1); permuting dimensions on the way in and out gives the same."""
    x, positions = torch.randn(1, 2, 6, 8), torch.arange(6)
    phases = rotary_phases(positions, 8, 10_000.0)
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    interleaved = torch.view_as_real(pairs * torch.polar(torch.ones_like(phases), phases)).flatten(-2)
    to_half_split = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    ours = RotaryPositions(8).rotate(x[..., to_half_split], x, positions)[0]
    torch.testing.assert_close(ours, interleaved[..., to_half_split])


def test_norms_are_kept_and_position_0_changes_nothing():
    x = torch.randn(1, 1, 3, 16)
    rotated = RotaryPositions(16).rotate(x, x, torch.tensor([0, 5, 900]))[0]
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))


def test_gradcheck():
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    rotary = RotaryPositions(4)
    assert torch.autograd.gradcheck(lambda x: rotary.rotate(x, x, torch.arange(3)), (x,))


def test_no_state_and_neutral_hooks():
    rotary = RotaryPositions(4)
    assert rotary.state_dict() == {}
    x = torch.randn(1, 2, 4)
    for part in (rotary, NoPositions()):
        assert part.embed(x, torch.arange(2)) is x
        assert part.bias(torch.arange(2), torch.arange(2)) is None
    q, k = NoPositions().rotate(x, x, torch.arange(2))
    assert q is x
    assert k is x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 5}, "`head_dim` must be even and at least 2 with rotary positions; got 5"),
        ({"head_dim": 0}, "`head_dim`"),
        ({"head_dim": 4, "base": 0.0}, "`base` must be above 0"),
        ({"head_dim": 4, "base": math.nan}, "`base`"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RotaryPositions(**options)
