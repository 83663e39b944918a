"""Learned positions: a table, and what lies beyond it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_nn import LearnedPositions, SinusoidalPositions
from athena_nn._sinusoidal import sinusoids


def test_equals_the_loops_forward_and_backward(dtype, tolerance):
    part = LearnedPositions(6, 4).to(dtype)
    x, upstream = torch.randn(2, 3, 4).to(dtype), torch.randn(2, 3, 4).to(dtype)
    positions = [[0, 5, 2], [2, 2, 1]]
    y = part.embed(x, torch.tensor(positions))
    y.backward(upstream)
    expected, gradient = x.double().clone(), torch.zeros(6, 4, dtype=torch.float64)
    for row in range(2):
        for t, position in enumerate(positions[row]):
            expected[row, t] += part.weight[position].double()
            gradient[position] += upstream[row, t].double()
    torch.testing.assert_close(y.double(), expected, **tolerance)
    torch.testing.assert_close(part.weight.grad.double(), gradient, **tolerance)


def test_a_table_of_sinusoids_is_sinusoidal_positions():
    part, x = LearnedPositions(32, 8), torch.randn(2, 5, 8)
    with torch.no_grad():
        part.weight.copy_(sinusoids(torch.arange(32), 8))
    positions = torch.tensor([[0, 1, 2, 3, 4], [27, 28, 29, 30, 31]])
    torch.testing.assert_close(part.embed(x, positions), SinusoidalPositions(8).embed(x, positions))


def test_golden_values_as_gpt_2_draws_and_names_them():
    """Standard deviation 0.02 (Radford et al. 2019); the state is one matrix, as of an embedding."""
    part, theirs = LearnedPositions(1024, 64), nn.Embedding(1024, 64)
    assert part.weight.std().item() == pytest.approx(0.02, rel=0.02)
    theirs.load_state_dict(part.state_dict())
    assert torch.equal(part.embed(torch.zeros(1, 9, 64), torch.arange(9))[0], theirs(torch.arange(9)))


def test_a_sequence_longer_than_the_table_is_refused_compiled_too():
    part, x = LearnedPositions(4, 2), torch.zeros(1, 5, 2)
    message = "A sequence must be at most `max_length` = 4 long; got 5"
    with pytest.raises(ValueError, match=message):
        part.embed(x, torch.arange(5))
    compiled = torch.compile(part.embed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x[:, :4], torch.arange(4)), part.embed(x[:, :4], torch.arange(4)))
    with pytest.raises(Exception, match="at most `max_length` = 4 long"):
        compiled(x, torch.arange(5))


@pytest.mark.parametrize(("positions", "wrong"), [([2, 3, 4], 4), ([0, -1, 2], -1)])
def test_a_position_beyond_the_table_is_refused(positions, wrong):
    """A decode step past the end: one position, never a wrapped or clipped one."""
    part = LearnedPositions(4, 2)
    message = rf"`positions` must lie in \[0, `max_length` = 4\); got {wrong}\."
    with pytest.raises(ValueError, match=message):
        part.embed(torch.zeros(1, 3, 2), torch.tensor(positions))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedPositions(0, 4), "`max_length` must be at least 1; got 0"),
        (lambda: LearnedPositions(4, 0), "`embed_dim` must be at least 1; got 0"),
        (
            lambda: LearnedPositions(4, 4).embed(torch.ones(1, 2, 1), torch.arange(2)),
            r"`x` must have width `embed_dim` = 4; got \(1, 2, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
