"""DQN, SAC and TD3 learn from rewards that are recomputed with each sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer

from athena_explore import RND, Bonus, Scored, Transition
from athena_explore._bonus_laws import assert_same_state
from athena_explore.sb3 import (
    IntrinsicDictReplayBuffer,
    IntrinsicHerReplayBuffer,
    IntrinsicReplayBuffer,
)

SMALL = {"buffer_size": 600, "learning_starts": 50, "batch_size": 16, "device": "cpu", "seed": 0}
CASES = [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1"), (TD3, "Pendulum-v1")]


def vector(name: str, count: int = 2, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(name, **options)] * count)


def model_of(algorithm: Any, env: Any, *, policy: str = "MlpPolicy", buffer: Any, **bonus: Any) -> Any:
    net = {"net_arch": [16]}
    return algorithm(
        policy, env, policy_kwargs=net, replay_buffer_class=buffer, replay_buffer_kwargs=bonus, **SMALL
    )


class Seen(Bonus):
    """Gives the first feature of the next observation, and keeps all that it is told."""

    def __init__(self, *spaces: Any, seed: int = 0) -> None:
        super().__init__(*spaces, seed=seed)
        self.advanced: list[Transition] = []
        self.learned: list[Transition] = []

    def _score(self, transition: Transition) -> Scored:
        first = transition.next_obs
        first = first["a"] if isinstance(first, dict) else first
        return Scored(first.flatten(2).float()[..., 0])

    def _commit(self, transition: Transition, after: Any) -> None:
        self.advanced.append(transition)

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.learned.append(samples)
        return {"rows": float(len(samples.terminated))}


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_it_trains(algorithm: Any, name: str) -> None:
    model = model_of(algorithm, vector(name), buffer=IntrinsicReplayBuffer, bonus="rnd", learn_every=32)
    model.learn(300)
    buffer = model.replay_buffer
    assert buffer.bonus.ready
    assert np.isfinite(buffer.metrics["prediction_error"])
    assert all(torch.isfinite(weights).all() for weights in model.policy.parameters())


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_coefficient_0_is_the_algorithm_itself(algorithm: Any, name: str) -> None:
    with_bonus = model_of(
        algorithm, vector(name), buffer=IntrinsicReplayBuffer, bonus="rnd", learn_every=16, coefficient=0
    ).learn(200)
    plain = algorithm("MlpPolicy", vector(name), policy_kwargs={"net_arch": [16]}, **SMALL).learn(200)
    for one, other in zip(with_bonus.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert with_bonus.replay_buffer.bonus.ready


@pytest.mark.parametrize("algorithm", [DQN, TD3])
def test_rewards_are_those_of_the_bonus_as_it_is_now(algorithm: Any) -> None:
    name = dict(CASES)[algorithm]
    model = model_of(algorithm, vector(name), buffer=IntrinsicReplayBuffer, bonus="rnd", coefficient=0.5)
    model.learn(400)
    buffer = model.replay_buffer

    def sampled(coefficient: float) -> Any:
        np.random.seed(3)
        buffer.coefficient = coefficient
        return buffer.sample(64)

    plain, rewards = sampled(0), []
    for _ in range(2):
        samples = sampled(0.5)
        ends = samples.dones[:, 0] > 0
        actions = samples.actions[:, 0] if algorithm is DQN else 2 * samples.actions
        asked = Transition(samples.observations, actions, samples.next_observations, ends, ends & False)
        bonus = buffer.bonus.score_samples(asked)
        assert bonus.abs().sum() > 0
        torch.testing.assert_close(samples.rewards[:, 0], plain.rewards[:, 0] + 0.5 * bonus)
        rewards.append(samples.rewards)
        buffer.bonus.learn(asked)
    assert (rewards[0] - rewards[1]).abs().max() > 1e-4


def test_the_bonus_sees_true_transitions() -> None:
    """Continuous actions as the environment had them, the last observation of an episode, and both ends."""
    model = model_of(
        TD3,
        vector("Pendulum-v1", max_episode_steps=20),
        buffer=IntrinsicReplayBuffer,
        bonus=Seen,
        learn_every=7,
    )
    model.learn(100)
    bonus = model.replay_buffer.bonus
    assert len(bonus.advanced) == 50
    assert [len(one.terminated) for one in bonus.learned] == [14] * 7
    env = [gym.make("Pendulum-v1", max_episode_steps=20) for _ in range(2)]
    for row in range(2):
        now, _ = env[row].reset(seed=row)
        for step in bonus.advanced:
            np.testing.assert_allclose(step.obs[0, row], now, atol=1e-6)
            now, _, terminated, truncated, _ = env[row].step(step.action[0, row].numpy())
            np.testing.assert_allclose(step.next_obs[0, row], now, atol=1e-4)
            assert (bool(step.terminated[0, row]), bool(step.truncated[0, row])) == (terminated, truncated)
            if terminated or truncated:
                now, _ = env[row].reset()
    learned = torch.cat([one.obs for one in bonus.learned])
    torch.testing.assert_close(learned, torch.cat([one.obs[0] for one in bonus.advanced[:49]]))


def test_terminations_and_time_limits_are_told_apart() -> None:
    env = vector("CartPole-v1", max_episode_steps=15)
    model = model_of(DQN, env, buffer=IntrinsicReplayBuffer, bonus=Seen).learn(200)
    steps = model.replay_buffer.bonus.advanced
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)
    assert not any((step.terminated & step.truncated).any() for step in steps)


def test_observations_below_vec_normalize() -> None:
    env = VecNormalize(vector("CartPole-v1"), clip_obs=100.0, norm_reward=True)
    model = model_of(DQN, env, buffer=IntrinsicReplayBuffer, bonus=Seen, coefficient=2.0).learn(200)
    buffer = model.replay_buffer
    raw = torch.cat([step.obs for step in buffer.bonus.advanced])
    assert raw[0].abs().max() < 0.05  # CartPole's first observations, as they were
    after = torch.cat([step.next_obs for step in buffer.bonus.advanced])
    done = torch.cat([step.done for step in buffer.bonus.advanced])
    torch.testing.assert_close(after[:-1][~done[:-1]], raw[1:][~done[:-1]])
    samples = buffer._get_samples(np.arange(100), env=env)
    np.random.seed(1)
    drawn = buffer._get_samples(np.arange(100), env=env)
    np.random.seed(1)
    rows = np.random.randint(0, 2, 100)
    torch.testing.assert_close(
        drawn.observations, torch.as_tensor(env.normalize_obs(buffer.observations[np.arange(100), rows]))
    )
    expected = env.normalize_reward(buffer.rewards[np.arange(100), rows])
    expected = expected + 2 * buffer.next_observations[np.arange(100), rows, 0]
    np.testing.assert_allclose(drawn.rewards[:, 0], expected, rtol=1e-5)
    assert samples.rewards.dtype == drawn.rewards.dtype == torch.float32


class Pairs(gym.Env):
    """Dictionaries with a discrete part, and episodes of five steps."""

    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self._obs(), 1.0, self.t == 5, False, {}

    def _obs(self) -> Any:
        return {"a": np.full(2, self.t, np.float32), "b": self.t % 3}


def test_dictionaries() -> None:
    env = VecNormalize(DummyVecEnv([Pairs] * 2), norm_obs_keys=["a"], clip_obs=100.0)
    model = model_of(DQN, env, policy="MultiInputPolicy", buffer=IntrinsicDictReplayBuffer, bonus=Seen)
    model.learn(100)
    steps = model.replay_buffer.bonus.advanced
    told = [float(step.next_obs["a"][0, 0, 0]) for step in steps[:7]]
    assert told == pytest.approx([1, 2, 3, 4, 5, 1, 2], abs=1e-4)
    assert [int(step.obs["b"][0, 1]) for step in steps[:5]] == [0, 1, 2, 0, 1]
    real = model_of(
        DQN, env, policy="MultiInputPolicy", buffer=IntrinsicDictReplayBuffer, bonus="icm", learn_every=20
    )
    real.learn(100)
    assert real.replay_buffer.sample(8).rewards.isfinite().all()


class Achieved(Bonus):
    """Gives the number of bits that the goal, as it is sampled, has set."""

    def _score(self, transition: Transition) -> Scored:
        return Scored(transition.next_obs["desired_goal"].float().sum(-1))


@pytest.mark.parametrize("normalize", [False, True])
def test_hindsight_replay_adds_the_bonus_of_goals_as_they_are_sampled(normalize: bool) -> None:
    def made(buffer: type, **bonus: Any) -> Any:
        env: Any = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, max_steps=4)] * 2)
        if normalize:
            env = VecNormalize(env, norm_obs=False)
        return model_of(DQN, env, policy="MultiInputPolicy", buffer=buffer, **bonus)

    model = made(IntrinsicHerReplayBuffer, bonus=Achieved, coefficient=0.5, learn_every=16).learn(100)
    buffer, env = model.replay_buffer, model.get_vec_normalize_env()
    batches = []
    for coefficient in (0.0, 0.5):
        buffer.coefficient = coefficient
        np.random.seed(1)
        batches.append(buffer.sample(40, env))
    bits = batches[1].observations["desired_goal"].float().sum(1)
    assert len(set(bits.tolist())) > 2
    torch.testing.assert_close(buffer.sampled, bits)
    torch.testing.assert_close(batches[1].rewards - batches[0].rewards, 0.5 * bits[:, None])


def test_hindsight_replay_of_coefficient_0_is_the_plain_one() -> None:
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, max_steps=4)] * 2)
    options = {"policy": "MultiInputPolicy", "buffer": IntrinsicHerReplayBuffer, "learn_every": 16}
    with_bonus = model_of(DQN, env, bonus="rnd", coefficient=0, **options).learn(150)
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, max_steps=4)] * 2)
    plain = model_of(DQN, env, policy="MultiInputPolicy", buffer=HerReplayBuffer).learn(150)
    for one, other in zip(with_bonus.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_dictionary_names_the_buffers_for_it() -> None:
    with pytest.raises(ValueError, match=r"must be no dictionary.*`IntrinsicHerReplayBuffer` for goals"):
        model_of(DQN, BitFlippingEnv(), policy="MultiInputPolicy", buffer=IntrinsicReplayBuffer)


@pytest.mark.parametrize("bonus", ["rnd", "icm", "counts"])
def test_a_saved_buffer_goes_on_alike(bonus: str, tmp_path: Path) -> None:
    env = vector("MountainCar-v0")
    model = model_of(DQN, env, buffer=IntrinsicReplayBuffer, bonus=bonus, learn_every=16).learn(150)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = DQN.load(tmp_path / "model.zip", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    one, other = model.replay_buffer, loaded.replay_buffer
    assert_same_state(one.bonus, other.bonus)
    samples = []
    for buffer in (one, other):
        np.random.seed(0)
        for t in range(40):
            obs, no = np.full((2, 2), t / 100, np.float32), np.zeros(2, bool)
            buffer.add(obs, obs + 0.1, np.zeros(2, int), np.zeros(2), no, [{}, {}])
        samples.append(buffer.sample(32).rewards)
    torch.testing.assert_close(*samples, rtol=0, atol=0)
    assert_same_state(one.bonus, other.bonus)
    fresh = model_of(DQN, env, buffer=IntrinsicReplayBuffer, bonus=bonus)
    fresh.replay_buffer.bonus.load_state_dict(one.bonus.state_dict())
    assert_same_state(fresh.replay_buffer.bonus, one.bonus)


def test_options_and_seed_of_the_bonus() -> None:
    box, two = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    made = RND(box, two, width=8, seed=3)
    options = {"bonus": "rnd", "bonus_options": {"width": 8}, "seed": 3, "learn_every": 1}
    assert_same_state(IntrinsicReplayBuffer(10, box, two, "cpu", **options).bonus, made)
    assert IntrinsicReplayBuffer(10, box, two, "cpu", bonus=made, learn_every=1).bonus is made


def test_the_ring_wraps() -> None:
    box = spaces.Box(-1000, 1000, (1,), np.float32)
    buffer = IntrinsicReplayBuffer(10, box, spaces.Discrete(2), "cpu", bonus=Seen, learn_every=4)
    no = np.zeros(1, bool)
    for t in range(24):
        obs = np.full((1, 1), t, np.float32)
        buffer.add(obs, obs + 1, np.zeros(1, int), np.zeros(1), no, [{}])
    assert [one.obs[:, 0].tolist() for one in buffer.bonus.learned] == [
        [float(t + k) for k in range(4)] for t in range(0, 24, 4)
    ]


def test_refusals_of_one_line() -> None:
    box, two = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    for options, words in [
        ({"bonus": "e3b", "learn_every": 1}, "`bonus` must know no episodes.*E3B does.*IntrinsicPPO"),
        ({"optimize_memory_usage": True}, "`optimize_memory_usage` must be False"),
        ({"coefficient": -1}, "`coefficient` must be a finite number"),
        ({"learn_every": 11}, r"`learn_every` must lie in \[1, 10\].*got 11"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            IntrinsicReplayBuffer(10, box, two, "cpu", **options)
        assert "\n" not in str(error.value)
