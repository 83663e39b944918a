"""GradDrop keeps gradients of the drawn sign, which comes up as often as it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_multitask import GradDrop
from athena_multitask._graddrop import graddrop_direction


def plain(matrix: Tensor, drawn: Tensor, leak: float) -> Tensor:
    """Algorithm 1, one number after the other."""
    direction = torch.zeros_like(matrix[0])
    for k in range(matrix.shape[1]):
        column = matrix[:, k]
        size = column.abs().sum()
        purity = 0.5 * (1 + column.sum() / size) if size > 0 else 0.5
        for number in column:
            kept = number > 0 if purity > drawn[k] else number < 0
            direction[k] += (leak + (1 - leak) * kept) * number
    return direction


@given(st.integers(0, 2**20), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]))
def test_it_is_the_algorithm(seed: int, tasks: int, leak: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(tasks, 7, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 0
    drawn = torch.rand(7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(graddrop_direction(matrix, drawn, leak=leak), plain(matrix, drawn, leak))


def test_signs_come_up_as_often_as_their_share() -> None:
    matrix = torch.tensor([[3.0], [-1.0]]).expand(2, 40_000)
    direction = GradDrop(seed=0).direction(matrix)
    assert sorted(direction.unique().tolist()) == [-1.0, 3.0]
    assert abs(float((direction > 0).double().mean()) - 0.75) < 0.01


def test_without_conflict_it_is_the_sum() -> None:
    matrix = torch.rand(5, 100) * torch.tensor([1.0, -1.0]).repeat(50)
    torch.testing.assert_close(GradDrop().direction(matrix), matrix.sum(0))


def test_the_gramian_is_not_enough() -> None:
    with pytest.raises(TypeError, match="needs the gradients; got their Gramian"):
        GradDrop().weights(torch.eye(2))


@pytest.mark.parametrize("leak", [-0.1, 1.1, float("nan")])
def test_a_leak_that_is_none_is_refused(leak: float) -> None:
    with pytest.raises(ValueError, match=r"`leak` must lie in \[0, 1\]; got"):
        GradDrop(leak=leak)
