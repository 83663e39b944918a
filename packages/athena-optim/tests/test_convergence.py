"""Every optimizer reaches the minimum of three classical problems within a stated number of steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CASES, Case
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR

from athena_optim import evaluation_weights

VECTORS = [case for case in CASES if "rows and columns" not in case.laws]
every = pytest.mark.parametrize("case", VECTORS, ids=lambda case: case.name)


def minimize(case: Case, param: nn.Parameter, loss: Callable[[], Tensor], steps: int, **options) -> float:
    """The loss at the end, at the weights to evaluate with; the rate falls to 0 on a line."""
    optimizer = case.make([param], weight_decay=0.0, **options)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / steps)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
        schedule.step()
    with evaluation_weights(optimizer), torch.no_grad():
        return loss().item()


@every
def test_rosenbrock(case):
    """A curved valley: from 24.2 to below 0.05 in 1,000 steps."""
    param = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def loss() -> Tensor:
        x, y = param
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    assert minimize(case, param, loss, 1000, lr=case.lr) < 0.05


@every
def test_ill_conditioned_quadratic(case):
    """Curvatures from 1 to 1,000, axes rotated: a ten-thousandth of the loss is left after 400 steps."""
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    hessian = rotation @ torch.diag(torch.logspace(0, 3, 12, dtype=torch.float64)) @ rotation.T
    param = nn.Parameter(torch.ones(12, dtype=torch.float64))

    def loss() -> Tensor:
        return param @ hessian @ param / 2

    first = loss().item()
    assert minimize(case, param, loss, 400, lr=case.lr) < 1e-4 * first


@every
def test_logistic_regression(case):
    """Convex: within 0.1 % of the optimum, which Newton's method finds, in 300 steps."""
    x = torch.randn(64, 5, dtype=torch.float64)
    y = (x @ torch.randn(5, dtype=torch.float64) + torch.randn(64, dtype=torch.float64) > 0).double()

    def value(weights: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x @ weights, y) + 0.005 * weights.square().sum()

    best = torch.zeros(5, dtype=torch.float64)
    for _ in range(20):
        probability = torch.sigmoid(x @ best)
        gradient = x.T @ (probability - y) / 64 + 0.01 * best
        curvature = (x.T * probability * (1 - probability)) @ x / 64 + 0.01 * torch.eye(
            5, dtype=torch.float64
        )
        best -= torch.linalg.solve(curvature, gradient)
    param = nn.Parameter(torch.full((5,), 0.1, dtype=torch.float64))
    reached = minimize(case, param, lambda: value(param), 300, lr=case.lr)
    assert reached < 1.001 * value(best).item()


@pytest.mark.parametrize("case", [case for case in CASES if case not in VECTORS], ids=lambda case: case.name)
def test_a_matrix_is_recovered(case):
    """Least squares with inputs of unlike variances: a millionth of the loss is left after 300 steps."""
    x = torch.randn(64, 8, dtype=torch.float64) * torch.logspace(0, 1.5, 8, dtype=torch.float64)
    target = torch.randn(6, 8, dtype=torch.float64)
    param = nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))

    def loss() -> Tensor:
        return (x @ (param - target).T).square().mean()

    first = loss().item()
    assert minimize(case, param, loss, 300, lr=case.lr) < 1e-6 * first
