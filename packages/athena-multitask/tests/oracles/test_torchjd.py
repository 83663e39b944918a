"""Balancers and `balance` against TorchJD, where both mean the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torchjd.aggregation as theirs
from torch import Tensor, nn
from torchjd.autojac import jac_to_grad, mtl_backward

from athena_multitask import IMTLG, AlignedMTL, Balancer, balance
from athena_multitask._graddrop import graddrop_direction
from athena_multitask._gradvac import gradvac_weights
from athena_multitask._pcgrad import pcgrad_weights


def drawn(kind: str, scale: float, seed: int) -> Tensor:
    """A matrix in float64."""
    generator = torch.Generator().manual_seed(seed)
    tasks, parameters = {"one task": (1, 9), "50 tasks": (50, 60)}.get(kind, (6, 9))
    matrix = torch.randn(tasks, parameters, generator=generator, dtype=torch.float64)
    if kind == "rank-deficient":
        matrix[-2:] = torch.rand(2, tasks - 2, generator=generator, dtype=torch.float64) @ matrix[:-2]
    if kind == "duplicates":
        matrix[3] = matrix[1]
    if kind == "a zero":
        matrix[2] = 0
    if kind == "zeros":
        matrix[:] = 0
    return scale * matrix


KINDS = ["plain", "rank-deficient", "duplicates", "a zero", "zeros", "one task", "50 tasks"]
SCALES = [1e-10, 1.0, 1e10]
CASES = list(itertools.product(KINDS, SCALES, range(2)))


def assert_near(found: Tensor, expected: Tensor, matrix: Tensor, tolerance: float = 1e-8) -> None:
    size = max(float(expected.norm()), float(matrix.norm(dim=1).max()), 1e-300)
    assert float((found - expected).norm()) <= tolerance * size


@pytest.mark.parametrize(("kind", "scale", "seed"), CASES)
def test_pcgrad(kind: str, scale: float, seed: int) -> None:
    matrix = drawn(kind, scale, seed)
    torch.manual_seed(seed)
    expected = theirs.PCGrad()(matrix)
    torch.manual_seed(seed)
    orders = [torch.randperm(len(matrix)).tolist() for _ in matrix]
    orders = [[j for j in order if j != i] for i, order in enumerate(orders)]
    assert_near(pcgrad_weights(matrix @ matrix.T, orders) @ matrix, expected, matrix)


@pytest.mark.parametrize(("kind", "scale", "seed"), [case for case in CASES if "zero" not in case[0]])
def test_gradvac(kind: str, scale: float, seed: int) -> None:
    """Without their small constant, in three steps; where a gradient is zero they have NaN without it."""
    method = theirs.GradVac(beta=0.3, eps=0.0)
    phi = torch.zeros(len(drawn(kind, 1.0, 0)), len(drawn(kind, 1.0, 0)), dtype=torch.float64)
    for step in range(3):
        matrix = drawn(kind, scale, 10 * seed + step)
        torch.manual_seed(step)
        expected = method(matrix)
        torch.manual_seed(step)
        n_tasks = len(matrix)
        orders = []
        for i in range(n_tasks):
            others = [j for j in range(n_tasks) if j != i]
            orders.append([others[k] for k in torch.randperm(n_tasks - 1).tolist()])
        weights, phi = gradvac_weights(matrix @ matrix.T, phi, orders, beta=0.3)
        # Equal gradients: a cosine of 1 but for rounding, of which the sine has the root.
        assert_near(weights @ matrix, expected, matrix, 1e-6 if kind == "duplicates" else 1e-8)


@pytest.mark.parametrize(("kind", "scale", "seed"), CASES)
@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_graddrop(kind: str, scale: float, seed: int, leak: float) -> None:
    matrix = drawn(kind, scale, seed)
    torch.manual_seed(seed)
    expected = theirs.GradDrop(leak=torch.full((len(matrix),), leak, dtype=torch.float64))(matrix)
    torch.manual_seed(seed)
    uniform = torch.rand(matrix.shape[1], dtype=torch.float64)
    assert_near(graddrop_direction(matrix, uniform, leak=leak), expected, matrix)


@pytest.mark.parametrize(
    ("kind", "scale", "seed"), [case for case in CASES if case[0] not in ("rank-deficient", "duplicates")]
)
def test_imtl_g(kind: str, scale: float, seed: int) -> None:
    """For dependent gradients the paper has no weights; ours are of unit gradients, theirs of all."""
    matrix = drawn(kind, scale, seed)
    assert_near(IMTLG().direction(matrix), theirs.IMTLG()(matrix), matrix, 1e-7)


@pytest.mark.parametrize(("kind", "scale", "seed"), CASES)
def test_aligned_mtl(kind: str, scale: float, seed: int) -> None:
    matrix = drawn(kind, scale, seed)
    assert_near(AlignedMTL().direction(matrix), theirs.AlignedMTL()(matrix), matrix)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(4))
        self.double()

    def losses(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.encoder(x)
        return features, {f"{i}": (head(features) - i).square().mean() for i, head in enumerate(self.heads)}


def by_torchjd(model: Model, x: Tensor, aggregator: theirs.Aggregator) -> list[Tensor]:
    model.zero_grad()
    features, losses = model.losses(x)
    mtl_backward(
        list(losses.values()),
        features=features,
        tasks_params=[list(head.parameters()) for head in model.heads],
        shared_params=list(model.encoder.parameters()),
    )
    jac_to_grad(list(model.encoder.parameters()), aggregator)
    return [one.grad.clone() for one in model.parameters()]


AGGREGATORS: dict[str, Callable[[], theirs.Aggregator]] = {
    "Mean": theirs.Mean,
    "Sum": theirs.Sum,
    "MGDA": theirs.MGDA,
    "UPGrad": theirs.UPGrad,
    "DualProj": theirs.DualProj,
    "AlignedMTL": theirs.AlignedMTL,
    "IMTLG": theirs.IMTLG,
    "ConFIG": theirs.ConFIG,
    "CAGrad": lambda: theirs.CAGrad(c=0.5),
    "NashMTL": lambda: theirs.NashMTL(n_tasks=4),
    "Krum": lambda: theirs.Krum(1),
    "TrimmedMean": lambda: theirs.TrimmedMean(1),
}


@pytest.mark.filterwarnings("ignore")  # solvers of theirs speak of their own accuracy
@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregators_are_taken_as_methods(name: str) -> None:
    model, x = Model(), torch.randn(7, 3, dtype=torch.float64)
    expected = by_torchjd(model, x, AGGREGATORS[name]())
    model.zero_grad()
    balance(model.losses(x)[1], shared=model.encoder.parameters(), method=AGGREGATORS[name]())
    for found, one in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, one, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("ours", "aggregator"),
    [(AlignedMTL(), theirs.AlignedMTL()), (IMTLG(), theirs.IMTLG())],
)
def test_a_step_is_theirs(ours: Balancer, aggregator: theirs.Aggregator) -> None:
    model, x = Model(), torch.randn(7, 3, dtype=torch.float64)
    expected = by_torchjd(model, x, aggregator)
    model.zero_grad()
    balance(model.losses(x)[1], shared=model.encoder.parameters(), method=ours)
    for found, one in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, one, rtol=1e-4, atol=1e-6)
