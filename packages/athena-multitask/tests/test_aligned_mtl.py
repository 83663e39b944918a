"""Aligned-MTL: all singular values become the smallest."""

from __future__ import annotations

import pytest
import torch

from athena_multitask import AlignedMTL


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_it_is_the_mean_of_the_aligned_gradients(scale: float) -> None:
    """By the singular values of the gradients themselves: J = U S V^T becomes min(S) U V^T."""
    matrix = scale * torch.randn(5, 20, dtype=torch.float64)
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = (singular.min() * left @ right).mean(0)
    torch.testing.assert_close(AlignedMTL().direction(matrix), expected, rtol=1e-8, atol=1e-10 * scale)


@pytest.mark.parametrize("seed", range(8))  # eigenvalues of rounding are above zero for some, not for all
def test_dependent_gradients_are_aligned_in_what_they_span(seed: int) -> None:
    torch.manual_seed(seed)
    matrix = torch.randn(5, 2, dtype=torch.float64) @ torch.randn(2, 20, dtype=torch.float64)
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = (singular[1] * left[:, :2] @ right[:2]).mean(0)
    torch.testing.assert_close(AlignedMTL().direction(matrix), expected, rtol=1e-6, atol=1e-8)


def test_worked_by_hand() -> None:
    """(2, 0) and (0, 1): both singular vectors get the length 1, of which the mean is taken."""
    matrix = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(AlignedMTL().weights(matrix @ matrix.T), torch.tensor([0.25, 0.5]))


def test_all_gradients_of_zero_have_equal_weights() -> None:
    assert AlignedMTL().weights(torch.zeros(4, 4)).tolist() == [0.25] * 4


@pytest.mark.parametrize("seed", range(8))
def test_rounding_is_not_taken_for_a_direction(seed: int) -> None:
    """In float32 the Gramian of two nearly equal gradients has an eigenvalue of rounding."""
    torch.manual_seed(seed)
    row = torch.randn(1, 1000)
    direction = AlignedMTL().direction(torch.cat([row, row * (1 + 1e-7)]))
    torch.testing.assert_close(direction, row[0], rtol=1e-4, atol=1e-4)
