"""Signum against a plain reference, and what tells it from its siblings."""

from __future__ import annotations

import doctest

import pytest
import torch
from athena_signum import Signum, _signum


def run(gradients: list[list[float]], **options: float) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    optimizer = Signum([weight], **options)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return weight.tolist()


def reference(gradients: list[list[float]], lr: float, momentum: float) -> list[float]:
    """Algorithm 2 of arXiv:1802.04434, an element at a time."""
    finals = []
    for element in zip(*gradients, strict=True):
        m = x = 0.0
        for g in element:
            m = momentum * m + (1 - momentum) * g
            x -= lr * ((m > 0) - (m < 0))
        finals.append(x)
    return finals


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_equals_the_algorithm(momentum: float) -> None:
    gradients = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).tolist()
    assert run(gradients, lr=0.1, momentum=momentum) == pytest.approx(reference(gradients, 0.1, momentum))


def test_size_of_gradients_has_no_influence() -> None:
    gradients = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert run(gradients.tolist()) == run((1e-3 * gradients).tolist())


def test_momentum_outlasts_one_opposed_gradient() -> None:
    gradients = [[1.0]] * 5 + [[-1.0]]
    assert run(gradients, lr=1.0, momentum=0.9) == [-6.0]
    assert run(gradients, lr=1.0, momentum=0.0) == [-4.0]


def test_element_without_gradient_stays() -> None:
    assert run([[0.0, 1.0]], lr=1.0) == [0.0, -1.0]


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": float("nan")}, {"momentum": 1.0}, {"momentum": -0.1}]
)
def test_options_outside_their_ranges(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must"):
        run([[1.0]], **options)


def test_sparse_gradient_is_refused() -> None:
    embedding = torch.nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        Signum(embedding.parameters()).step()


def test_docstring_runs() -> None:
    assert doctest.testmod(_signum).failed == 0
