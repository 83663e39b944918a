"""HAMQ-learning against value iteration, flat Q-learning and hand-worked values."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from ham_corridor import CELLS, arrival_reward, corridor, flat, root

from athena_core import load_checkpoint, save_checkpoint
from athena_hrl import HAM, HAMEnv, HAMQLearning, InducedSMDP, ReplayDiverged, SMDPQLearning, act, choose
from athena_hrl._state_key import state_key

GAMMA = 0.8
Outcome = dict[tuple[int, bool], float]  # of (cell, ended) the probability


def step(before: Outcome, action: int, slip: float) -> tuple[Outcome, float]:
    """One step of a distribution over cells, and its expected reward. An ended episode stays."""
    after, reward = defaultdict(float), 0.0
    for (cell, ended), weight in before.items():
        if ended:
            after[cell, True] += weight
            continue
        for way, chance in ((action, 1 - slip), (1 - action, slip)):
            cell_tp1 = min(max(cell + 2 * way - 1, 0), CELLS - 1)
            after[cell_tp1, cell_tp1 == CELLS - 1] += weight * chance
            reward += weight * chance * float(arrival_reward(cell_tp1))
    return dict(after), reward


def induced(label: str, cell: int, option: int, slip: float) -> tuple[float, dict[tuple[str, int], float]]:
    """Expected reward and discounted probabilities of the next choice points, of the machine `root`."""
    reward, discount, following = 0.0, 1.0, defaultdict(float)
    seen: Outcome = {(cell, False): 1.0}
    for action in [option] * 2 if label == "way" else [1] * (0, 1, 3)[option]:
        seen, now = step(seen, action, slip)
        reward, discount = reward + discount * now, discount * GAMMA
    for (at, ended), weight in seen.items():
        if ended:
            continue
        if label == "way" and at == 0:  # a wall: one step back, then the choice of times
            back, now = step({(0, False): weight}, 1, slip)
            reward += discount * now
            for (further, _), chance in back.items():
                following["times", further] += discount * GAMMA * chance
        else:
            following["way", at] += discount * weight
    return reward, dict(following)


def solved(slip: float) -> dict[tuple[str, int], np.ndarray]:
    """Value iteration on choice points alone."""
    q = {("way", cell): np.zeros(2) for cell in range(CELLS - 1)}
    q |= {("times", cell): np.zeros(3) for cell in range(2)}
    model = {(*key, c): induced(*key, c, slip) for key, values in q.items() for c in range(len(values))}
    for _ in range(300):
        for label, cell, option in model:
            reward, following = model[label, cell, option]
            q[label, cell][option] = reward + sum(w * q[to].max() for to, w in following.items())
    return q


def learned(learner: HAMQLearning) -> dict[tuple[str, int], list[float]]:
    return {(label, cell): values for (_, label, cell), values in learner.q.items()}


def test_pitfall_20_values_are_those_of_value_iteration_on_the_induced_process() -> None:
    learner = HAMQLearning(corridor(), HAM(root), gamma=GAMMA, step_size=1.0, epsilon=1.0).learn(10_000)
    exact, found = solved(0.0), learned(learner)
    assert {key: len(values) for key, values in found.items()} == {
        **{("way", cell): 2 for cell in range(1, CELLS - 1)},
        ("times", 1): 3,
    }
    for key, values in found.items():
        np.testing.assert_allclose(values, exact[key], rtol=0, atol=1e-12)


class Scripted(gym.Env):
    """A corridor whose slips are given."""

    observation_space, action_space = spaces.Discrete(CELLS), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.cell, self.slips = 2, [False] * 9
        return self.cell, {}

    def step(self, action: int) -> Any:
        way = 1 - action if self.slips.pop(0) else action
        self.cell = min(max(self.cell + 2 * way - 1, 0), CELLS - 1)
        return self.cell, float(arrival_reward(self.cell)), self.cell == CELLS - 1, False, {}


def test_pitfall_20_expected_updates_solve_the_induced_process_exactly() -> None:
    """All outcomes of each choice, from copies of the process at each choice point that there is."""
    slip, smdp = 0.3, InducedSMDP(Scripted(), HAM(root), gamma=GAMMA)
    first = smdp.reset().point
    open_points, model = {(first.label, first.state): smdp}, {}
    while open_points:
        (label, cell), at = open_points.popitem()
        for option in range(len(at.stack.point.options)):
            outcomes = []
            for slips in itertools.product((False, True), repeat=3):  # more than three actions take none
                other = copy.deepcopy(at)
                other.env.slips = list(slips)
                segment = other.choose(option)
                weight = np.prod([slip if one else 1 - slip for one in slips])
                key = None if segment.point is None else (segment.point.label, segment.point.state)
                outcomes.append((weight, segment.reward, segment.discount, key))
                if key is not None and key not in {known[:2] for known in model} | {(label, cell)}:
                    open_points[key] = other
            model[label, cell, option] = outcomes
    q = {key[:2]: np.zeros(3 if key[0] == "times" else 2) for key in model}
    for _ in range(300):
        for (label, cell, option), outcomes in model.items():
            q[label, cell][option] = sum(
                weight * (reward + (discount * q[key].max() if key else 0.0))
                for weight, reward, discount, key in outcomes
            )
    exact = solved(slip)
    assert q.keys() == exact.keys()
    for key, values in q.items():
        np.testing.assert_allclose(values, exact[key], rtol=0, atol=1e-10)


def test_pitfall_20_values_with_chance_are_those_of_value_iteration() -> None:
    learner = HAMQLearning(
        corridor(slip=0.3), HAM(root), gamma=GAMMA, step_size=lambda n: n**-0.8, epsilon=1.0
    ).learn(80_000)
    exact, found = solved(0.3), learned(learner)
    assert found.keys() == exact.keys()
    for key, values in found.items():
        # each value is a mean of some thousands of returns of standard deviation 5
        np.testing.assert_allclose(values, exact[key], rtol=0, atol=0.35, err_msg=str(key))


def test_pitfall_21_choices_of_other_durations_are_weighed_by_time() -> None:
    """A discount for each choice, or rewards gathered by label until it comes again, would give else."""

    def waits(machine):
        times = yield choose("wait", (1, 4))
        for _ in range(times):
            yield act(0)
        yield choose("go", (1,))
        for _ in range(3):
            yield act(1)

    learner = HAMQLearning(corridor(), HAM(waits), gamma=0.5, step_size=1.0, epsilon=1.0).learn(2000)
    go = learner.q[(("", "waits", ()),), "go", 0][0]
    wait = learner.q[(("", "waits", ()),), "wait", 2]
    assert go == -1.125 + 0.5 * -1.25 + 0.25 * -1.375 + 0.125 * max(
        learner.q[(("", "waits", ()),), "wait", 3]
    )
    assert wait[1] == -1.125 - 0.5 - 0.25 - 0.125 + 0.5**4 * go
    assert wait[0] == -1.125 + 0.5 * learner.q[(("", "waits", ()),), "go", 1][0]


def flat_q_learning(env: gym.Env, *, steps: int, epsilon: float, step_size: float, seed: int) -> np.ndarray:
    """Watkins' Q-learning, with the draws in the order of the learner's."""
    q, random = np.zeros((CELLS, 2)), np.random.default_rng(seed)
    obs_t = env.reset(seed=seed)[0]
    for _ in range(steps):
        if random.random() < epsilon:
            action = int(random.integers(2))
        else:
            ties = np.flatnonzero(q[obs_t] == q[obs_t].max())
            action = int(ties[0] if len(ties) == 1 else ties[random.integers(len(ties))])
        obs_tp1, reward, terminated, truncated, _ = env.step(action)
        target = reward + (0.0 if terminated else GAMMA * q[obs_tp1].max())
        q[obs_t, action] += step_size * (target - q[obs_t, action])
        obs_t = env.reset()[0] if terminated or truncated else obs_tp1
    return q


@pytest.mark.parametrize("limit", [None, 7])
def test_pitfall_23_one_choice_is_flat_q_learning_step_for_step(limit: int | None) -> None:
    options = {"epsilon": 0.3, "step_size": 0.4, "seed": 5}
    for steps in (1, 2, 50, 3000):
        expected = flat_q_learning(corridor(slip=0.2, limit=limit), steps=steps, **options)
        learner = HAMQLearning(corridor(slip=0.2, limit=limit), HAM(flat), gamma=GAMMA, **options)
        found = np.zeros((CELLS, 2))
        for (_, _, cell), values in learner.learn(steps).q.items():
            found[cell] = values
        np.testing.assert_array_equal(found, expected)
        assert learner.dropped == 0


def test_it_is_smdp_q_learning_on_the_induced_environment_step_for_step() -> None:
    options = {"epsilon": 0.3, "step_size": 0.4, "seed": 3}
    env = HAMEnv(corridor(slip=0.2), HAM(root), max_points=2, max_choices=3, gamma=GAMMA, form="index")
    agent = SMDPQLearning(env, **options).learn(4000)
    learner = HAMQLearning(corridor(slip=0.2), HAM(root), gamma=GAMMA, **options).learn(4000)
    assert agent.steps == learner.steps
    assert len(learner.q) == 7
    for (stack, label, cell), values in learner.q.items():
        row = agent.q[cell * 3 + env.points.numbers[stack, label]]
        np.testing.assert_array_equal(row[: len(values)], values)


def test_pitfall_22_a_termination_in_a_machine_gives_the_open_choice_its_update() -> None:
    learner = HAMQLearning(corridor(), HAM(root), gamma=0.5, step_size=1.0, epsilon=0.0)
    learner.q[(("", "root", ()),), "way", 2] = [-99.0, 0.0]
    learner.q[(("", "root", ()),), "way", 4] = [-99.0, 7.0]
    learner.learn(3)
    assert learner.q[(("", "root", ()),), "way", 4] == [-99.0, 10.0]  # one action, and no value after it
    assert learner.episodes == [(3, -1.375 - 1.5 + 10.0)]


def test_pitfall_22_a_truncation_bootstraps() -> None:
    learner = HAMQLearning(corridor(limit=2), HAM(root), gamma=0.5, step_size=1.0, epsilon=0.0)
    learner.q[(("", "root", ()),), "way", 2] = [-99.0, 0.0]
    learner.q[(("", "root", ()),), "way", 4] = [-99.0, 8.0]
    learner.learn(2)
    assert learner.q[(("", "root", ()),), "way", 2][1] == -1.375 + 0.5 * -1.5 + 0.25 * 8.0


def test_pitfall_22_a_truncation_before_an_action_has_no_value_and_no_update() -> None:
    learner = HAMQLearning(corridor(limit=1), HAM(root), gamma=0.5, step_size=1.0).learn(4)
    assert (learner.dropped, learner.q, len(learner.episodes)) == (4, {}, 4)


def test_choices_without_actions_between_pass_values_undiscounted() -> None:
    def deciding(machine):
        yield choose("first", "ab")
        yield choose("second", "ab")
        yield act(1)

    learner = HAMQLearning(corridor(), HAM(deciding), gamma=0.5, step_size=1.0, epsilon=0.5).learn(500)
    values = learned(learner)
    for cell in (2, 3, 4):
        assert values["first", cell] == [max(values["second", cell])] * 2
    assert values["second", 4] == [10.0, 10.0]
    assert values["second", 3] == [-1.5 + 5.0] * 2


def test_episodes_without_a_choice_pass() -> None:
    def right(machine):
        yield act(1)

    learner = HAMQLearning(corridor(), HAM(right)).learn(7)
    assert (learner.q, learner.episodes) == ({}, [(3, 7.125), (6, 7.125), (9, 7.125)])


def test_abstraction_shares_values() -> None:
    learner = HAMQLearning(
        corridor(), HAM(root), epsilon=1.0, abstraction={"way": lambda cell: cell >= 3}
    ).learn(500)
    assert {key[1:] for key in learner.q} == {("way", False), ("way", True), ("times", 1)}


@pytest.mark.parametrize(
    "decode",
    [
        lambda cell: np.array([cell, 0.5]),
        lambda cell: {"b": cell, "a": [1, 2]},
        lambda cell: SimpleNamespace(cell=np.int64(cell)),
        lambda cell: {"picture": np.full((2, 2), cell)[:, ::2]},
    ],
)
def test_states_of_many_forms_are_keys(decode) -> None:
    plain = HAMQLearning(corridor(), HAM(flat), epsilon=0.5).learn(500)
    learner = HAMQLearning(corridor(), HAM(flat, state=decode), epsilon=0.5).learn(500)
    assert list(learner.q.values()) == list(plain.q.values())
    hash(tuple(learner.q))


def test_arrays_of_another_form_are_other_states() -> None:
    arrays = [np.array([1, 0], np.int8), np.array([1], np.int16), np.array([[1, 0]], np.int8)]
    assert len({state_key(array) for array in arrays}) == 3


def test_after_an_error_in_a_machine_learning_goes_on() -> None:
    left = [3]

    def moody(machine):
        way = yield choose("way", range(2))
        left[0] -= 1
        if left[0] == 0:
            raise KeyError("lost")
        yield act(way)

    learner = HAMQLearning(corridor(), HAM(moody))
    with pytest.raises(KeyError, match="lost"):
        learner.learn(10)
    assert learner.learn(10).steps >= 12


def test_what_is_no_state_raises() -> None:
    learner = HAMQLearning(corridor(), HAM(flat, state=lambda cell: object()))
    with pytest.raises(TypeError, match="Decode it by `state` of HAM"):
        learner.learn(1)


def test_other_numbers_of_options_in_one_place_raise() -> None:
    def moody(machine):
        yield act((yield choose("way", (0, 1))))
        yield act((yield choose("way", (0, 1))))
        yield act((yield choose("way", (1,))))

    with pytest.raises(ValueError, match=r"'way' must have as many options .* got 1 after 2"):
        HAMQLearning(corridor(), HAM(moody), epsilon=1.0).learn(500)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_not_finite_raise(bad: float) -> None:
    env = gym.wrappers.TransformReward(corridor(), lambda reward: bad)
    with pytest.raises(ValueError, match="rewards must be finite"):
        HAMQLearning(env, HAM(flat)).learn(3)


@pytest.mark.parametrize("name", ["epsilon", "step_size"])
def test_numbers_outside_their_range_raise(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[0, 1\]; got 1.5"):
        HAMQLearning(corridor(), HAM(flat), **{name: 1.5})


def test_epsilon_follows_the_steps() -> None:
    learner = HAMQLearning(corridor(), HAM(flat), epsilon=lambda steps: float(steps < 500), step_size=0.2)
    learner.learn(3000)
    assert learner.episodes[-1][1] == learner.episodes[-5][1] == -1.375 - 1.5 + 10.0


def test_steps_add_up_over_calls() -> None:
    at_once = HAMQLearning(corridor(slip=0.2), HAM(root)).learn(200)
    in_parts = HAMQLearning(corridor(slip=0.2), HAM(root))
    for _ in range(40):
        in_parts.learn(5)
    assert (in_parts.q, in_parts.episodes, in_parts.steps) == (at_once.q, at_once.episodes, at_once.steps)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 100, 101, 102, 103])
def test_a_saved_learner_goes_on_as_if_never_cut(tmp_path, steps: int) -> None:
    uncut = HAMQLearning(corridor(slip=0.2, limit=5), HAM(root), seed=1).learn(steps)
    env = copy.deepcopy(uncut.smdp.env)
    save_checkpoint(tmp_path / "state.pt", uncut.state_dict())
    other = HAMQLearning(env, HAM(root), seed=9)
    other.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    other.seed = 1
    uncut.learn(500)
    other.learn(500)
    assert (uncut.q, uncut.visits, uncut.episodes) == (other.q, other.visits, other.episodes)
    assert uncut.dropped == other.dropped > 0


def test_a_restart_gives_up_the_episode() -> None:
    learner = HAMQLearning(corridor(slip=0.2), HAM(root)).learn(101)
    other = HAMQLearning(corridor(slip=0.2), HAM(root))
    other.load_state_dict(learner.state_dict())
    q = copy.deepcopy(other.q)
    assert other.restart().q == q == learner.q
    assert other.smdp.stack.frames == []
    other.learn(50)
    assert other.episodes[: len(learner.episodes)] == learner.episodes


def test_a_copied_learner_goes_on_alike_and_apart() -> None:
    learner = HAMQLearning(corridor(slip=0.2), HAM(root)).learn(101)
    other = copy.deepcopy(learner)
    kept = copy.deepcopy(learner.q)
    other.learn(300)
    assert learner.q == kept != other.q
    assert learner.learn(300).q == other.q


def test_a_learner_of_other_machines_is_refused() -> None:
    learner = HAMQLearning(corridor(), HAM(root)).learn(5)
    with pytest.raises(ReplayDiverged):
        HAMQLearning(corridor(), HAM(flat)).load_state_dict(learner.state_dict())


def test_evaluation_changes_nothing() -> None:
    learner = HAMQLearning(corridor(slip=0.2), HAM(root)).learn(50)
    state = copy.deepcopy(learner.state_dict())
    returns = learner.evaluate(corridor(slip=0.2, limit=9), episodes=20, seed=4)
    np.testing.assert_array_equal(returns, learner.evaluate(corridor(slip=0.2, limit=9), episodes=20, seed=4))
    assert returns.shape == (20,)
    assert repr(state) == repr(learner.state_dict())
    assert learner.evaluate(corridor(), episodes=0).shape == (0,)


def test_the_induced_process_and_the_learner_agree_on_points() -> None:
    smdp = InducedSMDP(corridor(), HAM(root), gamma=GAMMA)
    learner = HAMQLearning(corridor(), HAM(root), epsilon=0.0)
    point = smdp.reset(seed=0).point
    assert learner.key(point) == ((("", "root", ()),), "way", 2)
    learner.q[learner.key(point)] = [0.0, 1.0]
    assert learner.act(point) == 1
