"""The recipe `point-maze`, small: both learners, resume, what it reports, pictures, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from athena_core import AthenaError, Interrupted, load_checkpoint
from athena_core.testing import execute
from athena_hrl import HIRO, PointMaze, PointMazeRecipe
from athena_hrl._point_maze_pictures import plot_ways
from athena_hrl._recipe_point_maze import CountedMaze, ReachedCurve

pytest.importorskip("matplotlib")
pytest.importorskip("stable_baselines3")

SMALL: dict[str, Any] = {
    "steps": 90,
    "n_envs": 3,
    "time_limit": 8,
    "test_every": 30,
    "hidden": (8,),
    "batch_size": 8,
    "warm_up": 12,
    "subgoal_every": 3,
    "steps_per_update": 2,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"correct": False, "random_subgoals": 1.0, "reward": "sparse"},
        {"learner": "sac"},
        {"learner": "sac", "ent_coef": 0.1, "use_sde": True},
    ],
    ids=["hiro", "hiro-plain", "sac", "sac-sde"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, options):
    """Cut where episodes and subgoals are under way."""
    recipe = PointMazeRecipe(**{**SMALL, **options})
    whole = execute(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(recipe, tmp_path / "cut", cut=30)
    assert execute(recipe, tmp_path / "cut")[:2] == whole[:2]
    one, other = (
        torch.utils._pytree.tree_leaves(
            load_checkpoint(max((tmp_path / name / "checkpoints").iterdir()))["state"]
        )
        for name in ("whole", "cut")
    )
    for leaf, another in zip(one, other, strict=True):
        assert torch.equal(leaf, another) if isinstance(leaf, torch.Tensor) else leaf == another


def test_it_reports_logs_and_draws(tmp_path):
    final, rows, text = execute(PointMazeRecipe(**SMALL), tmp_path / "run")
    assert [row["step"] for row in rows] == [30, 60, 90]
    assert all(set(row) >= {"success", "reached", "length"} for row in rows)
    assert set(final) == {"success", "reached", "success_last_fifth"}
    assert "u, dense reward, hiro" in text
    assert "does not reach the goal; at no test" in text
    names = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert names == ["success.png", "way.png"]


def test_options_reach_the_learners():
    recipe = PointMazeRecipe(
        lr=0.5,
        gamma=0.4,
        hidden=(7,),
        manager_gamma=0.3,
        manager_every=5,
        subgoal_range=1.5,
        warm_up=9,
        speed=0.3,
    )
    hiro: Any = recipe.build(recipe.environment(2), seed=0, device=torch.device("cpu"))
    assert isinstance(hiro, HIRO)
    assert (hiro.gamma, hiro.manager_gamma, hiro.manager_every, hiro.warm_up) == (0.4, 0.3, 5, 9)
    assert hiro.limit.tolist() == [1.5, 1.5]
    assert hiro.worker.actor[0].out_features == 7
    assert hiro.worker.actor_optimizer.param_groups[0]["lr"] == 0.5
    assert recipe.environment(1).dynamics.speed == np.float32(0.3)  # pyright: ignore[reportAttributeAccessIssue]
    flat = PointMazeRecipe(learner="sac", ent_coef=0.2, gamma=0.4, hidden=(7,), use_sde=True, subgoal_every=4)
    learner: Any = flat.build(flat.environment(2), seed=0, device=torch.device("cpu"))
    model = learner.model
    assert (model.ent_coef, model.gamma, model.use_sde, model.sde_sample_freq) == (0.2, 0.4, True, 4)


def test_a_walk_is_an_episode_with_its_subgoals():
    """Whatever the manager says, it says so every c steps; the walk ends at the goal or the limit."""
    recipe = PointMazeRecipe(**{**SMALL, "time_limit": 10})
    way = recipe.walk(recipe.build(recipe.environment(1), seed=0, device=torch.device("cpu")))
    assert (way.points.shape, way.subgoals.shape, way.reached) == ((11, 2), (4, 2), False)
    assert way.points[0].tolist() == [1.5, 1.5]


def test_the_curve_counts_and_resumes():
    curve = ReachedCurve()
    curve.note(1, success=False, reached=0.0)
    curve.note(2, success=True, reached=0.5)
    other = ReachedCurve()
    other.load_state_dict(curve.state_dict())
    assert other.final() == curve.final() == {"success": 1.0, "reached": 0.5, "success_last_fifth": 1.0}
    assert curve.reached == [0.0, 0.5]


def test_mazes_note_who_arrives():
    def make() -> CountedMaze:
        return CountedMaze(2, autoreset_mode="SameStep", layout=["######", "#S  G#", "######"], speed=1.0)

    env = make()
    env.reset(seed=0)
    assert env.reached == 0.0
    for _ in range(199):
        env.step(np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32))
    assert env.outcomes == [True] * 4  # the latest; the one that walks left is still under way
    env.step(np.zeros((2, 2), dtype=np.float32))
    assert (env.outcomes, env.reached) == ([True] * 3 + [False], 0.75)
    other = make()
    other.load_state_dict(env.state_dict())
    assert other.reached == 0.75


def test_ways_are_drawn_with_and_without_subgoals():
    figure = plot_ways(
        PointMaze(), [[[1.5, 1.5], [2.5, 1.5]], [[1.5, 1.5]]], subgoals=[[[2.0, 2.0]]], title="two"
    )
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "two"
    assert len(axes.lines) == 2 + 1 + 1  # ways, a subgoal, the start
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rows from the top, as the layout is written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"subgoal_every": 0}, "`subgoal_every` must be at least 1"),
        ({"gamma": 1.2}, r"`gamma` must lie in \[0, 1\]"),
        ({"lr": 0.0}, "`lr` must be a positive number"),
        ({"hidden": (0,)}, "`hidden` must hold widths"),
        ({"layout": "square"}, "`layout` must be one of"),
        ({"speed": 2.0}, "`speed` must lie in"),
    ],
)
def test_misuse_is_named(tmp_path, options, message):
    with pytest.raises(AthenaError, match=message):
        execute(PointMazeRecipe(**{**SMALL, **options}), tmp_path / "run")
