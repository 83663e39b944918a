"""GradVac from the Gramian is GradVac on the gradients, as its algorithm is written."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_multitask import GradVac, PCGrad
from athena_multitask._gradvac import gradvac_weights
from athena_multitask._pcgrad import drawn_orders


def plain(matrix: Tensor, expected: Tensor, orders: list[list[int]], beta: float) -> tuple[Tensor, Tensor]:
    """Algorithm 1, on the gradients."""
    expected, total = expected.clone(), torch.zeros_like(matrix[0])
    for i, order in enumerate(orders):
        changed = matrix[i].clone()
        for j in order:
            wanted = expected[i, j].clone()
            phi = changed @ matrix[j] / (changed.norm() * matrix[j].norm())
            if phi < wanted:
                root = (1 - wanted**2).sqrt()
                turn = wanted * (1 - phi**2).clamp(min=0).sqrt() - phi * root
                changed = changed + changed.norm() * turn / (matrix[j].norm() * root) * matrix[j]
            expected[i, j] = (1 - beta) * wanted + beta * phi
        total += changed
    return total, expected


@given(st.integers(0, 2**20), st.integers(1, 6), st.sampled_from([1e-10, 1.0, 1e10]))
def test_it_is_the_algorithm(seed: int, tasks: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    expected = found = torch.rand(tasks, tasks, generator=generator, dtype=torch.float64) - 0.5
    for _ in range(3):
        matrix = scale * torch.randn(tasks, 8, generator=generator, dtype=torch.float64)
        orders = drawn_orders(tasks, generator)
        weights, found = gradvac_weights(matrix @ matrix.T, found, orders, beta=0.3)
        total, expected = plain(matrix, expected, orders, 0.3)
        torch.testing.assert_close(weights @ matrix, total, rtol=1e-7, atol=1e-7 * scale)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_gradients_are_turned_to_the_cosine_that_is_expected() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.6], [-1.0, 0.0]], dtype=torch.float64)
    weights, after = gradvac_weights(matrix @ matrix.T, expected, [[1], [0]], beta=0.5)
    turned = weights @ matrix - matrix[1]  # only the first was below what it expects
    torch.testing.assert_close(
        turned, torch.tensor([1.0, 0.75], dtype=torch.float64)
    )  # of cosine 0.6 with (0, 1)
    assert after.tolist() == [[0.0, 0.3], [-0.5, 0.0]]


def test_the_first_step_is_that_of_pcgrad() -> None:
    matrix = torch.randn(2, 5, dtype=torch.float64)
    matrix[1] -= 2 * matrix[0]
    torch.testing.assert_close(GradVac().direction(matrix), PCGrad().direction(matrix))


def test_equal_gradients_come_to_expect_to_stay_equal() -> None:
    """Pitfall 5: an expected cosine of 1, whose root of 1 minus its square would be a division by zero."""
    method = GradVac(beta=1.0)
    equal = torch.ones(3, 4)
    torch.testing.assert_close(method.direction(equal), 3 * equal[0])
    assert method.expected[0, 1] > 1 - 1e-12
    assert method.direction(torch.randn(3, 4)).isfinite().all()


def test_zero_gradients_expect_nothing() -> None:
    method = GradVac(beta=0.5)
    matrix = torch.randn(3, 4)
    matrix[1] = 0
    method.direction(matrix)
    assert method.expected[1].tolist() == [0.0] * 3
    assert method.expected[:, 1].tolist() == [0.0] * 3
    assert method.expected[0, 2] != 0
    expected = method.expected.clone()
    method.direction(matrix * torch.tensor([[1.0], [1.0], [0.0]]))  # one that has become zero
    assert method.expected[2].tolist() == expected[2].tolist()
    assert method.expected[:, 2].tolist() == expected[:, 2].tolist()


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"`beta` must lie in \(0, 1\]; got"):
        GradVac(beta=beta)


def test_another_number_of_tasks_is_refused() -> None:
    method = GradVac()
    method.direction(torch.randn(3, 4))
    with pytest.raises(ValueError, match="must be of 3 tasks as before; got 2"):
        method.direction(torch.randn(2, 4))
