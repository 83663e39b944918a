"""Option-critic off its policy: targets, the actor's loss, the buffer, the target network."""

from __future__ import annotations

import math

import pytest
import torch
from scripted_vector_env import ScriptedVectorEnv

from athena_hrl import OptionCriticDQN, OptionStep
from athena_hrl import _option_critic_losses as formulas


def test_targets_off_the_policy_by_hand():
    agent = OptionCriticDQN(ScriptedVectorEnv([3, 5]), n_options=2, hidden=(), gamma=0.5, epsilon_start=0.2)
    agent.deliberation_cost = 0.25
    agent.epsilon = 0.2
    for network in (agent.network, agent.target):
        with torch.no_grad():
            for head in (network.value_head, network.termination_head):
                head.weight.zero_()
    with torch.no_grad():
        agent.target.value_head.bias.copy_(torch.tensor([4.0, 8.0]))
        agent.network.value_head.bias.fill_(99.0)  # not the target's
        agent.network.termination_head.bias.copy_(torch.tensor([0.0, math.log(3.0)]))  # beta 1/2 and 3/4
    steps = OptionStep(
        obs=torch.zeros(3, 2),
        option=torch.tensor([0, 1, 0]),
        action=torch.zeros(3, dtype=torch.long),
        log_prob=torch.zeros(3),
        value=torch.zeros(3),
        reward=torch.ones(3),
        arrival=torch.zeros(3, 2),
        arrival_value=torch.zeros(3),
        terminated=torch.tensor([False, False, True]),
        truncated=torch.tensor([False, True, False]),
        ended=torch.zeros(3, dtype=torch.bool),
        live=torch.ones(3, dtype=torch.bool),
    )
    v = 0.8 * 8 + 0.2 * 6
    wanted = [1 - 0.25 * 0.5 + 0.5 * (0.5 * 4 + 0.5 * v), 1 + 0.5 * (0.25 * 8 + 0.75 * v), 1.0]
    rows = steps._replace(terminated=steps.terminated)
    torch.testing.assert_close(agent.targets(rows), torch.tensor(wanted))


def test_the_actors_loss_leaves_the_values_alone_and_has_the_formula():
    agent = OptionCriticDQN(ScriptedVectorEnv([3, 5]), n_options=2, hidden=(8,), entropy=0.0, margin=0.1)
    step = agent.player.step(agent.network, epsilon=0.5)
    loss = agent.actor_loss(step)
    outputs, upon = agent.network(step.obs), agent.network(step.arrival)
    advantage = agent.targets(step) - formulas.of_option(outputs.values, step.option)
    q = formulas.of_option(upon.values, step.option)
    v = formulas.soft_option_value(upon.values, agent.epsilon_now())
    log_prob = agent.network.log_prob(outputs, step.option, step.action)
    terms = -log_prob * advantage + formulas.of_option(upon.beta, step.option) * (q - v + 0.1)
    torch.testing.assert_close(loss, terms.mean())
    gradient = torch.autograd.grad(loss, agent.network.value_head.weight, allow_unused=True)
    assert gradient == (None,)


def test_the_buffer_holds_steps_and_no_resets():
    agent = OptionCriticDQN(ScriptedVectorEnv([2, 3]), n_options=2, hidden=(8,), buffer_size=50).learn(30)
    rows = agent.buffer.rows()
    assert len(agent.buffer) == agent.steps >= 30
    assert (rows["arrival"][:, 0] - rows["obs"][:, 0]).eq(1).all()
    assert (rows["reward"] == 10 * rows["arrival"][:, 1] + rows["arrival"][:, 0]).all()
    assert (rows["terminated"] + rows["goes_on"] == 1).all()


def test_the_target_network_follows_in_steps_and_epsilon_falls():
    agent = OptionCriticDQN(
        ScriptedVectorEnv([3, 5]),
        n_options=2,
        hidden=(8,),
        learning_starts=1,
        target_every=10,
        epsilon_steps=100,
    )
    assert agent.epsilon_now() == 1.0
    agent.learn(8)
    weights = [network.value_head.weight for network in (agent.network, agent.target)]
    assert not torch.equal(*weights)
    while agent.updates < 10:
        agent.learn(1)
    assert torch.equal(*weights)
    agent.learn(100)
    assert agent.epsilon_now() == pytest.approx(0.05)


def test_pitfall_19_the_entropy_bonus_of_the_one_off_its_policy_raises_entropy():
    agents = [OptionCriticDQN(ScriptedVectorEnv([3, 5]), hidden=(8,), entropy=weight) for weight in (0, 1)]
    step = agents[0].player.step(agents[0].network, epsilon=0.0)
    plain, paid = (agent.actor_loss(step) for agent in agents)
    network = agents[0].network
    entropy = network.entropy(network(step.obs), step.option).mean()
    torch.testing.assert_close(plain - paid, entropy)


def test_pitfall_17_the_one_off_its_policy_learns_no_termination_where_an_episode_ends():
    agent = OptionCriticDQN(ScriptedVectorEnv([1, 1]), n_options=2, hidden=(8,))
    agent.actor_loss(agent.player.step(agent.network, epsilon=0.0)).backward()
    assert agent.network.policy_head.weight.grad.any()
    assert not agent.network.termination_head.weight.grad.any()


def test_the_critic_may_learn_less_often_than_the_actor():
    updates = []
    for every in (1, 4):
        agent = OptionCriticDQN(
            ScriptedVectorEnv([30, 30]), n_options=2, hidden=(8,), learning_starts=1, train_every=every
        )
        updates.append(agent.learn(40).updates)
    assert updates == [20, 5]


def test_the_target_stays_while_the_actor_alone_learns():
    agent = OptionCriticDQN(
        ScriptedVectorEnv([30, 30]),
        n_options=2,
        hidden=(8,),
        learning_starts=1,
        train_every=3,
        target_every=1,
    )
    while agent.updates < 2:
        agent.learn(1)
    copied = [value.clone() for value in agent.target.parameters()]
    assert all(map(torch.equal, copied, agent.network.parameters()))
    agent.learn(1)
    assert agent.updates == 2
    assert all(map(torch.equal, copied, agent.target.parameters()))
    assert not all(map(torch.equal, copied, agent.network.parameters()))
