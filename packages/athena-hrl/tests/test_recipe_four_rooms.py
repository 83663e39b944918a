"""The recipe `four-rooms`, small: resume, goals, metrics, pictures, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from athena_core import AthenaError, Interrupted, load_checkpoint
from athena_core.testing import execute
from athena_hrl import FourRooms, FourRoomsRecipe, OptionUsage, plot_option_usage, plot_options
from athena_hrl._recipe_four_rooms import curve, recovery

pytest.importorskip("matplotlib")

SMALL: dict[str, Any] = {
    "steps": 8,
    "runs": 3,
    "move_at": 4,
    "window": 3,
    "max_episode_steps": 60,
    "log_every": 2,
}


@pytest.mark.parametrize("cut", [2, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, cut):
    """Cut before and after the move, when runs are in the midst of different episodes."""
    whole = execute(FourRoomsRecipe(**SMALL), tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(FourRoomsRecipe(**SMALL), tmp_path / "cut", cut=cut)
    assert execute(FourRoomsRecipe(**SMALL), tmp_path / "cut")[:2] == whole[:2]
    states = [
        load_checkpoint(max((tmp_path / name / "checkpoints").iterdir()))["state"]
        for name in ("whole", "cut")
    ]
    for name in ("q_u", "theta", "nu", "state", "random"):
        first, second = (state["option_critic"][name] for state in states)
        assert (first == second).all(), name


def test_it_reports_logs_and_draws(tmp_path):
    final, rows, text = execute(FourRoomsRecipe(**SMALL), tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert all(set(row) >= {"option_critic", "sarsa", "actor_critic"} for row in rows)
    assert set(final) >= {"option_critic_after", "sarsa_before", "actor_critic_slower", "sarsa_slower_low"}
    assert "option-critic" in text
    names = sorted(path.stem for path in (tmp_path / "run" / "figures").iterdir())
    assert names == ["options", "recovery", "slower", "steps", "usage"]


def test_each_run_moves_its_goal_after_as_many_episodes_of_its_own():
    recipe = FourRoomsRecipe(**{**SMALL, "slip": 0.0})
    learners, goals = recipe.build(seed=1), recipe.goals(seed=1)
    rooms = FourRooms()
    assert (rooms.rooms[goals] == 2).all()
    for learner in learners.values():
        env: Any = learner.env
        while learner.episodes.min() < 6:
            recipe.play(learner, until=int(learner.episodes.min()) + 1, goals=goals)
            under_way = env.goals[~learner.waiting]
            expected = np.where(learner.episodes >= 4, goals, 62)[~learner.waiting]
            assert (under_way == expected).all()


def test_seeds_share_no_run_and_learners_share_environments():
    recipe = FourRoomsRecipe(**SMALL)
    one, other = (recipe.build(seed)["sarsa"] for seed in (0, 1))
    states = [learner.learn(5).state.tolist() for learner in (one, other)]
    assert states[0] != states[1]
    same = [learner.learn(0).state.tolist() for learner in recipe.build(2).values()]
    assert same[0] == same[1] == same[2]


def test_options_reach_the_learners():
    own: dict[str, Any] = {
        "critic_lr": 0.11,
        "policy_lr": 0.12,
        "termination_lr": 0.13,
        "temperature": 0.14,
        "epsilon": 0.15,
    }
    own |= {"deliberation_cost": 0.16, "margin": 0.17, "n_options": 3, "gamma": 0.18}
    others = {
        "actor_critic_lr": 0.21,
        "actor_critic_temperature": 0.22,
        "sarsa_lr": 0.23,
        "sarsa_temperature": 0.24,
    }
    learners: dict[str, Any] = FourRoomsRecipe(**{**SMALL, **own, **others}).build(0)
    assert {name: getattr(learners["option_critic"], name) for name in own} == own
    flat, sarsa = learners["actor_critic"], learners["sarsa"]
    assert (flat.critic_lr, flat.policy_lr, flat.temperature, flat.gamma) == (0.11, 0.21, 0.22, 0.18)
    assert (sarsa.lr, sarsa.temperature, sarsa.gamma) == (0.23, 0.24, 0.18)


def test_recovery_by_hand():
    lengths = {
        "option_critic": np.array([[9, 5, 7, 3], [9, 5, 9, 3]]),
        "sarsa": np.array([[9, 7, 9, 3], [9, 7, 9, 5]]),
    }
    final, slower = recovery(lengths, move_at=2, window=2)
    assert final["option_critic_before"] == 7.0
    assert final["option_critic_after"] == 5.5
    assert slower["sarsa"].estimate == 1.0
    assert final["sarsa_slower_low"] == slower["sarsa"].low == 1.0
    episodes, band = curve(lengths["sarsa"], 0, 4, 2)
    assert episodes.tolist() == [1.0, 3.0]
    assert band.estimate.tolist() == [8.0, 6.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"move_at": 8}, "`move_at` must be less than `steps`, 8"),
        ({"runs": 1}, "`runs` must be at least 2"),
        ({"window": 0}, "`window` must be at least 1"),
        ({"slip": 2.0}, "`slip` must lie in"),
        ({"temperature": 0.0}, "`temperature` must be a positive number"),
    ],
)
def test_misuse_raises(tmp_path, options, message):
    with pytest.raises(AthenaError, match=message):
        execute(FourRoomsRecipe(**{**SMALL, **options}), tmp_path / "run")


def test_pictures_of_other_shapes_or_nothing_raise():
    rooms = FourRooms()
    with pytest.raises(ValueError, match="must have the shapes"):
        plot_options(rooms, np.zeros((104, 2, 3)), np.zeros((104, 2)), np.zeros((104, 2)))
    with pytest.raises(ValueError, match="must have counted a step"):
        plot_option_usage(OptionUsage(2))


def test_the_picture_of_options_shows_many_of_them():
    rooms = FourRooms()
    figure = plot_options(
        rooms, np.full((104, 6, 4), 0.25), np.full((104, 6), 0.5), np.zeros((104, 6)), goal=80, title="six"
    )
    assert [axes.get_title() for axes in figure.axes[:7]][-1] == "best option"


def test_the_picture_of_use_tells_of_a_collapse():
    usage = OptionUsage(2)
    for step in range(50):
        usage.add([0], ended=[step % 5 == 0])
    assert "collapsed to one option" in plot_option_usage(usage, title="mine").get_suptitle()
