"""The wrappers: the same rewards, counts and statistics in each autoreset mode."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TransformObservation
from scripted_env import DISABLED, MODES, NEXT_STEP, SAME_STEP, Scripted, actions_of, restart

from athena_core import components
from athena_explore import (
    RND,
    Bonus,
    IntrinsicReward,
    ObservationNormalizer,
    Scored,
    SingleIntrinsicReward,
    Transition,
    warm_up,
)
from athena_explore._bonus_laws import assert_same_state, walk

BONUSES = [component.name for component in components("bonus")]


class Visits(Bonus):
    """How often a row's episode went on: the rewards tell what entered, and when it was cleared."""

    episodic = True

    def _score(self, transition: Transition) -> Scored:
        last = self.memory.get("steps")
        last = torch.zeros(transition.shape[1]) if last is None else last
        rewards = torch.empty(transition.shape)
        for t in range(transition.shape[0]):
            last = last + transition.valid[t]
            rewards[t] = last
            last = torch.where(transition.done[t], 0, last)
        return Scored(rewards, last)

    def _commit(self, transition: Transition, after: Any) -> None:
        self.memory["steps"] = after

    def _clear_episodes(self) -> None:
        self.memory.clear()


def play(env: IntrinsicReward, mode: Any, steps: int) -> list[list[float]]:
    """The bonuses of the valid rows of each environment, until the script is over."""
    told: list[list[float]] = [[] for _ in range(env.num_envs)]
    env.reset()
    while min(map(len, told)) < steps:
        _, _, terminated, truncated, info = env.step(actions_of(env))
        for row in np.flatnonzero(info["_intrinsic_reward"]):
            told[row].append(float(info["intrinsic_reward"][row]))
        assert not info["intrinsic_reward"][~info["_intrinsic_reward"]].any()
        if mode is DISABLED and (terminated | truncated).any():
            restart(env, terminated | truncated)
    return told


@pytest.mark.parametrize("name", BONUSES)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_autoreset_modes_agree(name: str, rows: int) -> None:
    script = walk(30, rows, seed=1)
    assert script.done.sum() >= 3
    told, envs = [], []
    for mode in MODES:
        env = IntrinsicReward(Scripted(script, mode), name, learn_every=10)
        told.append(play(env, mode, 30))
        envs.append(env)
    assert np.any(told[0])
    for found, env in zip(told[1:], envs[1:], strict=True):
        np.testing.assert_allclose(found, told[0], rtol=1e-4, atol=1e-5)
        assert_same_state(env.bonus, envs[0].bonus)
        assert env.metrics == pytest.approx(envs[0].metrics, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_episodes_that_end_apart(mode: Any) -> None:
    script = walk(30, 3, seed=1, together=False)
    told = play(IntrinsicReward(Scripted(script, mode), Visits), mode, 30)
    for row in range(3):
        place, expected = 0, []
        for done in script.done[:, row].tolist():
            place += 1
            expected.append(place)
            place *= not done
        assert told[row][:30] == expected


def test_bonuses_stay_apart_from_rewards_unless_asked() -> None:
    script = walk(20, 2, seed=1)
    plain = IntrinsicReward(Scripted(script, NEXT_STEP), Visits)
    summed = IntrinsicReward(Scripted(script, NEXT_STEP), Visits, coefficient=0.5)
    plain.reset(), summed.reset()
    for _ in range(20):
        (_, reward, *_, info), (_, total, *_) = (env.step(actions_of(env)) for env in (plain, summed))
        np.testing.assert_allclose(reward, info["_intrinsic_reward"])
        np.testing.assert_allclose(total, reward + 0.5 * info["intrinsic_reward"])
        assert total.dtype == reward.dtype


def test_it_learns_every_so_many_steps() -> None:
    env = IntrinsicReward(Scripted(walk(40, 2, seed=1), SAME_STEP), "rnd", learn_every=8)
    env.reset()
    ready = []
    for _ in range(9):
        env.step(actions_of(env))
        ready.append(env.bonus.ready)
    assert ready == [False] * 7 + [True, True]
    assert env.metrics["prediction_error"] > 0


@pytest.mark.parametrize("name", ["rnd", "e3b", "counts"])
def test_evaluation_changes_nothing(name: str) -> None:
    env = IntrinsicReward(Scripted(walk(60, 2, seed=1), SAME_STEP), name, learn_every=8)
    env.reset()
    for _ in range(20):
        env.step(actions_of(env))
    before, generator = copy.deepcopy(env.bonus), env.bonus.generator.get_state()
    env.training = False
    env.reset()  # forgets no episode either
    scored = [env.step(actions_of(env))[-1]["intrinsic_reward"] for _ in range(20)]
    assert np.any(scored)
    assert_same_state(env.bonus, before)
    assert torch.equal(generator, env.bonus.generator.get_state())


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
@pytest.mark.parametrize("resets", [True, False])
def test_episodes_that_ended_in_evaluation_are_forgotten(mode: Any, resets: bool) -> None:
    script = walk(40, 2, seed=1)
    ends = torch.zeros_like(script.terminated)
    ends[9] = True  # of both rows
    script = Transition(script.obs, script.action, script.next_obs, ends & False, ends)
    env = IntrinsicReward(Scripted(script, mode), Visits)
    env.reset()
    told = [env.step(actions_of(env))[-1]["intrinsic_reward"].tolist() for _ in range(3)]
    assert told == [[1, 1], [2, 2], [3, 3]]
    env.training = False
    for _ in range(7 if resets or mode is SAME_STEP else 8):  # to the end, where it alone resets a step more
        env.step(actions_of(env))
    env.training = True
    if resets:
        env.reset()
    assert env.step(actions_of(env))[-1]["intrinsic_reward"].tolist() == [1, 1]
    assert env.step(actions_of(env))[-1]["intrinsic_reward"].tolist() == [2, 2]


@pytest.mark.parametrize("training_at_reset", [True, False])
def test_a_single_episode_that_ended_in_evaluation_is_forgotten(training_at_reset: bool) -> None:
    env = SingleIntrinsicReward(gym.make("CartPole-v1"), Visits)
    env.reset(seed=0)
    assert [env.step(1)[-1]["intrinsic_reward"] for _ in range(3)] == [1, 2, 3]
    env.training, ended = False, False
    env.reset(seed=0)
    while not ended:
        ended = env.step(1)[2]
    env.training = training_at_reset
    env.reset(seed=0)
    env.training = True
    assert [env.step(1)[-1]["intrinsic_reward"] for _ in range(2)] == [1, 2]


def test_a_bonus_by_name_class_function_or_made() -> None:
    script = walk(5, 2)
    env = Scripted(script, SAME_STEP)
    made = RND(env.single_observation_space, env.single_action_space, width=8, seed=3)
    choices: list[tuple[Any, dict[str, Any]]] = [
        ("rnd", {"bonus_options": {"width": 8}, "seed": 3}),
        (RND, {"bonus_options": {"width": 8}, "seed": 3}),
        (lambda observation_space, action_space: RND(observation_space, action_space, width=8, seed=3), {}),
        (made, {}),
    ]
    for choice, options in choices:
        wrapped = IntrinsicReward(env, choice, **options)
        assert_same_state(wrapped.bonus, made)
    assert wrapped.bonus is made


def test_a_reset_of_all_rows_begins_new_episodes_and_one_of_ended_rows_does_not() -> None:
    env = IntrinsicReward(Scripted(walk(30, 2, seed=1, together=False), DISABLED), Visits)
    env.reset()
    done = np.zeros(2, bool)
    while not done.any() or done.all():
        _, _, terminated, truncated, info = env.step(actions_of(env))
        done = terminated | truncated
    with pytest.raises(
        ValueError, match=r"`reset_mask` must name rows whose episode ended.*Visits.*truncate"
    ):
        restart(env, ~done)
    restart(env, done)
    after = env.step(actions_of(env))[-1]["intrinsic_reward"]
    assert after[done].tolist() == [1.0]
    np.testing.assert_array_equal(after[~done], info["intrinsic_reward"][~done] + 1)
    env.reset()
    assert env.step(actions_of(env))[-1]["intrinsic_reward"].tolist() == [1.0, 1.0]


def test_statistics_from_an_environment_handed_over() -> None:
    learners = [Scripted(walk(40, 2, seed=1), mode) for mode in MODES]
    sources = [Scripted(walk(200, 4, seed=7), mode) for mode in MODES]
    for learner, source in zip(learners, sources, strict=True):
        env = IntrinsicReward(learner, "rnd")
        networks = [weights.clone() for weights in env.bonus.parameters()]
        warm_up(env.bonus, source, steps=25)
        (normalizer,) = (one for one in env.bonus.modules() if isinstance(one, ObservationNormalizer))
        count = int(normalizer.moments[0].count) // 4
        assert (count < 25) == (learner.mode is NEXT_STEP)  # whose rows that only reset leave fewer
        seen = source.script.next_obs[:count].flatten(0, 1)
        torch.testing.assert_close(normalizer.moments[0].mean, seen.mean(0))
        assert learner._place.max() == 0
        for weights, before in zip(env.bonus.parameters(), networks, strict=True):
            torch.testing.assert_close(weights, before, rtol=0, atol=0)
        env.reset()
        assert env.step(actions_of(env))[-1]["intrinsic_reward"].all()


def test_warm_up_is_seeded() -> None:
    means = []
    for seed in (0, 0, 1):
        env = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync")
        bonus = RND(env.single_observation_space, env.single_action_space)
        warm_up(bonus, env, steps=10, seed=seed)
        means.append(bonus.observations.moments[0].mean)
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=0)
    assert not torch.equal(means[0], means[2])


def test_warm_up_refuses_what_has_nothing_to_warm_up() -> None:
    env = Scripted(walk(5, 2), SAME_STEP)
    bonus = Visits(env.single_observation_space, env.single_action_space)
    with pytest.raises(ValueError, match=r"`bonus` must have statistics.*Visits has none"):
        warm_up(bonus, env)
    with pytest.raises(TypeError, match=r"vector environment.*SyncVectorEnv"):
        warm_up(bonus, gym.make("CartPole-v1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        warm_up(bonus, env, steps=0)
    rnd = RND(spaces.Box(-1, 1, (9,)), spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"`obs` must have the shape \(4, 2, 9\).*got \(4, 2, 3\)"):
        warm_up(rnd, env, steps=4)


def test_the_wrong_sort_of_environment_names_the_other_wrapper() -> None:
    with pytest.raises(TypeError, match=r"`env` must be a vector environment.*SingleIntrinsicReward"):
        IntrinsicReward(gym.make("CartPole-v1"), "rnd")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`env` must be a single environment.*IntrinsicReward"):
        SingleIntrinsicReward(gym.make_vec("CartPole-v1", 2), "rnd")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"coefficient": -1.0}, {"coefficient": np.inf}, {"learn_every": 0}])
def test_numbers_outside_their_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        IntrinsicReward(Scripted(walk(3, 1), SAME_STEP), "rnd", **options)


def test_no_observation_is_nan() -> None:
    script = walk(3, 1)
    script.next_obs[1, 0, 2] = torch.nan
    env = IntrinsicReward(Scripted(script, SAME_STEP), "rnd")
    env.reset()
    env.step(actions_of(env))
    with pytest.raises(ValueError, match="`next_obs` must be finite"):
        env.step(actions_of(env))


# --- single environments ---------------------------------------------------------------------------


def test_a_single_environment_equals_a_vector_of_one() -> None:
    for name in ("rnd", "e3b", "counts"):
        single = SingleIntrinsicReward(gym.make("CartPole-v1"), name, learn_every=16)
        vector = IntrinsicReward(gym.make_vec("CartPole-v1", 1), name, learn_every=16)
        single.reset(seed=3), vector.reset(seed=3)
        for t in range(60):
            *_, terminated, truncated, info = single.step(t % 2)
            *_, others = vector.step(np.array([t % 2]))
            np.testing.assert_allclose(info["intrinsic_reward"], others["intrinsic_reward"][0], rtol=1e-4)
            if terminated or truncated:
                single.reset()
                vector.step(np.array([0]))  # NEXT_STEP resets here
        assert_same_state(single.bonus, vector.bonus)


def test_a_single_reset_in_the_middle_begins_a_new_episode() -> None:
    env = SingleIntrinsicReward(gym.make("CartPole-v1"), Visits, coefficient=2.0)
    env.reset(seed=0)
    assert [env.step(1)[-1]["intrinsic_reward"] for _ in range(3)] == [1, 2, 3]
    env.reset()
    assert env.step(1)[1] == 1 + 2 * 1
    with pytest.raises(ValueError, match="`reset` must be called"):
        SingleIntrinsicReward(gym.make("CartPole-v1").unwrapped, Visits).step(0)


@pytest.mark.filterwarnings("ignore:.*unwrapped version")  # the checker prefers bare environments
@pytest.mark.filterwarnings("ignore:.*alternative render modes")
@pytest.mark.parametrize("name", BONUSES)
def test_gymnasiums_checker_passes(name: str) -> None:
    """In evaluation: the checker steps twice from one seed, and what was seen once is less new."""
    env = SingleIntrinsicReward(gym.make("MountainCar-v0").unwrapped, name, coefficient=1.0)
    env.training = False
    assert env.spec.additional_wrappers[-1].kwargs["bonus"] == name
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("bonus", ["counts", "noveld", "rnd"])
def test_numbered_states_of_a_single_environment(bonus: str) -> None:
    env = SingleIntrinsicReward(gym.make("FrozenLake-v1"), bonus, learn_every=4)
    env.reset(seed=0)
    for _ in range(20):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert isinstance(info["intrinsic_reward"], float)
        if terminated or truncated:
            env.reset()


def test_discrete_and_dictionary_observations() -> None:
    pairs = spaces.Dict({"a": spaces.Discrete(500), "b": spaces.Box(-1, 1, (2,))})
    taxi = gym.make("CliffWalking-v1")
    env = SingleIntrinsicReward(
        TransformObservation(taxi, lambda obs: {"a": obs, "b": np.zeros(2, np.float32)}, pairs), "rnd"
    )
    obs, _ = env.reset(seed=0)
    assert isinstance(env.step(0)[-1]["intrinsic_reward"], float)
    assert obs in env.observation_space
