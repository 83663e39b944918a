"""The laws of balancers: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from athena_core import Component
from athena_core.testing import Check
from athena_multitask._balancer import Balancer

BalancerFactory = Callable[..., Balancer]

TOLERANCE = 1e-6  # of float64 directions, against the largest gradient: what solvers are asked for


def example_balancer(target: BalancerFactory) -> Balancer:
    """A balancer with its default options."""
    return target()


def drawn_matrix(tasks: int, parameters: int, *, seed: int = 0) -> Tensor:
    """Gradients of several tasks, in float64, some of which conflict.

    >>> drawn_matrix(2, 3).shape
    torch.Size([2, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, parameters, generator=generator, dtype=torch.float64)


def odd_matrices() -> dict[str, Tensor]:
    """Matrices on which methods have failed.

    >>> odd_matrices()["one task"].shape
    torch.Size([1, 7])
    """
    plain = drawn_matrix(4, 7)
    zero, duplicate, opposed, uneven = (plain.clone() for _ in range(4))
    zero[1] = 0
    duplicate[1] = duplicate[0]
    opposed[1] = -opposed[0]
    uneven *= torch.tensor([[1e-10], [1.0], [1e5], [1e10]], dtype=torch.float64)
    return {
        "plain": plain,
        "a gradient of zero": zero,
        "all gradients zero": torch.zeros_like(plain),
        "only one gradient not zero": torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64),
        "two gradients equal": duplicate,
        "all gradients equal": plain[:1].repeat(4, 1),
        "two gradients opposed": opposed,
        "fewer parameters than tasks": drawn_matrix(5, 2),
        "one task": plain[:1],
        "50 tasks": drawn_matrix(50, 60),
        "tiny": plain * 1e-10,
        "huge": plain * 1e10,
        "uneven": uneven,
    }


def _is_finite(target: BalancerFactory) -> None:
    for name, matrix in odd_matrices().items():
        for dtype in (torch.float64, torch.float32):
            given = matrix.to(dtype)
            direction = target().direction(given)
            assert direction.shape == given.shape[1:], f"{name}: the shape is {tuple(direction.shape)}"
            assert direction.dtype == dtype, f"{name}: {direction.dtype} from {dtype}"
            assert direction.isfinite().all(), f"{name}, {dtype}: {direction.tolist()}"


def _refuses_what_is_not_finite(target: BalancerFactory) -> None:
    matrix = drawn_matrix(3, 5)
    matrix[1, 2] = float("nan")
    try:
        target().direction(matrix)
    except ValueError:
        return
    raise AssertionError("a gradient with NaN raised no ValueError")


def _keeps_one_task(target: BalancerFactory) -> None:
    gradient = drawn_matrix(1, 7)[0]
    direction = target().direction(gradient[None])
    cosine = direction @ gradient / (direction.norm() * gradient.norm())
    assert cosine > 1 - TOLERANCE, f"the direction of one task has the cosine {cosine} with its gradient"


def _leaves_what_is_given(target: BalancerFactory) -> None:
    for name, matrix in odd_matrices().items():
        given = matrix.clone()
        target().direction(given)
        assert given.equal(matrix), f"{name}: the matrix was changed"


def _weights_give_the_direction(target: BalancerFactory) -> None:
    matrix = drawn_matrix(4, 7)
    if not target().needs_matrix:
        weights = target().weights(matrix @ matrix.T)
        assert weights.shape == (4,), f"weights have the shape {tuple(weights.shape)}"
        _assert_near(weights @ matrix, target().direction(matrix), matrix)


def _state_is_all(target: BalancerFactory) -> None:
    first, second = target(), target()
    matrices = [drawn_matrix(4, 7, seed=seed) for seed in range(6)]
    for matrix in matrices[:3]:
        first.direction(matrix)
    state = first.state_dict()
    _assert_plain(state)
    second.load_state_dict(state)
    for matrix in matrices[3:]:
        expected, found = first.direction(matrix), second.direction(matrix)
        assert expected.equal(found), "after loading the state, directions differ"


def _assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            _assert_plain(part)
    else:
        known = isinstance(value, (Tensor, str, int, float, bool, type(None)))
        assert known, f"the state holds a {type(value).__name__}, which is no tensor and no plain value"


def _permutation(target: BalancerFactory) -> None:
    matrix = drawn_matrix(5, 7)
    order = torch.tensor([3, 0, 4, 2, 1])
    _assert_near(target().direction(matrix[order]), target().direction(matrix), matrix)


def _scaling(target: BalancerFactory) -> None:
    matrix = drawn_matrix(4, 7)
    for factor in (1e-10, 0.5, 3.0, 1e10):
        _assert_near(target().direction(factor * matrix) / factor, target().direction(matrix), matrix)


def _non_conflict(target: BalancerFactory) -> None:
    for name, matrix in odd_matrices().items():
        for dtype, tolerance in ((torch.float64, TOLERANCE), (torch.float32, 1e-3)):
            given = matrix.to(dtype)
            direction = target().direction(given)
            # Of the largest gradient: to a direction that ought to be zero, rounding adds as much.
            allowed = tolerance * given.norm(dim=1) * given.norm(dim=1).max()
            assert (given @ direction >= -allowed).all(), f"{name}, {dtype}: {(given @ direction).tolist()}"


def _stationary(target: BalancerFactory) -> None:
    for tasks in (2, 3, 6):
        matrix = drawn_matrix(tasks, 8)
        positive = torch.linspace(0.5, 1.5, tasks - 1, dtype=torch.float64)
        matrix[-1] = -positive @ matrix[:-1]
        _assert_near(target().direction(matrix), torch.zeros_like(matrix[0]), matrix)


def _assert_near(found: Tensor, expected: Tensor, matrix: Tensor) -> None:
    error = float((found - expected).norm() / matrix.norm(dim=1).max())
    assert error < TOLERANCE, f"off by {error:.1e} of the largest gradient"


CLAIMS = {
    "permutation": _permutation,
    "scaling": _scaling,
    "non-conflict": _non_conflict,
    "stationary": _stationary,
}


def balancer_checks(component: Component, target: BalancerFactory) -> Iterator[Check]:  # noqa: ARG001 (the kit gives it)
    """The laws of a balancer that is made without arguments: those of all, and those that it claims."""
    laws = {
        "its direction is finite": _is_finite,
        "it refuses gradients that are not finite": _refuses_what_is_not_finite,
        "of one task it keeps the gradient": _keeps_one_task,
        "it changes nothing that is given": _leaves_what_is_given,
        "its weights give its direction": _weights_give_the_direction,
        "its state is all that it remembers": _state_is_all,
    }
    claimed = target().laws
    for name, law in laws.items():
        yield Check(name, partial(law, target))
    for name in sorted(claimed):
        yield Check(f"its claim: {name}", partial(_claim, name, target))


def _claim(name: str, target: BalancerFactory) -> None:
    assert name in CLAIMS, f"`laws` must be of {list(CLAIMS)}; got {name!r}"
    CLAIMS[name](target)
