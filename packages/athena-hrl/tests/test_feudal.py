"""The feudal losses worked by hand, what has a gradient, and rollouts over ends of episodes."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from athena_core.environments import Advanced, Dynamics, NumpyVectorEnv
from athena_hrl import (
    DilatedLSTM,
    Feudal,
    FeudalNetwork,
    FeudalRollout,
    discounted_returns,
    feudal_reward,
    transition_policy_loss,
)

SMALL: dict[str, Any] = {"horizon": 2, "n_steps": 6, "latent_dim": 4, "embedding_dim": 3}


class Choice(gym.Env[Any, Any]):
    """Action 1 earns 1; an episode terminates after ``length`` steps, or is cut if that is negative."""

    def __init__(self, length: int = 4) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2, start=1)
        self.length, self.count = length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (1, 2)
        self.count += 1
        over = self.count >= abs(self.length)
        return self._observation(), float(action == 2), over and self.length > 0, over and self.length < 0, {}

    def _observation(self) -> np.ndarray:
        return np.array([1.0, self.count / 10], dtype=np.float32)


def test_the_managers_loss_is_the_cosine_times_the_advantage():
    """Directions (3, 4) and (1, 0) against goals (1, 0) and (0, 1): cosines 0.6 and 0."""
    latent_t, latent_tpc = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    goal = torch.eye(2)
    advantage, ones = torch.tensor([2.0, 5.0]), torch.ones(2)
    loss = transition_policy_loss(latent_t, latent_tpc, goal, advantage, ones)
    assert loss.item() == pytest.approx(-(2 * 0.6 + 0) / 2)
    masked = transition_policy_loss(latent_t, latent_tpc, goal, advantage, torch.tensor([1.0, 0.0]))
    assert masked.item() == pytest.approx(-1.2)
    assert transition_policy_loss(latent_t, latent_tpc, goal, advantage, torch.zeros(2)).item() == 0


def test_only_the_goal_has_a_gradient_and_a_good_advantage_turns_it_towards_where_it_went():
    latent_t, latent_tpc = (torch.randn(1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    advantage = torch.ones(1, dtype=torch.float64, requires_grad=True)
    goal = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, dtype=torch.float64)
    transition_policy_loss(latent_t, latent_tpc, goal, advantage, ones).backward()
    assert latent_t.grad is latent_tpc.grad is advantage.grad is None
    assert goal.grad is not None
    moved = goal - 1e-3 * goal.grad
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(moved, latent_tpc - latent_t) > cosine(goal, latent_tpc - latent_t)
    torch.autograd.gradcheck(
        lambda g: transition_policy_loss(latent_t.detach(), latent_tpc.detach(), g, 3 * ones, ones), goal
    )


def test_the_workers_reward_is_the_mean_cosine_with_the_last_goals():
    latent = torch.tensor([[2.0, 2.0]])
    before = torch.tensor([[[0.0, 0.0], [2.0, 1.0], [7.0, 7.0]]])
    goals = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    reward = feudal_reward(latent, before, goals, torch.tensor([[1.0, 1.0, 0.0]]))
    assert reward.item() == pytest.approx((math.sqrt(0.5) + 1) / 3)


def test_returns_bootstrap_where_an_episode_was_cut_and_not_where_it_ended():
    """Three steps: the second terminates; in the second row it is cut with a value of 10."""
    reward = torch.ones(3, 2)
    discount = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    bootstrap = torch.tensor([[0.0, 0.0], [0.0, 5.0], [2.0, 2.0]])
    expected = torch.tensor([[1.5, 4.0], [1.0, 6.0], [3.0, 3.0]])
    torch.testing.assert_close(discounted_returns(reward, discount, bootstrap), expected)


def test_a_dilated_lstm_changes_one_state_a_step():
    lstm, state = DilatedLSTM(3, radius=2), None
    state = lstm.start(1)
    inputs = torch.randn(5, 1, 3)
    cells = [(torch.zeros(1, 3), torch.zeros(1, 3)) for _ in range(2)]
    for step, one in enumerate(inputs):
        output, state = lstm(one, state, step=step)
        cells[step % 2] = lstm.cell(one, cells[step % 2])
        torch.testing.assert_close(output, (cells[0][0] + cells[1][0]) / 2)


def test_the_worker_teaches_the_manager_nothing():
    network = FeudalNetwork(3, 4, horizon=2, latent_dim=5, embedding_dim=3)
    output, memory = network(torch.randn(2, 3), network.start(2))
    output, _ = network(torch.randn(2, 3), memory)
    output.logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        taught = parameter.grad is not None and bool(parameter.grad.any())
        assert taught == name.startswith(("percept", "worker", "goal_embedding")), name


def test_the_worker_sees_the_sum_of_the_last_goals_of_its_episode():
    network = FeudalNetwork(3, 4, horizon=2, latent_dim=5, embedding_dim=3)
    memory, goals = network.start(1), []
    for _ in range(4):
        state = torch.randn(1, 3)
        output, memory = network(state, memory)
        goals.append(output.goal)
        direction = network.goal_embedding(torch.stack(goals[-3:]).sum(0))  # t - c to t
        by_hand = network.worker(network.percept(state)).view(4, 3) @ direction[0]
        torch.testing.assert_close(output.logits[0], by_hand)
    fresh = memory.restarted(torch.tensor([True]))
    assert not bool(fresh.goals.any() or fresh.latents.any() or fresh.mask.any() or fresh.manager.any())
    assert bool(memory.restarted(torch.tensor([False])).goals.equal(memory.goals))


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("mode", MODES)
def test_returns_of_a_rollout_end_with_the_episodes(mode):
    """Undiscounted without intrinsic reward: 1 a step of action 2; termination has no future."""
    env = SyncVectorEnv([lambda: Choice(3)], autoreset_mode=mode)
    agent = Feudal(env, gamma=1.0, worker_gamma=1.0, intrinsic=0.0, **SMALL)
    agent.rows.start(seed=0)
    rollout = agent.rollout()
    kept = rollout.valid[:, 0].bool()
    returns = rollout.returns[kept, 0]
    torch.testing.assert_close(returns[:3, 0], returns[:3, 1])  # the last ones are bootstrapped
    for start in range(3):
        assert 0 <= returns[start, 0] <= 3 - start
    assert rollout.ended[2, 0]
    assert bool(kept.all()) == (mode is not AutoresetMode.NEXT_STEP)


def test_truncation_is_bootstrapped_with_the_value_of_the_state_that_was_reached():
    agent = Feudal(Choice(-3), gamma=0.5, intrinsic=0.0, **SMALL)
    agent.rows.start(seed=0)
    rollout = agent.rollout()
    last = np.array([[1.0, 0.3]], dtype=np.float32)
    value = agent.network.state_values(agent._input(last, np.zeros((1, 0), np.float32)))[0, 0]
    reward = (rollout.returns[2, 0, 0] - 0.5 * value).item()
    assert reward == pytest.approx(0.0, abs=1e-6) or reward == pytest.approx(1.0, abs=1e-6)


class Both(Choice):
    """The last step terminates and is cut."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over, over, info


def test_a_termination_that_is_also_cut_has_no_future():
    agent = Feudal(Both(3), gamma=0.5, intrinsic=0.0, **SMALL)
    agent.rows.start(seed=0)
    assert agent.rollout().returns[2, 0, 0].item() in (0.0, 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_the_memory_of_an_episode_ends_with_it(mode):
    env = SyncVectorEnv([lambda: Choice(3), lambda: Choice(5)], autoreset_mode=mode)
    agent = Feudal(env, **{**SMALL, "n_steps": 3})
    agent.rows.start(seed=0)
    agent.rollout()
    assert agent.memory.mask.flatten(1).any(1).tolist() == [False, True]


def test_the_managers_loss_reaches_over_no_end_of_an_episode():
    """Of six steps with an end after the third and c = 2, steps 0, 3 have two followers of their episode."""
    agent = Feudal(Choice(3), **SMALL)
    agent.rows.start(seed=0)
    rollout = agent.rollout()
    goal = rollout.goal.detach().clone().requires_grad_()
    advantage_free = rollout._replace(goal=goal, returns=rollout.values.detach() + 1)
    agent.loss(FeudalRollout(*advantage_free)).backward()
    assert goal.grad is not None
    assert [bool(one.any()) for one in goal.grad[:, 0]] == [True, False, False, True, False, False]


def test_it_learns_the_better_action():
    env = SyncVectorEnv([lambda: Choice(4) for _ in range(4)], autoreset_mode=AutoresetMode.SAME_STEP)
    agent = Feudal(env, lr=1e-2, intrinsic=0.1, **SMALL).learn(1600)
    actions, _ = agent.predict(np.array([[1.0, 0.0], [1.0, 0.2]], dtype=np.float32))
    assert actions.tolist() == [2, 2]


class Corridor(Dynamics):
    """Places 0 to 4 as numbers; the last one ends the episode."""

    observation_space, action_space = spaces.Box(0, 4, (1,), np.float32), spaces.Discrete(2)

    def start(self, random: Any) -> Any:
        return {"random": random, "place": np.zeros(len(random), dtype=np.int64)}

    def advance(self, state: Any, action: Any) -> Advanced:
        place = np.clip(state["place"] + 2 * action - 1, 0, 4)
        return Advanced({**state, "place": place}, (place == 4).astype(float), place == 4)

    def observe(self, state: Any) -> Any:
        return state["place"][:, None].astype(np.float32)


def test_a_resumed_learner_equals_an_uninterrupted_one():
    def make() -> Feudal:
        env = NumpyVectorEnv(Corridor(), 2, max_episode_steps=7, autoreset_mode="SameStep")
        return Feudal(env, seed=3, **SMALL)

    whole, cut, resumed = make(), make(), make()
    whole.learn(12).learn(12)
    resumed.load_state_dict(cut.learn(12).state_dict())
    resumed.learn(12)
    for one, other in zip(
        torch.utils._pytree.tree_leaves(whole.state_dict()),
        torch.utils._pytree.tree_leaves(resumed.state_dict()),
        strict=True,
    ):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)


def test_a_learner_that_took_over_a_state_shares_nothing_with_the_other():
    first, other = (Feudal(gym.make_vec("CartPole-v1", 2), seed=seed, **SMALL) for seed in (0, 1))
    first.learn(12)
    kept = copy.deepcopy(first.optimizer.state_dict()["state"])
    other.load_state_dict(first.state_dict())
    other.learn(12)
    for number, averages in first.optimizer.state_dict()["state"].items():
        assert torch.equal(averages["square_avg"], kept[number]["square_avg"])


@pytest.mark.parametrize(("end", "counts"), [(0, False), (1, False), (2, True)])
def test_the_manager_learns_nothing_across_an_end(end, counts):
    """Of three steps and a horizon of two the first alone has a follower: its episode must last two steps."""
    agent = Feudal(Choice(), entropy=0.0, **SMALL)
    latent, goal = torch.randn(2, 3, 1, 4)
    none, ended = torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.bool)
    ended[end] = True
    values, returns = torch.zeros(3, 1, 2), torch.ones(3, 1, 2)
    loss = agent.loss(FeudalRollout(latent, goal, none, none, values, returns, ended, torch.ones_like(ended)))
    assert (loss.item() != 1.0) == counts  # half the squared errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 2}, "`n_steps` must exceed `horizon`, 2; got 2"),
        ({"gamma": 1.5}, r"`gamma` must lie in \[0, 1\]"),
        ({"worker_gamma": -1.0}, "`worker_gamma` must lie"),
        ({"intrinsic": -1.0}, "`intrinsic` must be at least 0"),
        ({"horizon": 0}, "`horizon` must be at least 1"),
        ({"latent_dim": 0}, "`latent_dim` must be at least 1"),
        ({"entropy": float("nan")}, "`entropy` must be at least 0"),
        ({"lr": -1.0}, "`lr` must be at least 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Feudal(Choice(), **{**SMALL, **options})


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="actions must be Discrete; got Box"):
        Feudal(gym.make("Pendulum-v1"), **SMALL)
