"""Sinusoidal positions against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from athena_nn import RotaryPositions, SinusoidalPositions
from athena_nn._sinusoidal import sinusoids


def plain_sinusoids(positions: list[int], width: int, base: float) -> torch.Tensor:
    rows = torch.empty(len(positions), width, dtype=torch.float64)
    for t, position in enumerate(positions):
        for i in range(width // 2):
            angle = position / base ** (2 * i / width)
            rows[t, 2 * i], rows[t, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return rows


@pytest.mark.parametrize("base", [10_000.0, 100.0])
@pytest.mark.parametrize("width", [2, 6, 64])
def test_equals_the_loops(dtype, tolerance, width, base):
    x, positions = torch.randn(2, 4, width).to(dtype), [0, 1, 17, 100]
    y = SinusoidalPositions(width, base=base).embed(x, torch.tensor(positions))
    assert y.dtype == dtype
    bounds = {name: max(bound, 3e-5) for name, bound in tolerance.items()}  # phases are float32
    torch.testing.assert_close(y.double(), x.double() + plain_sinusoids(positions, width, base), **bounds)


def test_golden_value():
    """Position 1 of width 4 (section 3.5): sin 1, cos 1, sin 0.01, cos 0.01."""
    expected = torch.tensor([[0.8414709848, 0.5403023059, 0.0099998333, 0.9999500004]])
    torch.testing.assert_close(sinusoids(torch.tensor([1]), 4), expected)


def test_a_shift_is_a_rotation():
    """Section 3.5: what position p + 5 has is a linear function of what p has, the same for all p.

    Rotary positions, the sibling, turn it: (cos, sin) of p by the angle of 5.
    """
    rows = sinusoids(torch.arange(20), 16)
    pairs = rows.unflatten(-1, (8, 2)).flip(-1).flatten(-2)  # cosines first, as the real parts
    rotary = RotaryPositions(16, layout="interleaved")
    phases = rotary.phases(torch.full((15,), 5), torch.float32)
    shifted = rotary.rotate(pairs[None, None, :15], phases)[0, 0]
    torch.testing.assert_close(shifted, pairs[5:], rtol=1e-5, atol=1e-5)


def test_each_row_at_its_own_position():
    """Pitfalls 3 and 7: unequal prompts, positions a row."""
    part, x = SinusoidalPositions(6), torch.randn(2, 3, 6)
    positions = torch.tensor([[0, 1, 2], [7, 8, 9]])
    together = part.embed(x, positions)
    for row in range(2):
        torch.testing.assert_close(together[row], part.embed(x[row : row + 1], positions[row])[0])


def test_a_bfloat16_model_at_position_100_000():
    """Pitfall 4: phases are float32, cast last; any position, as nothing is looked up."""
    part = SinusoidalPositions(64).bfloat16()
    y = part.embed(torch.zeros(1, 2, 64, dtype=torch.bfloat16), torch.tensor([99_999, 100_000]))
    expected = plain_sinusoids([99_999, 100_000], 64, 10_000.0)
    assert (y[0].double() - expected).abs().max() < 100_000 * 2**-23 + 2**-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SinusoidalPositions(5), "`embed_dim` must be even and at least 2"),
        (lambda: SinusoidalPositions(0), "`embed_dim`"),
        (lambda: SinusoidalPositions(4, base=1.0), "`base` must be above 1"),
        (
            lambda: SinusoidalPositions(4).embed(torch.ones(1, 2, 1), torch.arange(2)),
            r"`x` must have width `embed_dim` = 4; got \(1, 2, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
