"""IMTL-G: equal projections, weights of sum 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from athena_multitask import IMTLG


def closed_form(matrix: Tensor) -> Tensor:
    """The weights as the paper has them: one of the first task and, by differences, those of the others."""
    units = matrix / matrix.norm(dim=1, keepdim=True)
    differences, unit_differences = matrix[:1] - matrix[1:], units[:1] - units[1:]
    others = matrix[0] @ unit_differences.T @ torch.linalg.inv(differences @ unit_differences.T)
    return torch.cat([1 - others.sum()[None], others])


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_it_is_the_closed_form(tasks: int, scale: float) -> None:
    matrix = torch.randn(tasks, 20, dtype=torch.float64)
    found = IMTLG().weights((scale * matrix) @ (scale * matrix).T)
    torch.testing.assert_close(found, closed_form(matrix), rtol=1e-8, atol=1e-8)


def test_projections_are_equal_whatever_the_lengths() -> None:
    matrix = torch.randn(4, 20, dtype=torch.float64)
    matrix *= torch.tensor([[1e-10], [1.0], [1e5], [1e10]], dtype=torch.float64)
    projections = torch.nn.functional.normalize(matrix, eps=0) @ IMTLG().direction(matrix)
    torch.testing.assert_close(projections, projections[:1].expand(4), rtol=1e-6, atol=0)


def test_equal_gradients_share_their_weight() -> None:
    matrix = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(IMTLG().weights(matrix @ matrix.T), torch.tensor([0.25, 0.25, 0.5]))


def test_where_no_direction_has_equal_projections_it_stands_still() -> None:
    matrix = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert IMTLG().direction(matrix).tolist() == [0.0, 0.0]
    assert IMTLG().direction(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


def test_zero_gradients_have_no_weight() -> None:
    matrix = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(IMTLG().weights(matrix @ matrix.T), torch.tensor([1 / 3, 0.0, 2 / 3]))
