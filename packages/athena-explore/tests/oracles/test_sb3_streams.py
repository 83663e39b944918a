"""What the bonus sees of a rollout, and what becomes of its rewards: advantages, returns, a second loss."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from sb3_environments import (
    ACTIONS,
    OBSERVATIONS,
    Constant,
    Corridor,
    Episodes,
    Kept,
    LastStep,
    Recording,
    corridors,
)
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecNormalize,
)

from athena_explore.sb3 import IntrinsicMaskablePPO, IntrinsicPPO, IntrinsicRecurrentPPO
from athena_explore.sb3._policy_head import IntrinsicValue
from athena_explore.sb3._rollout import endless_advantages, with_intrinsic_returns

OPTIONS: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}


class AfterRollout(BaseCallback):
    """Calls a function with the algorithm when a rollout is complete, before it trains."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.function(self.model)


# --- what the bonus sees ---------------------------------------------------------------------------

WRAPPED: dict[str, Any] = {
    "plain": lambda env: env,
    "normalised": VecNormalize,
    "rewards normalised over observations": lambda env: VecNormalize(VecNormalize(env), norm_obs=False),
    "stacked over normalised": lambda env: VecFrameStack(VecNormalize(env), 2),
}


def check_transitions(bonus: Recording, *, count: int, steps: int) -> None:
    """Against what `Corridor` does: episodes of 3 steps, of which every second is truncated."""
    for rollout, seen in enumerate(bonus.seen):
        assert seen.shape == (steps, count)
        for t in range(steps):
            for n in range(count):
                episode, step = divmod(rollout * steps + t, 3)
                episode += n
                assert seen.obs[t, n].tolist() == [episode, step]
                assert seen.next_obs[t, n].tolist() == [episode, step + 1]
                assert bool(seen.terminated[t, n]) == (step == 2 and episode % 2 == 0)
                assert bool(seen.truncated[t, n]) == (step == 2 and episode % 2 == 1)
    assert all(bool(seen.valid.all()) for seen in bonus.seen)


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_true_raw_observations_and_both_ends(wrapper: str) -> None:
    env = WRAPPED[wrapper](corridors(3))
    model = IntrinsicPPO("MlpPolicy", env, bonus=Recording, **OPTIONS).learn(16 * 3 * 2)
    assert model.bonus.observation_space == OBSERVATIONS["vector"]
    assert len(model.bonus.seen) == 2
    check_transitions(model.bonus, count=3, steps=16)
    inside = env
    while hasattr(inside, "venv"):
        inside = inside.venv
        assert "step_wait" not in vars(inside)  # nothing was left behind


class Known(Recording):
    """How many rows it has learned from."""

    def rewards(self, transition: Any) -> torch.Tensor:
        return self.memory["samples"].expand(transition.shape)


def test_a_rollout_is_scored_before_it_is_known() -> None:
    kept, model = Kept(), IntrinsicPPO("MlpPolicy", corridors(), bonus=Known, **OPTIONS)
    model.set_logger(Logger(None, [kept]))
    model.learn(3 * 32)
    assert [row["intrinsic/reward_mean"] for row in kept.rows] == [0, 32, 64]


def test_processes() -> None:
    env = SubprocVecEnv([partial(Corridor, start=i) for i in range(2)])
    try:
        model = IntrinsicPPO("MlpPolicy", VecNormalize(env), bonus=Recording, **OPTIONS).learn(16 * 2 * 2)
    finally:
        env.close()
    check_transitions(model.bonus, count=2, steps=16)


def test_rollouts_that_do_not_reset_go_on() -> None:
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Recording, **OPTIONS)
    model.learn(32)
    assert model.bonus.cleared == 1
    model.learn(32, reset_num_timesteps=False)
    assert model.bonus.cleared == 1
    check_transitions(model.bonus, count=2, steps=16)
    model.learn(32)
    assert model.bonus.cleared == 2
    model.set_env(corridors())
    model.learn(32, reset_num_timesteps=False)  # another environment begins with a reset
    assert model.bonus.cleared == 3


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_spaces(observation: str, action: str) -> None:
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(observation, "MlpPolicy")
    env = corridors(observation=observation, action=action)
    model = IntrinsicPPO(policy, env, bonus=Recording, **OPTIONS).learn(32)
    (seen,) = model.bonus.seen
    obs = seen.next_obs["place"] if observation == "dict" else seen.next_obs
    assert obs.dtype == {"image": torch.uint8, "index": torch.int64}.get(observation, torch.float32)
    assert seen.action.shape == (16, 2, *ACTIONS[action].shape)
    if action == "box":  # as the environment got them, inside of the space
        assert float(seen.action.abs().max()) <= 0.1 + 1e-6
    rnd = IntrinsicPPO(policy, env, bonus="rnd", **OPTIONS).learn(64)
    assert rnd.bonus.ready


def test_terminal_observations_must_be_there() -> None:
    class Silent(DummyVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return obs, rewards, dones, infos

    for env in (Silent([Corridor]), VecNormalize(Silent([Corridor]))):
        model = IntrinsicPPO("MlpPolicy", env, bonus=Recording, **OPTIONS)
        with pytest.raises(ValueError, match=r"infos\[0\].*'terminal_observation'.*got none"):
            model.learn(16)
    assert "step_wait" not in vars(env.venv)


# --- advantages and returns ------------------------------------------------------------------------


def plain_advantages(rewards: Any, values: Any, *, gamma: float, gae_lambda: float) -> np.ndarray:
    """The definition: the sum of discounted errors, to the end of the rollout, in float64."""
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    errors = rewards + gamma * values[1:] - values[:-1]
    steps = len(errors)
    return np.stack(
        [sum((gamma * gae_lambda) ** k * errors[t + k] for k in range(steps - t)) for t in range(steps)]
    )


@given(
    steps=st.integers(1, 12),
    environments=st.integers(1, 3),
    gamma=st.floats(0, 0.999),
    gae_lambda=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_endless_advantages(
    steps: int, environments: int, gamma: float, gae_lambda: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    rewards = draw.normal(size=(steps, environments)).astype(np.float32)
    values = draw.normal(size=(steps + 1, environments)).astype(np.float32)
    options = {"gamma": gamma, "gae_lambda": gae_lambda}
    found = endless_advantages(rewards, values[:-1], values[-1], **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_advantages(rewards, values, **options), rtol=1e-4, atol=1e-4)


def critic_features(policy: ActorCriticPolicy, obs: torch.Tensor) -> torch.Tensor:
    return policy.mlp_extractor.forward_critic(policy.extract_features(obs))


@pytest.mark.parametrize("kind", [IntrinsicPPO, IntrinsicMaskablePPO])
def test_both_streams_of_a_rollout(kind: Any) -> None:
    """Everything again, from the transitions, the policy and the definitions."""
    kept = []

    def keep(model: Any) -> None:
        buffer, last = model.rollout_buffer, torch.as_tensor(model._last_obs)
        with torch.no_grad():
            obs = torch.cat([model.bonus.seen[-1].obs, last[None]])  # at an end, that of the next episode
            values = model.intrinsic_value(critic_features(model.policy, obs.flatten(0, 1))).view(17, 2)
        rewards = model.bonus.rewards(model.bonus.seen[-1])
        intrinsic = plain_advantages(rewards, values, gamma=0.9, gae_lambda=0.8)
        mixed, returns, extrinsic_values = buffer.advantages, buffer.returns, buffer.values
        np.testing.assert_allclose(
            mixed - (returns - extrinsic_values), 0.7 * intrinsic, rtol=1e-4, atol=1e-4
        )
        expected = (intrinsic + values[:-1].numpy()).T.reshape(-1, 1)
        np.testing.assert_allclose(buffer.intrinsic_returns, expected, rtol=1e-4, atol=1e-4)
        kept.append(returns.copy())

    streams = {"intrinsic_gamma": 0.9, "intrinsic_gae_lambda": 0.8}
    model = kind("MlpPolicy", corridors(), bonus=Episodes, bonus_coefficient=0.7, **streams, **OPTIONS)
    model.learn(32, callback=AfterRollout(keep))
    plain = kind("MlpPolicy", corridors(), bonus_coefficient=0, **OPTIONS)
    plain.learn(32, callback=AfterRollout(lambda model: kept.append(model.rollout_buffer.returns.copy())))
    assert np.array_equal(*kept)  # the extrinsic returns are as without a bonus


def test_a_late_bonus_raises_earlier_advantages() -> None:
    def advantages(coefficient: float) -> np.ndarray:
        found = []
        model = IntrinsicPPO(
            "MlpPolicy", corridors(), bonus=LastStep, bonus_coefficient=coefficient, **OPTIONS
        )
        torch.nn.init.zeros_(model.intrinsic_value.weight)
        model.learn(
            32, callback=AfterRollout(lambda model: found.append(model.rollout_buffer.advantages.copy()))
        )
        return found[0]

    raised = advantages(2.0) - advantages(0.0)
    expected = 2 * (0.99 * 0.95) ** np.arange(
        15, -1, -1.0
    )  # episodes end at every third step: it does not matter
    np.testing.assert_allclose(raised, np.stack([expected, expected], 1), rtol=1e-3, atol=1e-5)


def test_timeouts_add_nothing_to_the_intrinsic_stream() -> None:
    """Stable-Baselines3 adds a value to the reward of a truncated step; ours are the rewards of the bonus."""

    def intrinsic_returns(start: int) -> np.ndarray:
        found = []
        env = DummyVecEnv([lambda: Corridor(start=start)])  # of even and odd numbers
        model = IntrinsicPPO("MlpPolicy", env, bonus=LastStep, **OPTIONS)
        torch.nn.init.zeros_(model.intrinsic_value.weight)
        model.learn(
            16,
            callback=AfterRollout(lambda model: found.append(model.rollout_buffer.intrinsic_returns.copy())),
        )
        assert bool(model.bonus.seen[0].truncated.any())
        return found[0]

    assert np.array_equal(intrinsic_returns(0), intrinsic_returns(1))


def test_the_coefficient_follows_training() -> None:
    seen: list[float] = []

    def coefficient(remaining: float) -> float:
        seen.append(remaining)
        return max(0.0, remaining - 0.5)

    def learns(model: Any) -> None:
        used.append(model.rollout_buffer.intrinsic_returns is not None)

    used: list[bool] = []
    model = IntrinsicPPO("MlpPolicy", corridors(), bonus=Episodes, bonus_coefficient=coefficient, **OPTIONS)
    model.learn(4 * 32, callback=AfterRollout(learns))
    assert seen == [1.0, 0.75, 0.5, 0.25]
    assert used == [True, True, False, False]
    assert model.intrinsic_value.weight.grad is None  # None, not 0, once it is switched off


# --- the second loss -------------------------------------------------------------------------------


def plain_policy() -> tuple[ActorCriticPolicy, IntrinsicValue]:
    torch.manual_seed(0)
    policy = ActorCriticPolicy(OBSERVATIONS["vector"], ACTIONS["discrete"], lambda _: 1e-3, net_arch=[8])
    return policy, IntrinsicValue(policy, seed=1, vf_coef=0.3)


def gradients(policy: ActorCriticPolicy) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in policy.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("vf_coef", [0.0, 0.5])
def test_the_second_loss_is_in_the_gradient(masked: bool, vf_coef: float) -> None:
    obs, actions, returns = torch.randn(6, 2), torch.zeros(6), torch.randn(6)
    mask = torch.tensor([True, False, True, True, False, True]) if masked else None
    rows = torch.ones(6, dtype=torch.bool) if mask is None else mask

    policy, value = plain_policy()
    value.expect(returns, mask)
    values, log_prob, _ = policy.evaluate_actions(obs, actions)
    (log_prob.mean() + vf_coef * values.square().mean()).backward()

    other, second = plain_policy()
    values, log_prob, _ = other.evaluate_actions(obs, actions)
    loss = F.mse_loss(second(critic_features(other, obs))[rows], returns[rows])
    (log_prob.mean() + vf_coef * values.square().mean() + 0.3 * loss).backward()
    torch.testing.assert_close(gradients(policy), gradients(other))
    assert value.take_loss() == pytest.approx(loss.item())
    assert value.take_loss() is None


def test_a_loss_is_for_one_call_and_none_without_returns() -> None:
    policy, value = plain_policy()
    obs, actions = torch.randn(6, 2), torch.zeros(6)
    policy.evaluate_actions(obs, actions)[0].sum().backward()
    assert value.weight.grad is None
    value.expect(torch.zeros(6))
    with torch.no_grad():
        policy.evaluate_actions(obs, actions)  # nothing is trained here, and it waits
    policy.evaluate_actions(obs, actions)[0].sum().backward()
    gradient = value.weight.grad
    assert gradient is not None
    policy.zero_grad()
    policy.evaluate_actions(obs, actions)[0].sum().backward()
    assert value.weight.grad is None
    value.expect(torch.zeros(6))
    value.take_loss()  # training is over: what waits is dropped
    policy.evaluate_actions(obs, actions)[0].sum().backward()
    assert value.weight.grad is None


def test_a_copied_policy_has_its_own_head() -> None:
    policy, value = plain_policy()
    other = copy.deepcopy(policy)
    value.expect(torch.ones(6))
    other.evaluate_actions(torch.randn(6, 2), torch.zeros(6))[0].sum().backward()
    assert all(parameter.grad is None for parameter in other.get_submodule("intrinsic_value").parameters())
    other.predict_values(torch.randn(3, 2))
    assert value.features is None


BUFFERS: dict[str, Any] = {
    "plain": RolloutBuffer,
    "dictionaries": DictRolloutBuffer,
    "masks": MaskableRolloutBuffer,
    "masks, dictionaries": MaskableDictRolloutBuffer,
    "recurrent": RecurrentRolloutBuffer,
    "recurrent, dictionaries": RecurrentDictRolloutBuffer,
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_returns_go_with_their_rows(kind: str) -> None:
    """With the extrinsic returns as the intrinsic ones, each minibatch must find what it holds itself."""
    steps, environments = 12, 3
    space = OBSERVATIONS["dict" if "dictionaries" in kind else "vector"]
    recurrent = "recurrent" in kind
    shape = [(steps, 1, environments, 4)] if recurrent else []
    buffer = BUFFERS[kind](steps, space, ACTIONS["discrete"], *shape, n_envs=environments, device="cpu")
    _, value = plain_policy()
    with_intrinsic_returns(buffer, value)
    state = torch.zeros(1, environments, 4)
    also = {"lstm_states": RNNStates((state, state), (state, state))} if recurrent else {}
    for step in range(steps):
        row = torch.randn(environments)
        place = np.zeros((environments, 2))
        obs = {"place": place, "step": place[:, :1]} if "dictionaries" in kind else place
        starts = np.full(environments, step % 5 == 0)
        buffer.add(obs, np.zeros((environments, 1)), row.numpy(), starts, row, row, **also)
    buffer.compute_returns_and_advantage(torch.zeros(environments), np.zeros(environments, bool))
    before = buffer.advantages.copy()
    buffer.add_intrinsic(buffer.advantages.copy(), buffer.values, coefficient=0.5)
    np.testing.assert_allclose(buffer.advantages, 1.5 * before, rtol=1e-6)
    for _ in range(2):  # epochs
        for samples in buffer.get(7):
            returns, mask = value._expected
            assert torch.equal(returns, samples.returns)
            assert (mask is None) == (not recurrent)
            if recurrent:
                assert torch.equal(mask, samples.mask > 0)
    buffer.reset()
    assert buffer.intrinsic_returns is None


@pytest.mark.parametrize(
    ("kind", "policy", "options"),
    [
        (IntrinsicPPO, "MlpPolicy", {"clip_range_vf": 0.1}),
        (IntrinsicMaskablePPO, "MlpPolicy", {}),
        (IntrinsicRecurrentPPO, "MlpLstmPolicy", {"policy_kwargs": {"lstm_hidden_size": 16}}),
    ],
)
def test_the_second_head_learns_the_endless_return(kind: Any, policy: str, options: dict[str, Any]) -> None:
    """A bonus of 1 in every step is worth 1 / (1 - gamma), also in the last step of an episode."""
    options = {**OPTIONS, "n_epochs": 8, "learning_rate": 1e-2, "max_grad_norm": 10, **options}
    model = kind(policy, corridors(), bonus=Constant, intrinsic_gamma=0.8, intrinsic_vf_coef=1.0, **options)
    model.learn(40 * 32)
    with torch.no_grad():
        values = model.intrinsic_value(model.intrinsic_value.features)
    torch.testing.assert_close(values, torch.full_like(values, 5.0), rtol=0.1, atol=0)
