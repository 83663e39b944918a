"""The two-loss problem: its closed form, its Pareto front, and which methods find it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from athena_core import AthenaError, Run
from athena_core.testing import CutRun
from athena_multitask import MultitaskToy
from athena_multitask._recipe_methods import Method
from athena_multitask._recipe_toy import REACHED, Descents
from athena_multitask._toy import (
    STARTS,
    pareto_distance,
    pareto_front,
    pareto_set,
    toy_gradients,
    toy_losses,
)


def test_losses_by_hand() -> None:
    points = torch.tensor([[3.0, 4.0], [3.0, -4.0]], dtype=torch.float64)
    c = np.tanh(2.0)
    first, second = np.log(abs(0.5 * -10 + np.tanh(4))) + 6, np.log(abs(0.0 - np.tanh(4) + 2)) + 6
    bowls = (16 + 0.1 * 16) / 10 - 20, (100 + 0.1 * 16) / 10 - 20
    expected = torch.tensor([[c * first, c * second], [c * bowls[0], c * bowls[1]]])
    torch.testing.assert_close(toy_losses(points), expected.to(points))


def test_gradients_are_derivatives() -> None:
    points = torch.tensor(STARTS, dtype=torch.float64) + 0.01
    _, matrices = toy_gradients(points)
    for axis in range(2):
        move = 1e-6 * torch.eye(2, dtype=torch.float64)[axis]
        slope = (toy_losses(points + move) - toy_losses(points - move)) / 2e-6
        torch.testing.assert_close(matrices[..., axis], slope, rtol=1e-6, atol=1e-6)


def test_no_point_beats_the_front() -> None:
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    grid = toy_losses(torch.cartesian_prod(axis, axis))
    for losses in torch.from_numpy(pareto_front(41)):
        assert not ((grid <= losses).all(1) & (grid < losses).any(1)).any()


def test_gradients_on_the_front_are_opposed() -> None:
    _, matrices = toy_gradients(torch.from_numpy(pareto_set(21)[1:-1]))
    unit = matrices / matrices.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit.sum(-2), torch.zeros_like(unit[:, 0]), rtol=0, atol=1e-9)


def test_distance_is_zero_on_the_front_alone() -> None:
    front = torch.from_numpy(pareto_front(101))
    assert pareto_distance(front).max() < 0.01
    away = pareto_distance(toy_losses(torch.tensor(STARTS)))
    assert away.min() > 1


def test_each_start_has_a_state_of_its_own() -> None:
    """All methods and starts in one graph go where each goes alone."""
    together = Descents(["pcgrad", "gradnorm", "uncertainty"], steps=8, lr=1e-2, scale=0.1, seed=3)
    alone = Descents(["gradnorm"], steps=8, lr=1e-2, scale=0.1, seed=3)
    for _ in range(8):
        together.step()
        alone.step()
    torch.testing.assert_close(alone.points[0], together.points[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gradnorm", "dwa", "uncertainty", "scale-invariant", "famo", "mgda"])
def test_a_descent_is_that_of_plain_training(name: str) -> None:
    """To first order is enough: the weights and directions are those of the losses themselves."""
    descents = Descents([name], steps=12, lr=1e-2, scale=0.1, seed=0)
    point = torch.nn.Parameter(torch.tensor(STARTS[2]))
    method = Method(name, ("first", "second"), shared=[point], seed=2)
    optimizer = torch.optim.Adam([point, *method.parameters], lr=1e-2)

    def losses() -> dict[str, torch.Tensor]:
        return dict(zip(("first", "second"), descents.scaled(toy_losses(point)), strict=True))

    for _ in range(12):
        descents.step()
        optimizer.zero_grad()
        method.backward(losses())
        optimizer.step()
        with torch.no_grad():
            method.update(losses())
    torch.testing.assert_close(descents.points[0, 2], point, rtol=1e-5, atol=1e-5)


def test_bargaining_reaches_the_front_from_all_starts() -> None:
    """In fewer, longer steps than the paper's; `oracles/test_toy_front.py` has the other methods."""
    descents = Descents(["nash-mtl"], steps=1000, lr=3e-2, scale=0.1, seed=0)
    for _ in range(1000):
        descents.step()
    assert (descents.distances() < REACHED).all(), descents.distances()


def test_run_goes_on_where_it_was_cut_and_draws(tmp_path: Path) -> None:
    recipe = MultitaskToy(steps=6, methods=("graddrop", "famo", "nash-mtl", "dwa"), log_every=1)
    with Run(tmp_path / "whole", device="cpu", seed=2) as run:
        whole = recipe.run(run)
        run.finish(whole)
    with pytest.raises(KeyboardInterrupt), CutRun(tmp_path / "cut", cut=3, device="cpu", seed=2) as run:
        recipe.run(run)
    with Run(tmp_path / "cut", device="cpu", seed=2) as run:
        assert recipe.run(run) == whole
        run.finish(whole)
    pictures = {path.stem: path.read_bytes() for path in (tmp_path / "whole" / "figures").iterdir()}
    assert pictures.keys() == {"trajectories", "front"}
    resumed = tmp_path / "cut" / "figures" / "trajectories.png"
    assert resumed.read_bytes() == pictures["trajectories"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 0.0}, "`scale` must be above 0; got 0.0"),
        ({"steps": 0}, "`steps` must be above 0; got 0"),
        ({"methods": ("mean",)}, "got 'mean'"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(AthenaError, match=said), Run(tmp_path / "run", device="cpu") as run:
        MultitaskToy(**options).run(run)  # type: ignore[arg-type]
