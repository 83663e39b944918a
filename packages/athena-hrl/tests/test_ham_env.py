"""The induced process as an environment of Gymnasium, one and many."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from ham_corridor import CELLS, Corridor, corridor, flat, graph_root, numpy_corridor, root

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments import NumpyVectorEnv
from athena_hrl import (
    HAM,
    ChoicePoints,
    HAMEnv,
    HAMQLearning,
    HAMVectorEnv,
    OptionEnv,
    SMDPQLearning,
    act,
    choose,
    primitives,
)
from athena_hrl._machine_replay import same

SIZES: dict[str, Any] = {"max_points": 2, "max_choices": 3, "gamma": 0.5}


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_it_is_an_environment_of_gymnasium() -> None:
    env = HAMEnv(numpy_corridor(slip=0.1, limit=30), HAM(flat), max_points=1, max_choices=2)
    check_env(env, skip_render_check=True)


def test_pitfall_20_rewards_durations_and_masks() -> None:
    env = HAMEnv(corridor(), HAM(root), **SIZES)
    observation, info = env.reset(seed=0)
    assert observation == {"observation": 2, "point": 0}
    assert (info["duration"], info["discount"], info["at_choice"]) == (0, 1.0, True)
    assert info["action_mask"].tolist() == env.action_masks().tolist() == [True, True, False]
    observation, reward, terminated, truncated, info = env.step(0)
    assert observation == {"observation": 1, "point": 1}
    assert reward == -1.125 + 0.5 * -1 + 0.25 * -1.125
    assert (terminated, truncated, info["duration"], info["discount"]) == (False, False, 3, 0.125)
    assert info["action_mask"].all()
    assert env.step(0)[1:4] == (0.0, False, False)
    observation, reward, terminated, _, info = env.step(1)
    assert (reward, info["duration"], observation["observation"]) == (-1.25 + 0.5 * -1.375, 2, 3)
    observation, reward, terminated, _, info = env.step(1)
    assert (observation, reward, terminated) == ({"observation": 5, "point": 2}, -1.5 + 0.5 * 10, True)
    assert (info["at_choice"], info["duration"]) == (False, 2)
    assert env.gamma == 0.5


def test_an_index_is_observation_and_point() -> None:
    env = HAMEnv(corridor(), HAM(root), **SIZES, form="index")
    assert env.observation_space == spaces.Discrete(CELLS * 3)
    assert env.reset()[0] == 2 * 3
    assert env.step(0)[0] == 1 * 3 + 1


def test_pitfall_22_an_end_inside_of_a_machine_closes_the_step() -> None:
    env = HAMEnv(corridor(limit=3), HAM(root), **SIZES)
    env.reset()
    env.step(1)
    observation, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["duration"]) == (-1.375, False, True, 1)
    assert (info["at_choice"], observation) == (False, {"observation": 3, "point": 2})
    assert info["action_mask"].tolist() == [True, False, False]
    with pytest.raises(ResetNeeded):
        env.step(0)
    env = HAMEnv(corridor(limit=2), HAM(root), **SIZES)
    env.reset()
    observation, _, _, truncated, info = env.step(1)
    assert (truncated, info["at_choice"], observation) == (True, True, {"observation": 4, "point": 0})


def test_episodes_without_a_choice_are_passed_over() -> None:
    def late(machine):
        if machine.state == 2:
            while True:
                yield act(1)
        yield act((yield choose("way", range(2))))

    class Elsewhere(gym.Wrapper):
        starts = iter([2, 2, 3])

        def reset(self, **options: Any) -> Any:
            found = self.env.reset(**options)
            self.unwrapped.cell = next(self.starts)
            return self.unwrapped.cell, found[1]

    assert HAMEnv(Elsewhere(corridor()), HAM(late), **SIZES).reset()[0] == {"observation": 3, "point": 0}

    def never(machine):
        yield act(1)

    with pytest.raises(ValueError, match="got none in 1,000 episodes"):
        HAMEnv(corridor(), HAM(never), **SIZES).reset()


def test_a_seed_is_of_the_first_episode_alone() -> None:
    def late(machine):
        yield act(1)
        if machine.state == 3:
            yield choose("way", range(2))
        yield act(1)

    for seed in range(10):  # of some, the first episodes have no choice
        env = HAMEnv(numpy_corridor(slip=0.5, limit=2), HAM(late), **SIZES)
        assert env.reset(seed=seed)[0]["observation"] == 3


def test_a_step_after_a_cut_at_a_choice_wants_a_reset() -> None:
    env = HAMEnv(corridor(limit=2), HAM(root), **SIZES)
    env.reset()
    _, _, _, truncated, info = env.step(1)
    assert (truncated, info["at_choice"]) == (True, True)
    with pytest.raises(ResetNeeded):
        env.step(0)


def test_too_small_sizes_raise() -> None:
    env = HAMEnv(corridor(), HAM(root), max_points=1, max_choices=3)
    env.reset()
    with pytest.raises(ValueError, match="`max_points` must be at least the number of choice points; got 1"):
        env.step(0)
    env = HAMEnv(corridor(), HAM(root), max_points=2, max_choices=2)
    env.reset()
    with pytest.raises(ValueError, match=r"`max_choices` must be at least the options .* 'times' has 3"):
        env.step(0)
    for bad in ({"max_points": 0}, {"max_choices": 0}, {"form": "flat"}, {"gamma": 2.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must"):
            HAMEnv(corridor(), HAM(root), **{**SIZES, **bad})
    with pytest.raises(ValueError, match='`form` "index" needs observations that are Discrete'):
        ChoicePoints(spaces.Box(0, 1, (2,)), max_points=1, max_choices=1, form="index")


@pytest.mark.parametrize("bad", [2, -1, 0.5, [0]])
def test_choices_outside_the_mask_raise(bad: Any) -> None:
    env = HAMEnv(corridor(), HAM(root), **SIZES)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    with pytest.raises(ValueError, match=r"`action` must lie in \[0, 2\), the options of 'way'"):
        env.step(bad)


def test_an_agent_of_another_gamma_is_refused() -> None:
    env = HAMEnv(corridor(), HAM(root), **SIZES, form="index")
    with pytest.raises(ValueError, match="`gamma` must be that of `env`"):
        SMDPQLearning(env, gamma=0.9)


def test_machines_over_options_are_refused() -> None:
    def over() -> OptionEnv:
        return OptionEnv(corridor(), primitives(corridor()), gamma=0.5)

    for make in (
        lambda: HAMEnv(over(), HAM(flat), **SIZES),
        lambda: HAMQLearning(over(), HAM(flat), gamma=0.5),
    ):
        with pytest.raises(ValueError, match="`env` must take single steps, not options"):
            make()
    rows = gym.vector.SyncVectorEnv([over] * 2)
    with pytest.raises(ValueError, match="`env` must take single steps, not options"):
        HAMVectorEnv(rows, HAM(flat), **SIZES)


def test_pitfall_22_an_agent_drops_what_was_cut_before_an_action() -> None:
    env = HAMEnv(corridor(limit=1), HAM(root), **SIZES, form="index")
    learner = SMDPQLearning(env, step_size=1.0).learn(4)
    assert not learner.visits.any()
    assert learner.steps == 4
    longer = HAMEnv(
        corridor(limit=2), HAM(root), **SIZES, form="index"
    )  # after two steps right a choice is open
    visits = SMDPQLearning(longer, epsilon=1.0).learn(40).visits
    assert visits[:, 0].sum() == 0 < visits[:, 1].sum()


def test_an_end_that_is_both_is_a_termination() -> None:
    def to_the_end(machine):
        yield choose("go", (1,))
        for _ in range(3):
            yield act(1)

    env = HAMEnv(corridor(limit=3), HAM(to_the_end), **SIZES, form="index")
    env.reset()
    assert env.step(0)[2:4] == (True, True)
    assert SMDPQLearning(env).learn(3).visits.sum() == 1


def test_pitfall_24_saved_and_copied_environments_go_on(tmp_path) -> None:
    env = HAMEnv(numpy_corridor(slip=0.2, limit=20), HAM(root), **SIZES)
    env.reset(seed=3)
    for action in (0, 1):
        env.step(action)
    base, other = copy.deepcopy(env.env), copy.deepcopy(env)
    save_checkpoint(tmp_path / "env.pt", env.state_dict())
    loaded = HAMEnv(base, HAM(root), **SIZES)
    loaded.load_state_dict(load_checkpoint(tmp_path / "env.pt"))
    random = np.random.default_rng(0)
    ended = False
    while not ended:
        action = int(random.choice(np.flatnonzero(env.action_masks())))
        found = env.step(action)
        assert repr(found) == repr(other.step(action)) == repr(loaded.step(action))
        ended = found[2] or found[3]
    with pytest.raises(ValueError, match="`max_points` must be at least 2; got 1"):
        HAMEnv(base, HAM(root), max_points=1, max_choices=3).load_state_dict(env.state_dict())


def vector(
    mode: str, *, count: int = 5, limit: int | None = 9, form: Any = "dict", machine: Any = root
) -> HAMVectorEnv:
    base = NumpyVectorEnv(Corridor(slip=0.2), count, max_episode_steps=limit, autoreset_mode=mode)
    return HAMVectorEnv(base, HAM(machine), **SIZES, form=form)


def closings(env: HAMVectorEnv, steps: int) -> list[list[tuple[Any, ...]]]:
    """For each row what was closed, when choices depend on the observation alone."""
    observation, info = env.reset(seed=10)
    found: list[list[tuple[Any, ...]]] = [[] for _ in range(env.num_envs)]
    for _ in range(steps):
        seen = observation["observation"] * 3 + observation["point"]
        actions = np.where(info["needs_choice"], (seen * 5 + 1) % info["action_mask"].sum(1), 99)
        observation, _, _, _, info = env.step(actions)
        closed = env.transitions()
        assert info["closed"].nonzero()[0].tolist() == sorted(closed.rows)
        for at, row in enumerate(closed.rows):
            found[row].append(tuple(column[at] for column in closed[1:]))
    return found


@pytest.mark.parametrize("machine", [root, graph_root()], ids=["generator", "graph"])
@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_pitfall_24_each_row_does_what_one_environment_does(mode: str, machine: Any) -> None:
    rows = closings(vector(mode, machine=machine), 300)
    for number, row in enumerate(rows):
        env = HAMEnv(numpy_corridor(slip=0.2, limit=9), HAM(root), **SIZES)
        observation, info = env.reset(seed=10 + number)
        env.points.numbers = {((("", "root", ()),), "way"): 0, ((("", "root", ()),), "times"): 1}
        for start, choice, reward, duration, discount, following, available, *ends in row:
            assert observation == start
            seen = int(observation["observation"] * 3 + observation["point"])
            assert choice == (seen * 5 + 1) % info["action_mask"].sum()
            observation, expected, terminated, truncated, info = env.step(choice)
            assert (expected, info["duration"], info["discount"]) == (reward, duration, discount)
            assert (observation, info["action_mask"].tolist()) == (following, available.tolist())
            assert ends == [terminated, truncated, info["at_choice"]]
            if terminated or truncated:
                observation, info = env.reset()
        assert len(row) > 60
    assert any(one[3] == 0 for row in rows for one in row)
    assert any(one[8] for row in rows for one in row)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_pitfall_22_machines_do_not_see_a_termination(mode: str) -> None:
    def watching(machine):
        assert machine.state != CELLS - 1
        yield act((yield choose("way", range(2))))

    env, terminated = vector(mode, limit=None, machine=watching), 0
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.ones(5, dtype=int))
        closed = env.transitions()
        assert (closed.at_choice == ~closed.terminated).all()
        terminated += int(closed.terminated.sum())
    assert terminated > 10


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_episodes_without_a_choice_close_none(mode: str) -> None:
    def late(machine):
        yield act(1)
        if machine.state == 3:
            yield choose("way", range(2))
        yield act(1)

    env, made, closed = vector(mode, limit=2, machine=late), 0, 0
    _, info = env.reset(seed=0)
    for _ in range(100):
        made += int(info["needs_choice"].sum())
        info = env.step(np.zeros(5, dtype=int))[4]
        closed += int(info["closed"].sum())
    assert made - 5 <= closed <= made


def test_rows_wait_for_a_choice_without_an_action() -> None:
    env = vector("SameStep", count=2, limit=None, form="index")
    env.env.dynamics.slip = 0.0
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [6, 6]
    for actions, expected, needs in (
        ([0, 1], [5, 11], [False, False]),  # cells 1 and 3
        ([0, 0], [2, 12], [False, True]),  # a wall, and the choice "way" in cell 4
        ([0, 0], [4, 11], [True, False]),
        ([0, 0], [3, 11], [True, False]),  # no time, so "way" at once, and no step of the environment
    ):
        observation, reward, terminated, truncated, info = env.step(np.array(actions))
        assert observation.tolist() == expected
        assert info["needs_choice"].tolist() == needs
        assert not (terminated | truncated).any()
    assert reward.tolist() == [0, 0]
    closed = env.transitions()
    assert (closed.rows.tolist(), closed.duration.tolist(), closed.discount.tolist()) == ([0], [0], [1.0])


def test_a_saved_vector_environment_goes_on(tmp_path) -> None:
    for steps in (0, 1, 7, 40):
        env = vector("NextStep", count=3)
        env.reset(seed=1)
        for _ in range(steps):
            env.step(np.zeros(3, dtype=int))
        save_checkpoint(tmp_path / "env.pt", env.state_dict())
        other = vector("NextStep", count=3)
        other.env.load_state_dict(env.env.state_dict())
        other.load_state_dict(load_checkpoint(tmp_path / "env.pt"))
        for step in range(60):
            actions = np.full(3, step % 2)
            assert repr(env.step(actions)) == repr(other.step(actions))
            assert same(env.transitions(), other.transitions())  # numbers are Python's after a load


def test_continuous_actions_and_gymnasiums_own_vectors() -> None:
    def steer(machine):
        torque = yield choose("torque", (-2.0, 2.0))
        yield act(np.array([torque], np.float32))

    base = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    env = HAMVectorEnv(base, HAM(steer), max_points=1, max_choices=2)
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (2, 3)
    for _ in range(205):
        observation, reward, _, _, info = env.step(np.array([0, 1]))
    assert env.observation_space.contains(observation)
    assert info["needs_choice"].all()
    assert reward.shape == (2,)
    env.close()
    assert base.closed


def test_wrong_use_of_many_raises() -> None:
    with pytest.raises(ValueError, match=r"got one of AutoresetMode\.DISABLED"):
        vector("Disabled")
    env = vector("SameStep")
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(5, dtype=int))
    with pytest.raises(ValueError, match="`options` must be empty; got 'reset_mask'"):
        env.reset(options={"reset_mask": np.ones(5, dtype=bool)})
    env.reset(seed=0)
    for bad in (np.zeros(4, dtype=int), np.zeros(5)):
        with pytest.raises(ValueError, match=r"`actions` must be whole numbers of the shape \(5,\)"):
            env.step(bad)
    with pytest.raises(ValueError, match="the options of 'way' in row 3; got 2"):
        env.step(np.array([0, 0, 0, 2, 0]))
    with pytest.raises(ValueError, match="`state` must be of 5 rows; got 2"):
        env.load_state_dict(vector("SameStep", count=2).state_dict() | {"rows": [{}, {}]})


def test_an_environment_without_last_observations_is_refused() -> None:
    class Forgetful(NumpyVectorEnv):
        def step(self, actions: Any) -> Any:
            return *super().step(actions)[:4], {}

    base = Forgetful(Corridor(), 2, max_episode_steps=2, autoreset_mode="SameStep")
    env = HAMVectorEnv(base, HAM(root), **SIZES)
    env.reset(seed=0)
    env.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match='`info` must hold "final_obs"'):
        env.step(np.zeros(2, dtype=int))


def test_an_exception_says_the_row() -> None:
    def fails(machine):
        yield choose("way", (0,))
        raise KeyError("lost")

    env = HAMVectorEnv(NumpyVectorEnv(Corridor(), 2), HAM(fails), max_points=1, max_choices=1)
    env.reset(seed=0)
    with pytest.raises(KeyError) as caught:
        env.step(np.zeros(2, dtype=int))
    assert caught.value.__notes__[-1] == "in row 0 of the vector environment"
