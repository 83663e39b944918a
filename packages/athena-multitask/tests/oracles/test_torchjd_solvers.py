"""The exact balancers beside TorchJD's, which solve by Frank-Wolfe, Clarabel, ECOS and quadprog."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_gradients import drawn_gradients
from torch import Tensor
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from athena_multitask import MGDA, CAGrad, NashMTL, UPGrad

# Those on which definitions agree: some direction is good for all tasks, and TorchJD's thresholds are far.
AGREED = ("plain", "rank-deficient, agreeing", "duplicates", "nearly equal", "conflicting", "huge")


def gradients(kind: str, tasks: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(drawn_gradients(kind, tasks, seed=seed))


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 50])
@pytest.mark.parametrize(
    "kind", [*AGREED, "nearly opposed", "opposed", "zeros", "tiny", "uneven", "rank-deficient"]
)
def test_mgda_is_never_longer(kind: str, tasks: int) -> None:
    for seed in range(3):
        matrix = gradients(kind, tasks, seed)
        ours = MGDA().direction(matrix).norm()
        theirs = aggregation.MGDA(epsilon=1e-12, max_iters=300)(matrix).norm()
        assert ours <= theirs * (1 + 1e-12) + 1e-9 * matrix.norm(dim=1).min()


def test_mgda_of_two_tasks_which_frank_wolfe_solves_in_one_step() -> None:
    for seed in range(10):
        matrix = gradients("plain", 2, seed)
        assert apart(MGDA().direction(matrix), aggregation.MGDA(epsilon=1e-12)(matrix)) < 1e-9


def test_mgda_is_where_frank_wolfe_is_going() -> None:
    matrix = gradients("conflicting", 8)
    exact = MGDA().direction(matrix)
    errors = [
        apart(aggregation.MGDA(epsilon=1e-12, max_iters=steps)(matrix), exact) for steps in (10, 100, 4000)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02  # of a method whose error falls as one over its steps


@pytest.mark.parametrize("c", [0.2, 0.8])
@pytest.mark.parametrize("tasks", [1, 2, 8, 50])
@pytest.mark.parametrize("kind", AGREED)
def test_cagrad(kind: str, tasks: int, c: float) -> None:
    matrix = gradients(kind, tasks)
    theirs = aggregation.CAGrad(c=c, norm_eps=1e-9)(matrix)
    assert apart(CAGrad(c=c).direction(matrix), theirs) < 1e-3  # Clarabel stops at 1e-8 of the objective


def test_cagrad_has_the_better_objective() -> None:
    for seed in range(5):
        matrix = gradients("conflicting", 8, seed)
        ours = CAGrad(c=0.4).direction(matrix)
        theirs = aggregation.CAGrad(c=0.4)(matrix)
        mean = matrix.mean(dim=0)
        assert (ours - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-9)
        theirs = mean + (theirs - mean) * min(1.0, float(0.4 * mean.norm() / (theirs - mean).norm()))
        assert (matrix @ ours).min() >= (matrix @ theirs).min() - 1e-9


def test_cagrad_differs_where_a_gradient_is_zero_or_all_are_small() -> None:
    # TorchJD gives no direction at all: g_w is zero, or the Gramian's trace is below `norm_eps`. By the paper
    # the mean, which harms nobody, is optimal in the first case; in the second only the scale is another.
    matrix = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    small = 1e-3 * torch.eye(2, dtype=torch.float64)
    theirs, ours = aggregation.CAGrad(c=0.5), CAGrad(c=0.5)
    assert theirs(matrix).norm() == theirs(small).norm() == 0
    torch.testing.assert_close(ours.direction(matrix), matrix.mean(dim=0))
    torch.testing.assert_close(ours.direction(small), 1e-3 * ours.direction(1e3 * small))


@pytest.mark.filterwarnings("ignore::UserWarning")  # its problem is not DPP
@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("tasks", [3, 8])
@pytest.mark.parametrize("kind", ["plain", "rank-deficient, agreeing", "duplicates", "conflicting"])
def test_nash_mtl(kind: str, tasks: int, scale: float) -> None:
    matrix = scale * gradients(kind, tasks, seed=1)
    theirs = aggregation.NashMTL(n_tasks=tasks, optim_niter=50, max_norm=0.0)(matrix)
    assert apart(NashMTL(max_norm=None).direction(matrix), theirs) < 1e-6
    theirs = aggregation.NashMTL(n_tasks=tasks, optim_niter=50, max_norm=0.5)(matrix)
    assert apart(NashMTL(max_norm=0.5).direction(matrix), theirs) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "tasks", "seed"), [("plain", 8, 0), ("duplicates", 2, 1), ("tiny", 2, 0)])
def test_nash_mtl_where_ecos_fails_and_theirs_is_the_sum(kind: str, tasks: int, seed: int) -> None:
    matrix = gradients(kind, tasks, seed)
    theirs = aggregation.NashMTL(n_tasks=tasks, max_norm=0.0)(matrix)
    torch.testing.assert_close(theirs, matrix.sum(dim=0))
    ours, theirs = NashMTL().direction(matrix), theirs / theirs.norm()
    assert (matrix @ ours).log().sum() >= (matrix @ theirs).clamp(min=1e-300).log().sum() - 1e-12


@pytest.mark.filterwarnings("ignore")
def test_nash_mtl_with_a_gradient_of_zero() -> None:  # pitfall 5
    matrix = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert aggregation.NashMTL(n_tasks=2)(matrix).tolist() == [0.0, 1.0]
    assert NashMTL().direction(matrix).tolist() == [0.0, 1.0]
    assert NashMTL().weights(matrix @ matrix.T).tolist() == [0.0, 1.0]


@pytest.mark.filterwarnings("ignore")
def test_nash_mtl_of_one_task_which_theirs_cannot_state() -> None:
    matrix = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="Scalar operands are not allowed"):
        aggregation.NashMTL(n_tasks=1)(matrix)
    torch.testing.assert_close(NashMTL().direction(matrix), matrix[0] / 5)


@pytest.mark.parametrize("tasks", [1, 2, 8, 50])
@pytest.mark.parametrize("kind", [*AGREED, "tiny", "opposed"])
def test_upgrad(kind: str, tasks: int) -> None:
    for seed in range(3):
        matrix = gradients(kind, tasks, seed)
        projector = QuadprogProjector(norm_eps=0.0, reg_eps=1e-11)
        theirs = aggregation.UPGrad(projector=projector)(matrix)
        error = (UPGrad().direction(matrix) - theirs).norm() / matrix.norm(dim=1).max()
        assert error < 2e-6  # of their regularisation


def test_upgrad_with_the_default_options_of_theirs_is_off_by_their_regularisation() -> None:
    matrix = gradients("conflicting", 8)
    error = apart(UPGrad().direction(matrix), aggregation.UPGrad()(matrix))
    assert 1e-6 < error < 1e-2
    np.testing.assert_array_less(-1e-9, (matrix @ UPGrad().direction(matrix)).numpy())
