"""The deep option-critic: losses, gradients in float64, time and autoreset, identities, pitfalls 14 to 19."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from scripted_vector_env import ScriptedVectorEnv
from torch import Tensor, nn

from athena_core.environments import Advanced, Dynamics, NumpyVectorEnv
from athena_hrl import (
    OptionCritic,
    OptionCriticDQN,
    OptionLosses,
    OptionNetwork,
    OptionStep,
    clipped_policy_loss,
    option_advantages,
    policy_gradient_loss,
    termination_loss,
)
from athena_hrl import _option_critic_losses as formulas

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
BOX, TWO = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)


def small(env: Any = None, **options: Any) -> OptionCritic:
    given = {"n_options": 2, "hidden": (8,), "n_steps": 6, "gamma": 0.9, "lr": 1e-2, **options}
    return OptionCritic(env or ScriptedVectorEnv([3, 5]), **given)


# Formulas.


def numeric_gradient(function: Any, x: Tensor) -> Tensor:
    gradient = torch.empty_like(x)
    for place in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[place] = 1e-6
        gradient[place] = (function(x + step) - function(x - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
def test_gradients_of_policy_and_termination_are_those_of_finite_differences(action_space):
    """Of the expected value by the policy's weights, and of the value upon arrival by the termination's."""
    network = OptionNetwork(BOX, action_space, n_options=2, hidden=(4,)).double()
    obs, option = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        network.policy_head.weight.normal_()
        action = network.sample(network(obs), option, generator=torch.Generator().manual_seed(0))
    advantage, q, v = torch.randn(3, 5, dtype=torch.float64)

    def policy(weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(network, {"policy_head.weight": weight}, (obs,))
        return policy_gradient_loss(network.log_prob(outputs, option, action), advantage).mean()

    def termination(weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(network, {"termination_head.weight": weight}, (obs,))
        return termination_loss(formulas.of_option(outputs.beta, option), q, v, margin=0.3).mean()

    for loss, head in ((policy, network.policy_head), (termination, network.termination_head)):
        weight = head.weight.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(weight), weight)
        with torch.no_grad():
            wanted = numeric_gradient(loss, weight.detach())
        torch.testing.assert_close(gradient, wanted, atol=1e-8, rtol=1e-6)
        assert gradient.abs().max() > 0


def test_the_clipped_loss_has_the_plain_gradient_where_policies_agree():
    log_prob = torch.randn(6, dtype=torch.float64).requires_grad_()
    advantage = torch.randn(6, dtype=torch.float64)
    plain = torch.autograd.grad(policy_gradient_loss(log_prob, advantage).sum(), log_prob)[0]
    clipped = clipped_policy_loss(log_prob, advantage, old_log_prob=log_prob.detach(), clip=0.2)
    torch.testing.assert_close(torch.autograd.grad(clipped.sum(), log_prob)[0], plain)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_pitfall_14_a_positive_advantage_lowers_beta_and_pitfall_17_the_critic_is_detached(margin):
    logit = torch.zeros(2, requires_grad=True)
    q, v = torch.tensor([2.0, 0.0], requires_grad=True), torch.tensor([1.0, 1.0], requires_grad=True)
    termination_loss(logit.sigmoid(), q, v, margin=margin).sum().backward()
    assert logit.grad is not None
    assert logit.grad.tolist() == [0.25 * (1 + margin), 0.25 * (-1 + margin)]  # descended: the first falls
    assert q.grad is None
    assert v.grad is None


@given(st.integers(0, 6), st.integers(0, 100), st.sampled_from([0.0, 0.5, 1.0]))
def test_advantages_equal_a_plain_sum(steps, seed, gae_lambda):
    rng = np.random.default_rng(seed)
    reward, value, arrival = rng.normal(size=(3, steps, 2))
    terminated, truncated = rng.random((2, steps, 2)) < 0.3
    made = option_advantages(
        *(torch.tensor(x) for x in (reward, value, arrival)),
        terminated=torch.tensor(terminated),
        truncated=torch.tensor(truncated),
        gamma=0.9,
        gae_lambda=gae_lambda,
    )
    for row in range(2):
        for t in range(steps):
            wanted, weight = 0.0, 1.0
            for later in range(t, steps):
                place = later, row
                value_tp1 = 0.0 if terminated[place] else arrival[place]
                wanted += weight * (reward[place] + 0.9 * value_tp1 - value[place])
                weight *= 0.9 * gae_lambda
                if terminated[place] or truncated[place]:
                    break
            assert made[t, row].item() == pytest.approx(wanted, abs=1e-9)


def test_means_are_over_what_counts_alone():
    values = torch.tensor([1.0, torch.inf, 3.0], requires_grad=True)
    formulas.mean_over(values, torch.tensor([True, False, True])).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert formulas.mean_over(torch.empty(0), torch.empty(0, dtype=torch.bool)) == 0


# The network.


def test_densities_equal_those_of_torch():
    for space, kind in ((spaces.Discrete(4), "discrete"), (spaces.Box(-1, 1, (3,)), "box")):
        network = OptionNetwork(BOX, space, n_options=3, hidden=())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
        outputs, option = network(torch.randn(7, 3)), torch.arange(7) % 3
        policy = outputs.policy[torch.arange(7), option]
        action = network.sample(outputs, option, generator=torch.Generator().manual_seed(0))
        if kind == "discrete":
            wanted: Any = torch.distributions.Categorical(logits=policy)
        else:
            normal = torch.distributions.Normal(policy, network.log_std[option].exp())
            wanted = torch.distributions.Independent(normal, 1)
        torch.testing.assert_close(network.log_prob(outputs, option, action), wanted.log_prob(action))
        torch.testing.assert_close(network.entropy(outputs, option), wanted.entropy())


def test_samples_follow_the_policy():
    network = OptionNetwork(BOX, spaces.Discrete(3), n_options=2, hidden=())
    with torch.no_grad():
        network.policy_head.weight.zero_()
        network.policy_head.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0, 0.0]))
    outputs = network(torch.zeros(20_000, 3))
    drawn = network.sample(outputs, torch.zeros(20_000, dtype=torch.long), generator=torch.Generator())
    shares = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.015, rtol=0)


def test_encoders_and_spaces():
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    image = spaces.Box(0, 255, (1, 5, 5), np.uint8)
    network = OptionNetwork(image, TWO, n_options=2, encoder=encoder)
    assert network(torch.zeros(4, 1, 5, 5, dtype=torch.uint8)).values.shape == (4, 2)
    numbered = OptionNetwork(spaces.Discrete(5, start=2), TWO, n_options=2, hidden=())
    assert numbered(torch.tensor([2, 6])).beta.shape == (2, 2)
    assert network(torch.zeros(0, 1, 5, 5)).policy.shape == (0, 2, 2)
    number = OptionNetwork(spaces.Box(-1, 1, ()), TWO, n_options=2)
    assert number(torch.zeros(4)).values.shape == (4, 2)
    for bad, name in (
        (spaces.Dict({"a": BOX}), "observation_space"),
        (spaces.MultiBinary(2), "action_space"),
    ):
        given = (bad, TWO) if name == "observation_space" else (BOX, bad)
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            OptionNetwork(*given, n_options=2)
    with pytest.raises(ValueError, match="`n_options` must be at least 1"):
        OptionNetwork(BOX, TWO, n_options=0)
    with pytest.raises(ValueError, match="`hidden` must hold widths"):
        OptionNetwork(BOX, TWO, n_options=1, hidden=(0,))


# Steps.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncated", [False, True])
def test_steps_lead_where_they_led_whatever_the_autoreset(mode, truncated):
    agent = small(ScriptedVectorEnv([2, 3], mode=mode, truncated=truncated), n_steps=9)
    rollout = agent.rollout()
    live = rollout.live
    assert (
        (rollout.arrival - rollout.obs)[live][:, 0].eq(1).all()
    )  # one step on, never the next episode's start
    assert (rollout.reward == 10 * rollout.arrival[..., 1] + rollout.arrival[..., 0])[live].all()
    ends = rollout.truncated if truncated else rollout.terminated
    assert (ends == (rollout.arrival[..., 0] == torch.tensor([2.0, 3.0])))[live].all()
    assert not (rollout.terminated if truncated else rollout.truncated).any()
    resets = 0 if mode is AutoresetMode.SAME_STEP else 3 + 2
    assert int((~live).sum()) == resets
    episodes = 9 // 2 if mode is AutoresetMode.SAME_STEP else 3
    assert int(ends[:, 0].sum()) == episodes
    assert agent.returns.count(3.0) == episodes


@pytest.mark.parametrize("mode", MODES)
def test_options_go_on_until_they_end_on_arrival(mode):
    agent = small(ScriptedVectorEnv([4, 7], mode=mode), n_options=4, n_steps=40, epsilon=1.0)
    rollout = agent.rollout()
    changes = rollout.option[1:] != rollout.option[:-1]
    over = (rollout.terminated | rollout.truncated | ~rollout.live)[:-1]
    assert not (changes & ~rollout.ended[:-1] & ~over).any()
    assert changes[rollout.ended[:-1]].float().mean() > 0.5
    assert not (rollout.ended & ~rollout.goes_on).any()
    assert rollout.ended[rollout.goes_on].float().mean() == pytest.approx(0.5, abs=0.2)
    usage = agent.usage
    assert usage.steps.sum() == int(rollout.live.sum())


def test_pitfall_15_beta_and_values_are_of_the_arrival_and_the_option_that_acted():
    agent = small(n_options=3, epsilon=0.5)
    rollout = agent.rollout()
    upon = agent.network(rollout.arrival.flatten(0, 1))
    beta, q = (formulas.of_option(x, rollout.option.flatten()) for x in (upon.beta, upon.values))
    v = 0.5 * upon.values.max(-1).values + 0.5 * upon.values.mean(-1)  # pitfall 16
    torch.testing.assert_close(rollout.arrival_value.flatten(), (1 - beta) * q + beta * v)
    flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
    where = flat.goes_on
    wanted = (beta * (q - v))[where].mean()
    agent.margin = 0.0
    torch.testing.assert_close(agent.losses(flat, agent.advantages(rollout).flatten()).termination, wanted)


@pytest.mark.parametrize("truncated", [False, True])
def test_pitfall_17_no_termination_is_learned_where_an_episode_ends(truncated):
    agent = small(ScriptedVectorEnv([1, 1], truncated=truncated), margin=1.0)
    rollout = agent.rollout()
    flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
    losses = agent.losses(flat, agent.advantages(rollout).flatten())
    assert losses.termination == 0
    gradients = torch.autograd.grad(losses.termination, agent.network.termination_head.weight)
    assert gradients[0].abs().max() == 0


def test_the_termination_loss_reaches_no_critic():
    agent = small(margin=1.0)
    rollout = agent.rollout()
    flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
    loss = agent.losses(flat, torch.zeros(12)).termination
    heads = agent.network.value_head.weight, agent.network.termination_head.weight
    value, termination = torch.autograd.grad(loss, heads, allow_unused=True)
    assert value is None
    assert termination.abs().max() > 0


def test_pitfall_18_the_cost_is_taken_at_each_switch_alone():
    plain, costly = small(gae_lambda=0.0), small(gae_lambda=0.0, deliberation_cost=0.25)
    rollout = plain.rollout()
    difference = plain.advantages(rollout) - costly.advantages(rollout)
    torch.testing.assert_close(difference, 0.25 * rollout.ended.float(), atol=1e-5, rtol=0)
    assert rollout.ended.any()
    ends = rollout.terminated | rollout.truncated
    assert ends.any()
    assert not rollout.ended[ends].any()


def test_pitfall_18_the_margin_makes_options_longer():
    """With options chosen evenly none is better than the choice for long: beta stays, but for the margin."""
    durations = []
    for margin in (0.0, 1.0):
        agent = small(
            ScriptedVectorEnv([30, 30]), n_steps=16, entropy=0.0, epsilon=1.0, lr=3e-2, margin=margin
        )
        agent.learn(600)
        durations.append(agent.usage.mean_durations.mean())
    assert durations[1] > 1.3 * durations[0]


def test_pitfall_19_the_entropy_bonus_raises_entropy():
    agent = small(entropy=10.0, lr=3e-2, termination_weight=0.0)
    with torch.no_grad():
        agent.network.policy_head.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 2.0, 0.0, 0.0]))
    obs, option = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    before = agent.network.entropy(agent.network(obs), option)
    agent.learn(120)
    assert agent.network.entropy(agent.network(obs), option) > before


# Identities.


def plain_actor_critic_losses(agent: OptionCritic, rollout: OptionStep) -> list[Tensor]:
    """Policy, value and entropy losses of A2C with GAE, written for one policy and one value."""
    network, gamma, lam = agent.network, agent.gamma, agent.gae_lambda
    shape = rollout.reward.shape
    features = network.encoder(rollout.obs.flatten(0, 1)).unflatten(0, shape)
    value = network.value_head(features)[..., 0]
    value_tp1 = network.value_head(network.encoder(rollout.arrival.flatten(0, 1)).unflatten(0, shape))[
        ..., 0
    ].detach()
    log_policy = network.policy_head(features).log_softmax(-1)
    advantage, following = torch.zeros_like(value), torch.zeros_like(value[0])
    for t in reversed(range(len(value))):
        error = rollout.reward[t] + gamma * (~rollout.terminated[t]) * value_tp1[t] - value[t].detach()
        ends = rollout.terminated[t] | rollout.truncated[t]
        following = error + gamma * lam * (~ends) * following
        advantage[t] = following
    live = rollout.live
    log_prob = log_policy.gather(-1, rollout.action[..., None])[..., 0]
    policy = -(log_prob * advantage)[live].mean()
    critic = 0.5 * ((value - (value.detach() + advantage)) ** 2)[live].mean()
    entropy = -(log_policy.exp() * log_policy).sum(-1)[live].mean()
    return [policy, critic, entropy]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncated", [False, True])
def test_pitfall_19_one_option_that_always_ends_is_a_plain_actor_critic(mode, truncated):
    agent = small(ScriptedVectorEnv([3, 4], mode=mode, truncated=truncated), n_options=1, n_steps=10)
    with torch.no_grad():
        agent.network.termination_head.bias.fill_(100.0)
    rollout = agent.rollout()
    assert rollout.ended[rollout.goes_on].all()
    flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
    made = agent.losses(flat, agent.advantages(rollout).flatten())
    wanted = plain_actor_critic_losses(agent, rollout)
    torch.testing.assert_close([made.policy, made.value, made.entropy], wanted)
    assert made.termination == 0
    parameters = [p for name, p in agent.network.named_parameters() if "termination" not in name]
    total = wanted[0] + agent.value_weight * wanted[1] - agent.entropy * wanted[2]
    gradients = torch.autograd.grad(agent.total(made), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(total, parameters))


def test_the_first_pass_of_ppo_has_the_gradient_of_a2c():
    agent = small()
    rollout = agent.rollout()
    flat, advantage = OptionStep(*(f.flatten(0, 1) for f in rollout)), agent.advantages(rollout).flatten()
    weights = list(agent.network.encoder.parameters())
    plain = torch.autograd.grad(agent.total(agent.losses(flat, advantage)), weights)
    agent.clip = 0.2
    clipped = torch.autograd.grad(agent.total(agent.losses(flat, advantage)), weights)
    torch.testing.assert_close(plain, clipped)


# Learning.


class Signal(Dynamics):
    """Five steps; action 1 pays in the odd cells, action 0 in the even ones: 5 at best, 2.5 by chance."""

    observation_space, action_space = spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(2)

    def start(self, random):
        return {"random": random, "time": np.zeros(len(random), dtype=np.int64)}

    def advance(self, state, action):
        reward = (action == state["time"] % 2).astype(float)
        return Advanced({**state, "time": state["time"] + 1}, reward, state["time"] == 4)

    def observe(self, state):
        return np.eye(2, dtype=np.float32)[state["time"] % 2]


@pytest.mark.parametrize("manner", ["a2c", "ppo"])
def test_it_learns(manner):
    env = NumpyVectorEnv(Signal(), 8)
    if manner == "a2c":
        agent = OptionCritic(env, n_options=2, hidden=(16,), lr=2e-2, n_steps=8)
    else:
        agent = OptionCritic.ppo(env, n_options=2, hidden=(16,), lr=1e-2, n_steps=32)
    agent.learn(6_000)
    assert np.mean(agent.returns[:40]) < 3.5
    assert np.mean(agent.returns[-40:]) > 4.4


def test_the_one_off_its_policy_learns():
    agent = OptionCriticDQN(
        NumpyVectorEnv(Signal(), 16),
        n_options=2,
        hidden=(16,),
        lr=2e-2,
        batch_size=128,
        learning_starts=100,
        epsilon_steps=1_000,
        target_every=10,
    ).learn(6_000)
    assert np.mean(agent.returns[:40]) < 3.5
    assert np.mean(agent.returns[-40:]) > 4.4


def test_continuous_actions_are_cut_at_the_bounds_of_the_space():
    env = ScriptedVectorEnv([3, 5], actions=spaces.Box(-0.1, 0.2, (2,), np.float32))
    agent = small(env).learn(40)
    actions = np.concatenate(env.actions)
    assert actions.shape[1] == 2
    assert actions.min() == pytest.approx(-0.1)
    assert actions.max() == pytest.approx(0.2)
    assert agent.predict(np.zeros((3, 2), np.float32))[0].shape == (3, 2)


@pytest.mark.parametrize("kind", [OptionCritic, OptionCriticDQN])
def test_one_environment_of_gymnasium_and_the_global_generators_are_left_alone(kind):
    before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    agent = kind(gym.make("CartPole-v1"), hidden=(8,), seed=3).learn(60)
    assert agent.steps >= 60
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state(legacy=False)["state"]["key"].tolist()
    again = kind(gym.make("CartPole-v1"), hidden=(8,), seed=3).learn(60)
    for name, value in agent.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize("kind", [OptionCritic, OptionCriticDQN])
def test_a_given_encoder_is_learned_and_a_norm_of_0_learns_nothing(kind):
    for norm in (0.0, 1.0):
        encoder = nn.Linear(2, 4)
        before = encoder.weight.clone()
        options: dict[str, Any] = {"encoder": encoder, "max_grad_norm": norm, "device": "cpu"}
        if kind is OptionCriticDQN:
            options |= {"learning_starts": 1}
        agent = kind(ScriptedVectorEnv([3, 5]), n_options=2, **options).learn(40)
        assert agent.network.encoder is encoder
        assert torch.equal(before, encoder.weight) == (norm == 0)


def test_weights_of_the_parts_of_the_loss():
    agent = small(value_weight=3.0, termination_weight=5.0, entropy=7.0)
    parts = [torch.tensor(float(10**power)) for power in range(4)]
    assert agent.total(OptionLosses(*parts)) == 1 + 5 * 10 + 3 * 100 - 7 * 1000


def test_the_values_learn_from_advantages_as_they_are():
    agents = [small(normalize_advantage=normalize) for normalize in (False, True)]
    rollout = agents[0].rollout()
    advantage = agents[0].advantages(rollout).flatten()
    flat = OptionStep(*(field.flatten(0, 1) for field in rollout))
    plain, normalized = (agent.losses(flat, advantage) for agent in agents)
    assert torch.equal(plain.value, normalized.value)
    assert not torch.equal(plain.policy, normalized.policy)


# Prediction and state.


@pytest.mark.parametrize("kind", [OptionCritic, OptionCriticDQN])
def test_predictions_keep_options_until_they_end(kind):
    agent = kind(ScriptedVectorEnv([3, 5]), n_options=2, hidden=(8,))
    obs = np.zeros((2, 2), np.float32)
    with torch.no_grad():
        agent.network.termination_head.bias.copy_(torch.tensor([-50.0, 50.0]))
        agent.network.value_head.bias.copy_(torch.tensor([-9.0, 9.0]))
    assert agent.predict(obs, deterministic=True)[1].tolist() == [1, 1]
    assert agent.predict(obs, [0, 1], deterministic=True)[1].tolist() == [0, 1]
    assert agent.predict(obs, [0, -1], deterministic=True)[1].tolist() == [0, 1]
    action, option = agent.predict(obs, np.array([0, 0]))
    assert action.shape == option.shape == (2,)
    with pytest.raises(ValueError, match=r"`obs` must have the shape \(N, 2\); got \(2,\)"):
        agent.predict(obs[0])
    with pytest.raises(ValueError, match=r"`option` must be 2 numbers below 2, .*; got \[0, 2\]"):
        agent.predict(obs, [0, 2])
    with pytest.raises(ValueError, match=r"`option` must be 2 numbers below 2, .*; got \[0\]"):
        agent.predict(obs, [0])


def test_a_prediction_without_chance_draws_nothing():
    agent = small()
    before = agent.generator.get_state()
    agent.predict(np.zeros((2, 2), np.float32), [0, 1], deterministic=True)
    assert torch.equal(agent.generator.get_state(), before)
    agent.predict(np.zeros((2, 2), np.float32), [0, 1])
    assert not torch.equal(agent.generator.get_state(), before)


@pytest.mark.parametrize("kind", [OptionCritic, OptionCriticDQN])
def test_a_saved_agent_goes_on(kind, tmp_path):
    from athena_core import load_checkpoint, save_checkpoint

    options = {"n_options": 2, "hidden": (8,)}
    agent = kind(ScriptedVectorEnv([3, 5]), **options).learn(64)
    save_checkpoint(tmp_path / "agent.pt", agent.state_dict())
    other = kind(ScriptedVectorEnv([3, 5]), **options, seed=9)
    other.load_state_dict(load_checkpoint(tmp_path / "agent.pt"))
    obs = np.ones((4, 2), np.float32)
    for wanted, made in zip(agent.predict(obs), other.predict(obs), strict=True):
        assert wanted.tolist() == made.tolist()
    assert other.steps == agent.steps
    assert other.learn(10).steps >= agent.steps + 10
    with pytest.raises(RuntimeError, match="size mismatch"):
        kind(ScriptedVectorEnv([3, 5]), n_options=3, hidden=(8,)).load_state_dict(agent.state_dict())


@pytest.mark.parametrize("kind", [OptionCritic, OptionCriticDQN])
def test_an_agent_that_took_over_a_state_shares_nothing_with_the_other(kind):
    options = {} if kind is OptionCritic else {"learning_starts": 8}
    agent, other = (kind(ScriptedVectorEnv([3, 5]), n_options=2, hidden=(8,), **options) for _ in range(2))
    agent.learn(64)
    kept = copy.deepcopy(agent.state_dict()["optimizer"]["state"])
    other.load_state_dict(agent.state_dict())
    other.learn(64)
    assert kept
    for number, moments in agent.optimizer.state_dict()["state"].items():
        assert all(torch.equal(moment, kept[number][name]) for name, moment in moments.items())


def test_an_episode_begins_with_the_option_that_is_best_where_it_begins():
    """Not where the step before led, under SAME_STEP: option 1 is the best at 0, option 0 at the end."""
    agent = small(ScriptedVectorEnv([3, 3], mode=AutoresetMode.SAME_STEP), encoder=nn.Identity(), epsilon=0.0)
    with torch.no_grad():
        agent.network.value_head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        agent.network.value_head.bias.copy_(torch.tensor([0.0, 0.5]))
        agent.network.termination_head.bias.fill_(-50.0)
    assert agent.rollout().option.tolist() == [[1, 1]] * 6


# Misuse.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "`gamma` must lie in"),
        ({"epsilon": 2.0}, "`epsilon` must lie in"),
        ({"n_steps": 0}, "`n_steps` must be at least 1; got 0"),
        ({"n_steps": math.inf}, "`n_steps` must be finite; got inf"),
        ({"lr": math.nan}, "`lr` must be at least 0"),
        ({"margin": -1.0}, "`margin` must be at least 0"),
        ({"clip": -0.2}, "`clip` must lie in"),
    ],
)
def test_numbers_outside_their_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_an_environment_that_does_not_reset_itself_raises():
    with pytest.raises(ValueError, match="`env` must reset itself"):
        small(ScriptedVectorEnv([3], mode=AutoresetMode.DISABLED))
