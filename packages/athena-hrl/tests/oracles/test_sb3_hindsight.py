"""`HindsightReplayBuffer` under Stable-Baselines3's own algorithms and wrappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from athena_core import load_checkpoint, save_checkpoint
from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_hrl import FinalGoals
from athena_hrl._bit_flip import BitFlipVectorEnv
from athena_hrl.sb3 import HindsightReplayBuffer

KEYS = ("observation", "achieved_goal", "desired_goal")


class Line(gym.Env[Any, Any]):
    """Walk on a line; reaching the goal ends an episode, and so do 7 steps, as truncation."""

    def __init__(self, *, discrete: bool = False, continues: bool = False, extra: bool = False) -> None:
        box = spaces.Box(-20, 20, (2,), np.float64)
        parts: dict[str, Any] = dict.fromkeys(KEYS, box)
        if extra:
            parts["clock"] = spaces.Discrete(9)
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (1,), np.float32)
        self.continues = continues

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.integers(-3, 4, size=2).astype(float), 0
        self.goal = self.np_random.integers(-3, 4, size=2).astype(float)
        return self._obs(), {}

    def _obs(self) -> dict[str, Any]:
        obs: dict[str, Any] = {
            "observation": self.x + 10,
            "achieved_goal": self.x.copy(),
            "desired_goal": self.goal.copy(),
        }
        return {**obs, "clock": self.t} if "clock" in self.observation_space.spaces else obs  # pyright: ignore[reportAttributeAccessIssue]

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        move = np.round(np.ravel(action)[0]) - (1 if isinstance(self.action_space, spaces.Discrete) else 0)
        self.x = self.x + np.array([move, 1.0])
        self.t += 1
        terminated = bool(self.compute_terminated(self.x, self.goal, {}))
        reward = float(self.compute_reward(self.x, self.goal, {"t": self.t}))
        return self._obs(), reward, terminated, self.t == 7, {"t": self.t}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.abs(achieved - desired).sum(axis=-1)

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> Any:
        return (achieved == desired).all(axis=-1) & (not self.continues)


class Plain(Line):
    """The same without `compute_terminated`, of one transition alone, with a reward by its info."""

    compute_terminated = property()  # pyright: ignore[reportAssignmentType]

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.x = self.x + np.array([0.0, 1.0])
        self.t += 1
        ended = bool((self.x == self.goal).all())
        return (
            self._obs(),
            self.compute_reward(self.x, self.goal, {"t": self.t}),
            ended,
            self.t == 7,
            {"t": self.t},
        )

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> float:
        return float(-np.abs(achieved - desired).sum() - 100 * info["t"])


def dqn(env: Any, **options: Any) -> DQN:
    given = {"buffer_size": 400, "learning_starts": 30, "seed": 0, "device": "cpu", **options}
    kwargs = given.pop("replay_buffer_kwargs", {})
    return DQN(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HindsightReplayBuffer,
        replay_buffer_kwargs=kwargs,
        **given,
    )


def lines(count: int, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Line(**options)] * count)


def check(samples: Any, env: Line) -> None:
    """Rewards and ends are those of the goals that the samples have."""
    after, goal = (
        samples.next_observations["achieved_goal"].numpy(),
        samples.observations["desired_goal"].numpy(),
    )
    # VecNormalize gives the last observation of an episode back with rounding errors; all goals are whole.
    after, goal = np.round(after, 6), np.round(goal, 6)
    np.testing.assert_array_equal(goal, np.round(samples.next_observations["desired_goal"].numpy(), 6))
    np.testing.assert_allclose(
        samples.rewards[:, 0].numpy(), env.compute_reward(after, goal, {}), rtol=1e-6, atol=1e-6
    )
    reached = env.compute_terminated(after, goal, {})
    np.testing.assert_array_equal(samples.dones[:, 0].numpy(), reached)
    before = samples.observations["achieved_goal"].numpy()
    np.testing.assert_array_equal(after[:, 1] - before[:, 1], np.ones(len(after)))  # never over an end


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_samples_are_of_the_episodes_that_were_played(count: int, continues: bool) -> None:
    env = lines(count, discrete=True, continues=continues)
    model = dqn(env, buffer_size=150 * count).learn(600)
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    samples = model.replay_buffer.sample(500)
    check(samples, env.envs[0])  # pyright: ignore[reportArgumentType]
    assert samples.rewards.shape == samples.dones.shape == samples.actions.shape == (500, 1)
    assert samples.rewards.dtype == samples.dones.dtype == torch.float32
    assert samples.discounts is None
    assert bool(samples.dones.any()) is not continues


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_it_takes_the_place_of_her_replay_buffer(algorithm: Any) -> None:
    samples = {}
    for kind in (HerReplayBuffer, HindsightReplayBuffer):
        model = algorithm(
            "MultiInputPolicy",
            lines(2),
            learning_starts=40,
            buffer_size=300,
            replay_buffer_class=kind,
            replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
            policy_kwargs={"net_arch": [8]},
            batch_size=8,
            seed=0,
            device="cpu",
        ).learn(60)
        samples[kind] = model.replay_buffer.sample(100)
    ours, theirs = samples[HindsightReplayBuffer], samples[HerReplayBuffer]
    for name in ("actions", "dones", "rewards"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype), name
    for name in ("observations", "next_observations"):
        for key, part in getattr(theirs, name).items():
            mine = getattr(ours, name)[key]
            assert (mine.shape, mine.dtype) == (part.shape, part.dtype), (name, key)
    assert ours.actions.abs().max() <= 1  # scaled, as algorithms store them


def test_without_hindsight_all_is_as_in_their_plain_buffer() -> None:
    env = lines(2, discrete=True)
    ours = HindsightReplayBuffer(60, env.observation_space, env.action_space, env, "cpu", 2, n_sampled_goal=0)  # pyright: ignore[reportArgumentType]
    theirs = DictReplayBuffer(60, env.observation_space, env.action_space, "cpu", 2)  # pyright: ignore[reportArgumentType]
    obs = env.reset()
    for t in range(45):
        next_obs, reward, done, infos = env.step(np.array([t % 3, 1]))
        for buffer in (ours, theirs):
            buffer.add(dict(obs), dict(next_obs), np.array([t % 3, 1]), reward, done, infos)  # pyright: ignore[reportArgumentType]
        obs = next_obs
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    for name in ("actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in ("observations", "next_observations"):
        for key, part in getattr(theirs, name).items():
            np.testing.assert_array_equal(getattr(ours, name)[key], part)


@pytest.mark.parametrize(("handled", "discounted"), [(True, False), (False, True)])
def test_ends_by_time_count_as_terminations_only_if_not_handled(handled: bool, discounted: bool) -> None:
    env = lines(1, discrete=True, continues=True)  # nothing but time ends it
    kwargs = {"handle_timeout_termination": handled}
    buffer = dqn(env, replay_buffer_kwargs=kwargs).learn(100).replay_buffer
    assert buffer is not None
    assert bool(buffer.sample(400).dones.any()) is discounted


def test_pitfall_8_goals_are_relabelled_raw_and_normalised_then() -> None:
    raw = lines(2, discrete=True)
    env = VecNormalize(raw, gamma=0.9)
    model = dqn(env).learn(200)
    buffer = model.replay_buffer
    assert isinstance(buffer, HindsightReplayBuffer)
    buffer.replay.rng = np.random.default_rng(3)
    plain = buffer.sample(300)
    buffer.replay.rng = np.random.default_rng(3)
    normal = buffer.sample(300, env=env)
    check(plain, raw.envs[0])  # pyright: ignore[reportArgumentType]
    for name in ("observations", "next_observations"):
        expected = env.normalize_obs({key: part.numpy() for key, part in getattr(plain, name).items()})
        for key, part in getattr(normal, name).items():
            np.testing.assert_allclose(part.numpy(), expected[key], rtol=1e-6)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(normal.rewards, env.normalize_reward(plain.rewards.numpy()), rtol=1e-5)
    assert normal.rewards.dtype == torch.float32


def saved_in_the_middle(tmp_path: Path) -> tuple[DQN, DQN]:
    model = dqn(lines(3, discrete=True)).learn(200)
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    ring = model.replay_buffer.replay.ring
    assert (ring.written > ring.last).all()
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    return model, dqn(lines(3, discrete=True))


def test_pitfall_8_a_buffer_goes_on_in_the_middle_of_an_episode(tmp_path: Path) -> None:
    model, other = saved_in_the_middle(tmp_path)
    other.load_replay_buffer(tmp_path / "buffer.pkl", truncate_last_traj=False)
    before, after = model.replay_buffer, other.replay_buffer
    assert isinstance(before, HindsightReplayBuffer)
    assert isinstance(after, HindsightReplayBuffer)
    obs = {key: np.full((3, 2), 5.0) for key in KEYS}
    next_obs = {key: part + 1 for key, part in obs.items()}
    for buffer in (before, after):
        done = np.array([True, False, True])
        buffer.add(obs, next_obs, np.zeros(3, int), np.zeros(3), done, [{"TimeLimit.truncated": True}] * 3)
    assert len(before.replay) == len(after.replay)
    for one, two in zip(before.sample(200), after.sample(200), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_pitfall_8_a_buffer_ends_its_episodes_as_truncated_where_others_follow(tmp_path: Path) -> None:
    model, other = saved_in_the_middle(tmp_path)
    with pytest.warns(UserWarning, match="end as truncated"):
        other.load_replay_buffer(tmp_path / "buffer.pkl")
    buffer = other.replay_buffer
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    assert isinstance(buffer, HindsightReplayBuffer)
    ring = buffer.replay.ring
    assert (ring.written == ring.last).all()
    assert len(buffer.replay) > len(model.replay_buffer.replay)
    latest = (ring.written - 1) % ring.capacity
    assert (buffer.timeouts[latest, np.arange(3)] == 1).all()
    check(buffer.sample(300), Line(discrete=True))
    other.learn(60)


def test_pitfall_8_a_state_of_tensors_goes_on_likewise(tmp_path: Path) -> None:
    model, other = saved_in_the_middle(tmp_path)
    before, after = model.replay_buffer, other.replay_buffer
    assert isinstance(before, HindsightReplayBuffer)
    assert isinstance(after, HindsightReplayBuffer)
    assert all(isinstance(part, torch.Tensor) for part in before.state_dict()["records"].values())
    save_checkpoint(tmp_path / "state.pt", before.state_dict())
    after.load_state_dict(load_checkpoint(tmp_path / "state.pt"))
    assert (after.pos, after.full) == (before.pos, before.full)
    for one, two in zip(before.sample(200), after.sample(200), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_loaded_buffer_needs_its_environment(tmp_path: Path) -> None:
    import pickle

    model, _ = saved_in_the_middle(tmp_path)
    loaded = pickle.loads((tmp_path / "buffer.pkl").read_bytes())
    with pytest.raises(RuntimeError, match="needs the environment, for its rewards"):
        loaded.sample(4)
    loaded.set_env(model.env)
    loaded.sample(4)
    with pytest.raises(ValueError, match="already initialized"):
        loaded.set_env(model.env)


def test_infos_are_kept_for_rewards_that_depend_on_them() -> None:
    env = DummyVecEnv([lambda: Plain(discrete=True)] * 2)
    model = dqn(env, replay_buffer_kwargs={"copy_info_dict": True}).learn(150)
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    batch = model.replay_buffer.replay.sample(200)
    hindsight = slice(0, len(batch.goal_row))
    distance = np.abs(batch.next_obs["achieved_goal"] - batch.obs["desired_goal"]).sum(axis=1)
    t = -(batch.reward + distance) / 100
    assert set(np.round(t[hindsight]).tolist()) <= set(range(1, 8))
    np.testing.assert_allclose(t, np.round(t), atol=1e-4)
    assert model.replay_buffer.replay.task.reward.at_once is False


def test_a_discrete_part_has_an_axis() -> None:
    model = dqn(lines(2, discrete=True, extra=True)).learn(100)
    assert model.replay_buffer is not None
    samples = model.replay_buffer.sample(50)
    assert samples.observations["clock"].shape == (50, 1)
    torch.testing.assert_close(samples.observations["clock"] + 1, samples.next_observations["clock"])


def test_environments_of_other_processes_are_asked_there() -> None:
    env = SubprocVecEnv([lambda: Line(discrete=True)] * 2, start_method="fork")
    try:
        model = dqn(env).learn(80)
        assert model.replay_buffer is not None
        check(model.replay_buffer.sample(100), Line(discrete=True))
    finally:
        env.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_vector_environments_of_gymnasium_are_asked_as_a_whole(mode: str) -> None:
    env = GymnasiumVecEnv(BitFlipVectorEnv(4, bits=5, autoreset_mode=mode))
    model = dqn(env).learn(200)
    assert model.replay_buffer is not None
    samples = model.replay_buffer.sample(400)
    flipped = (samples.observations["observation"] != samples.next_observations["observation"]).sum(dim=1)
    assert bool((flipped == 1).all())
    reached = (samples.next_observations["achieved_goal"] == samples.observations["desired_goal"]).all(dim=1)
    torch.testing.assert_close(samples.dones[:, 0], reached.float())
    torch.testing.assert_close(samples.rewards[:, 0], reached.float() - 1)


@pytest.mark.parametrize("choice", [GoalSelectionStrategy.FINAL, FinalGoals(), "final"])
def test_strategies_go_by_their_names_and_by_stable_baselines3s(choice: Any) -> None:
    buffer = dqn(
        lines(1, discrete=True), replay_buffer_kwargs={"goal_selection_strategy": choice}
    ).replay_buffer
    assert isinstance(buffer, HindsightReplayBuffer)
    assert buffer.goal_selection_strategy == FinalGoals()


def test_the_seed_of_the_algorithm_is_that_of_the_sampler() -> None:
    first, again, other = (dqn(lines(1, discrete=True), seed=seed).learn(100) for seed in (1, 1, 2))
    weights = [next(iter(model.q_net.parameters())) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_reset_forgets() -> None:
    buffer = dqn(lines(1, discrete=True)).learn(100).replay_buffer
    assert buffer is not None
    buffer.reset()
    assert (buffer.pos, buffer.size()) == (0, 0)
    with pytest.raises(RuntimeError, match="finished episode"):
        buffer.sample(1)


def test_what_is_wrong_is_said() -> None:
    env = lines(1, discrete=True)
    with pytest.raises(ValueError, match="`optimize_memory_usage` must be False"):
        dqn(env, optimize_memory_usage=True)
    with pytest.raises(ValueError, match="`capacity` must hold a whole episode; got 5"):
        dqn(env, buffer_size=5, learning_starts=100).learn(100)
    with pytest.raises(ValueError, match="`env` must have `compute_reward"):
        dqn(DummyVecEnv([lambda: _NoReward()]))
    with pytest.raises(TypeError, match="Hindsight needs goals in observations"):
        DQN(
            "MlpPolicy",
            "CartPole-v1",
            replay_buffer_class=HindsightReplayBuffer,
            buffer_size=50,
            device="cpu",
        )


class _NoReward(Line):
    compute_reward = property()  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__(discrete=True)


def test_it_serves_tqc() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.TQC(
        "MultiInputPolicy",
        lines(2),
        learning_starts=40,
        buffer_size=300,
        replay_buffer_class=HindsightReplayBuffer,
        policy_kwargs={"net_arch": [8]},
        batch_size=8,
        device="cpu",
    ).learn(60)
    assert model.replay_buffer.sample(10).rewards.shape == (10, 1)


def test_fetch_reach_has_rewards_of_many_and_ends_of_one() -> None:
    robotics = pytest.importorskip("gymnasium_robotics")
    gym.register_envs(robotics)
    env = DummyVecEnv([lambda: gym.make("FetchReach-v4")])
    model = SAC(
        "MultiInputPolicy",
        env,
        learning_starts=10_000,
        buffer_size=1000,
        replay_buffer_class=HindsightReplayBuffer,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    ).learn(120)
    assert isinstance(model.replay_buffer, HindsightReplayBuffer)
    samples = model.replay_buffer.sample(200)
    task = model.replay_buffer.replay.task
    assert task.terminated is not None
    assert (task.reward.at_once, task.terminated.at_once) == (True, False)
    after, goal = samples.next_observations["achieved_goal"], samples.observations["desired_goal"]
    far = (after - goal).norm(dim=1) > 0.05  # metres; the tolerance of its tasks
    torch.testing.assert_close(samples.rewards[:, 0], -far.float())
    assert not samples.dones.any()
    assert not far.all()
