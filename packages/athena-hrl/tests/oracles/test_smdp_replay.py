"""SB3's DQN, SAC and TD3 over options: targets with gamma^k, masks, ends, and another gamma refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.dqn.dqn as module
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from athena_core.environments import NumpyEnv
from athena_hrl import FourRooms, MaskInObservation, Option, OptionEnv, hallway_options, primitives
from athena_hrl.sb3 import MaskedDQN, SMDPDictReplayBuffer, SMDPReplayBuffer, smdp_options


class Stretch(gym.Env[Any, Any]):
    """Observations count steps; an episode ends by itself at 12, or is cut at 17 by a limit outside."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)

    def __init__(self, *, end: int = 12, actions: spaces.Space[Any] | None = None) -> None:
        self.end, self.action_space = end, actions or spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return np.array([self.count], np.float32), float(self.count), self.count == self.end, False, {}


def over_options(*, gamma: float = 0.9, end: int = 12, limit: int = 17) -> OptionEnv:
    """Options of 1 step and of up to the next multiple of 5."""
    env = gym.wrappers.TimeLimit(Stretch(end=end), limit)
    five = Option(policy=lambda seen: 0, termination=lambda seen: seen[0] % 5 == 0)
    return OptionEnv(env, [five, *primitives(env)], gamma=gamma)


def filled(model: Any, steps: int) -> Any:
    model.learn(steps)
    return model.replay_buffer


SMALL: dict[str, Any] = {"device": "cpu", "seed": 0, "buffer_size": 300, "learning_starts": 1000}


@pytest.mark.parametrize("end", [12, 1000])
def test_samples_have_the_discount_of_their_duration(end):
    """Pitfall 9, and ends: bootstrapped where truncated, not where terminated."""
    env = over_options(end=end)
    buffer = filled(DQN("MlpPolicy", env, **SMALL, **smdp_options(env)), 200)
    samples = buffer.sample(500)
    k = (samples.next_observations - samples.observations)[:, 0]
    assert (k >= 1).all()
    assert len(k.unique()) > 3
    assert samples.discounts is not None
    assert torch.allclose(samples.discounts[:, 0], 0.9**k)
    last = samples.next_observations[:, 0]
    assert (samples.dones[:, 0] == (last == end)).all()
    assert (last == (12 if end == 12 else 17)).any()
    expected = [
        sum(0.9**i * (s + 1 + i) for i in range(int(n)))
        for s, n in zip(samples.observations[:, 0], k, strict=True)
    ]
    assert samples.rewards[:, 0].tolist() == pytest.approx([float(x) for x in expected], rel=1e-5)


def test_the_target_of_dqn_is_discounted_by_gamma_to_the_k(monkeypatch):
    """Pitfall 9, in the algorithm itself: what its loss is given."""
    env = over_options(gamma=0.8)
    model = DQN("MlpPolicy", env, **SMALL, **smdp_options(env))
    buffer = filled(model, 100)
    with torch.no_grad():
        for weight in model.q_net_target.parameters():
            weight.mul_(3)
    samples = buffer.sample(64)
    monkeypatch.setattr(buffer, "sample", lambda *_, **__: samples)
    given: list[torch.Tensor] = []
    loss = module.F.smooth_l1_loss

    def caught(current: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        given.append(target.clone())
        return loss(current, target)

    monkeypatch.setattr(module.F, "smooth_l1_loss", caught)
    with torch.no_grad():
        value = model.q_net_target(samples.next_observations).max(1, keepdim=True).values
    k = samples.next_observations - samples.observations
    model.train(1, 64)
    assert torch.equal(given[0], samples.rewards + (1 - samples.dones) * samples.discounts * value)
    assert torch.allclose(given[0], samples.rewards + (1 - samples.dones) * 0.8**k * value)


class Frames(gym.Wrapper[Any, Any, Any, Any]):
    """A continuous action that also says for how many steps it is held: 1 to 3."""

    gamma = 0.9

    def step(self, action: Any) -> Any:
        total, discount, k = 0.0, 1.0, 0
        held = 1 + int((float(action[0]) + 1) * 1.49)
        while True:
            seen, reward, terminated, truncated, info = self.env.step(action)
            total, discount, k = total + discount * float(reward), discount * self.gamma, k + 1
            if k == held or terminated or truncated:
                return seen, total, terminated, truncated, {**info, "duration": k, "discount": discount}


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_sac_and_td3_learn_with_them(algorithm):
    env = Frames(gym.wrappers.TimeLimit(Stretch(actions=spaces.Box(-1, 1, (1,))), 9))
    model = algorithm("MlpPolicy", env, **{**SMALL, "learning_starts": 20}, **smdp_options(env)).learn(40)
    assert model.gamma == 0.9
    samples = model.replay_buffer.sample(100)
    assert torch.allclose(samples.discounts, 0.9 ** (samples.next_observations - samples.observations))


@pytest.mark.parametrize(("gamma", "other"), [(0.9, 0.99), (0.99, 0.9), (0.9, 0.9001)])
def test_another_gamma_than_the_environments_raises(gamma, other):
    """Required by the issue: said twice in one call, or of the buffer alone at its first transition."""
    env = over_options(gamma=gamma)
    with pytest.raises(TypeError, match="gamma"):
        DQN("MlpPolicy", env, gamma=other, **smdp_options(env))
    with pytest.raises(TypeError, match="gamma"):
        DQN("MlpPolicy", env, replay_buffer_class=SMDPReplayBuffer)
    model = DQN(
        "MlpPolicy",
        env,
        **SMALL,
        gamma=other,
        replay_buffer_class=SMDPReplayBuffer,
        replay_buffer_kwargs={"gamma": other},
    )
    with pytest.raises(ValueError, match=rf"`gamma` must be that of `env`; got {other}") as caught:
        model.learn(50)
    assert "\n" not in str(caught.value)


def test_environments_that_are_not_over_options_raise():
    cart = gym.make("CartPole-v1")
    with pytest.raises(
        ValueError, match=r"`env` must be over options, with one attribute `gamma`; got \[None\]"
    ):
        smdp_options(cart)
    with pytest.raises(ValueError, match=r"got \[None\]"):
        smdp_options(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(ValueError, match=r"got \[0\.9, 0\.8\]"):
        smdp_options(DummyVecEnv([over_options, lambda: over_options(gamma=0.8)]))
    model = DQN(
        "MlpPolicy", cart, **SMALL, replay_buffer_class=SMDPReplayBuffer, replay_buffer_kwargs={"gamma": 0.99}
    )
    with pytest.raises(ValueError, match='`env` must give "duration" and "discount"'):
        model.learn(10)
    with pytest.raises(ValueError, match="`optimize_memory_usage` must be False"):
        DQN("MlpPolicy", over_options(), optimize_memory_usage=True, **SMALL, **smdp_options(over_options()))


@pytest.mark.parametrize("dictionary", [False, True])
def test_with_options_of_one_step_samples_are_the_plain_buffers(dictionary):
    box = spaces.Box(-1, 1, (3,))
    space: Any = spaces.Dict({"place": box, "key": spaces.Discrete(4)}) if dictionary else box
    ours, plain = (SMDPDictReplayBuffer, DictReplayBuffer) if dictionary else (SMDPReplayBuffer, ReplayBuffer)
    random = np.random.default_rng(0)
    one, other = (
        ours(40, space, spaces.Discrete(2), "cpu", n_envs=4, gamma=0.9),
        plain(40, space, spaces.Discrete(2), "cpu", n_envs=4),
    )  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]

    def drawn() -> Any:
        place = random.normal(size=(4, 3)).astype(np.float32)
        return {"place": place, "key": random.integers(0, 4, 4)} if dictionary else place

    for _ in range(15):  # more than it holds
        done = random.random(4) < 0.3
        infos = [
            {"duration": 1, "discount": 0.9, "TimeLimit.truncated": bool(random.random() < 0.5)}
            for _ in range(4)
        ]
        step = drawn(), drawn(), random.integers(0, 2, 4), random.normal(size=4), done, infos
        one.add(*step)
        other.add(*step)
    found = []
    for buffer in (one, other):
        np.random.seed(3)
        found.append(buffer.sample(64))
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        first, second = (getattr(samples, name) for samples in found)
        for key in space if dictionary and "observations" in name else [None]:
            assert torch.equal(first if key is None else first[key], second if key is None else second[key])
    assert torch.equal(found[0].discounts, torch.full((64, 1), 0.9))
    assert found[1].discounts is None


def test_normalised_observations_and_rewards():
    env = VecNormalize(DummyVecEnv([over_options] * 2), gamma=0.9)
    model = DQN("MlpPolicy", env, **SMALL, **smdp_options(env))
    buffer = filled(model, 100)
    np.random.seed(0)
    raw = buffer.sample(50)
    np.random.seed(0)
    normal = buffer.sample(50, env=env)
    assert np.allclose(env.normalize_obs(raw.observations.numpy()), normal.observations)
    assert np.allclose(env.normalize_reward(raw.rewards.numpy()), normal.rewards)
    assert torch.equal(raw.discounts, normal.discounts)


def test_saving_and_loading_keeps_discounts(tmp_path):
    env = over_options()
    model = DQN("MlpPolicy", env, **SMALL, **smdp_options(env))
    buffer = filled(model, 100)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.save(tmp_path / "model.zip")
    again = DQN.load(tmp_path / "model.zip", env=env)
    again.load_replay_buffer(tmp_path / "buffer.pkl")
    assert (again.replay_buffer.discounts == buffer.discounts).all()  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    again.learn(20)


def rooms_with_masks() -> MaskInObservation:
    rooms = FourRooms()
    env = gym.wrappers.TimeLimit(NumpyEnv(rooms), 100)
    return MaskInObservation(OptionEnv(env, hallway_options(rooms)))


def test_masked_dqn_keeps_to_the_options_that_can_start(monkeypatch):
    """Pitfall 10: in the warm-up, the draw of epsilon, the best, and the maximum of the target."""
    env = rooms_with_masks()
    model = MaskedDQN(
        "MultiInputPolicy",
        env,
        device="cpu",
        seed=0,
        buffer_size=400,
        learning_starts=30,
        exploration_fraction=0.9,
        **smdp_options(env),
    )
    model.learn(300)  # an option that cannot start would raise
    samples = model.replay_buffer.sample(200)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    masks = samples.observations["action_mask"]
    assert torch.gather(masks, 1, samples.actions.long()).bool().all()
    assert len(samples.actions.unique()) == 8
    with torch.no_grad():
        values = model.q_net_target(samples.next_observations)
    free = samples.next_observations["action_mask"] == 0
    assert (values[free] < -1e30).all()
    assert values[~free].abs().max() < 1e3
    best = model.predict(
        {key: value.numpy() for key, value in samples.observations.items()}, deterministic=True
    )[0]
    assert masks[torch.arange(200), torch.from_numpy(best)].bool().all()
    single = {key: value[0].numpy() for key, value in samples.observations.items()}
    model.exploration_rate = 1.0
    assert {int(model.predict(single)[0]) for _ in range(60)} == set(np.flatnonzero(single["action_mask"]))


def test_masks_of_terminal_observations_may_be_empty():
    env = OptionEnv(
        Stretch(end=3),
        [Option(policy=lambda s: 0, termination=lambda s: True, initiation=lambda s: s[0] < 3)],
    )
    masked = MaskInObservation(env)
    model = MaskedDQN(
        "MultiInputPolicy",
        masked,
        device="cpu",
        learning_starts=5,
        train_freq=1,
        buffer_size=100,
        **smdp_options(masked),
    )
    model.learn(40)
    assert all(torch.isfinite(weight).all() for weight in model.policy.parameters())


def test_maskable_ppo_finds_the_masks():
    rooms = FourRooms()
    env = OptionEnv(gym.wrappers.TimeLimit(NumpyEnv(rooms), 50), hallway_options(rooms))
    assert (
        MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(64).num_timesteps == 64
    )


def test_a_plain_dqn_meets_an_error_rather_than_an_option_that_does_nothing():
    rooms = FourRooms()
    env = OptionEnv(NumpyEnv(rooms), hallway_options(rooms))
    with pytest.raises(ValueError, match="`option` must be one of"):
        DQN("MlpPolicy", env, **SMALL, **smdp_options(env)).learn(100)
