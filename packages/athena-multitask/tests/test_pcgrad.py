"""PCGrad from the Gramian is PCGrad on the gradients, as its algorithm is written."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_multitask import PCGrad
from athena_multitask._pcgrad import drawn_orders, pcgrad_weights


def plain(matrix: Tensor, orders: list[list[int]]) -> Tensor:
    """Algorithm 1, on the gradients."""
    total = torch.zeros_like(matrix[0])
    for i, order in enumerate(orders):
        changed = matrix[i].clone()
        for j in order:
            product = changed @ matrix[j]
            if product < 0:
                changed = changed - product / matrix[j].square().sum() * matrix[j]
        total += changed
    return total


@given(st.integers(0, 2**20), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1e-10, 1.0, 1e10]))
def test_it_is_the_algorithm(seed: int, tasks: int, parameters: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(tasks, parameters, generator=generator, dtype=torch.float64)
    orders = drawn_orders(tasks, generator)
    found = pcgrad_weights(matrix @ matrix.T, orders) @ matrix
    torch.testing.assert_close(found, plain(matrix, orders), rtol=1e-8, atol=1e-8 * scale)


def test_worked_by_hand() -> None:
    """Pitfall 2: original gradients are projected on, and the sum is taken.

    g0 = (1, 0) meets g1 = (-1, 1): product -1, square 2, so (1/2, 1/2); then g2 = (0, -2): -1 over 4, so
    (1/2, 0). g1 meets g0: -1, so (0, 1); then g2: -2 over 4, so (0, 0). g2 meets g0: 0; then g1: -2 over 2,
    so (-1, -1).
    """
    matrix = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -2.0]])
    weights = pcgrad_weights(matrix @ matrix.T, [[1, 2], [0, 2], [0, 1]])
    torch.testing.assert_close(weights @ matrix, torch.tensor([-0.5, -1.0]))
    # With the other order for task 0: g2 first, nothing; then g1, (1/2, 1/2).
    weights = pcgrad_weights(matrix @ matrix.T, [[2, 1], [0, 2], [0, 1]])
    torch.testing.assert_close(weights @ matrix, torch.tensor([-0.5, -0.5]))


def test_orders_are_of_the_others_and_differ_between_tasks() -> None:
    """Pitfall 2: one order a task, without the task itself."""
    orders = drawn_orders(20, torch.Generator().manual_seed(0))
    for task, order in enumerate(orders):
        assert sorted(order) == [other for other in range(20) if other != task]
    ranks = [[order.index(other) for other in (18, 19)] for order in orders[:18]]
    assert len({first < second for first, second in ranks}) == 2
    assert drawn_orders(1, torch.Generator()) == [[]]


def test_every_order_comes_up() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(drawn_orders(4, generator)[2]) for _ in range(200)}
    assert len(seen) == 6


def test_two_tasks_do_not_conflict_with_the_direction() -> None:
    matrix = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    assert (matrix @ PCGrad().direction(matrix) >= 0).all()


def test_without_conflict_it_is_the_sum() -> None:
    matrix = torch.rand(6, 9)
    assert PCGrad().weights(matrix @ matrix.T).tolist() == [1.0] * 6


def test_zero_gradients_change_nothing() -> None:
    """Pitfall 5: no division by the square of zero."""
    some = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    with_zero = torch.cat([some, torch.zeros(1, 2)])
    torch.testing.assert_close(PCGrad().direction(with_zero), PCGrad().direction(some))


def test_seeds_give_orders() -> None:
    matrix = torch.randn(8, 3)
    directions = [PCGrad(seed=seed).direction(matrix) for seed in (0, 0, 1)]
    assert directions[0].equal(directions[1])
    assert not directions[0].equal(directions[2])
