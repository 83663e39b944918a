"""Disagreement against plain loops in float64, by hand, and what noise does to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from athena_explore import Disagreement, EnsemblePerceptron, Transition
from athena_explore._encoder import multilayer

SPACE, ACTIONS = spaces.Box(-9, 9, (3,)), spaces.Discrete(2)
PLAIN = {"normalize": "none", "normalize_observations": False}


def walk(steps: int, environments: int) -> Transition:
    every = torch.randn(steps + 1, environments, 3)
    no = torch.zeros(steps, environments, dtype=torch.bool)
    return Transition(every[:-1], torch.randint(2, (steps, environments)), every[1:], no, no)


def alone(ensemble: EnsemblePerceptron, member: int) -> nn.Sequential:
    """One member as a perceptron of its own."""
    layers = zip(ensemble.weights, ensemble.biases, strict=True)
    shapes = [weight.shape[1:] for weight in ensemble.weights]
    net = multilayer([shapes[0][0], *(shape[1] for shape in shapes)])
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for linear, (weight, bias) in zip(linears, layers, strict=True):
            linear.weight.copy_(weight[member].T)
            linear.bias.copy_(bias[member, 0])
    return net


def test_ensemble_is_its_members() -> None:
    ensemble = EnsemblePerceptron(3, [4, 6, 2])
    inputs = torch.randn(3, 5, 4)
    outputs = ensemble(inputs)
    outputs.square().sum().backward()
    for k in range(3):
        net = alone(ensemble, k)
        torch.testing.assert_close(net(inputs[k]), outputs[k])
        net(inputs[k]).square().sum().backward()
        torch.testing.assert_close(ensemble.weights[0].grad[k].T, net[0].weight.grad)
        torch.testing.assert_close(ensemble.biases[1].grad[k, 0], net[2].bias.grad)


def test_rewards_are_those_of_plain_loops() -> None:
    bonus = Disagreement(SPACE, ACTIONS, members=3, width=4, hidden=(5,), **PLAIN)
    transition = walk(6, 2)
    bonus.update(transition)
    expected = np.zeros((6, 2))
    nets = [alone(bonus.ensemble, k).double() for k in range(3)]
    encoder = bonus.features.encoder.body
    for t, n in np.ndindex(6, 2):
        with torch.no_grad():
            one_hot = [float(transition.action[t, n] == a) for a in range(2)]
            inputs = [*encoder(transition.obs[t, n]).tolist(), *one_hot]
            said = [net(torch.tensor(inputs, dtype=torch.float64)).tolist() for net in nets]
        for feature in zip(*said, strict=True):
            expected[t, n] += sum((value - sum(feature) / 3) ** 2 for value in feature) / 3
    torch.testing.assert_close(
        bonus.score(transition), torch.as_tensor(expected).float(), rtol=1e-4, atol=1e-6
    )


def test_reward_by_hand() -> None:
    bonus = Disagreement(SPACE, ACTIONS, members=2, width=3, encoder=nn.Identity(), hidden=(), **PLAIN)
    with torch.no_grad():
        bonus.ensemble.weights[0].zero_()
        bonus.ensemble.biases[0].copy_(torch.tensor([[[1.0, 0, 0]], [[3.0, 0, 2]]]))
    assert bonus.score(walk(1, 1)).item() == 2.0  # variances 1, 0 and 1


def test_models_alone_are_trained_each_on_its_own_draw() -> None:
    bonus = Disagreement(SPACE, ACTIONS, members=2, minibatches=3, **PLAIN)
    with torch.no_grad():
        for parameter in bonus.ensemble.parameters():
            parameter[1] = parameter[0]
    before = {name: value.clone() for name, value in bonus.features.state_dict().items()}
    transition = walk(20, 2)
    assert not bonus.score(transition).any()
    bonus.update(transition)
    assert bonus.score(transition).any()
    torch.testing.assert_close(dict(bonus.features.state_dict()), before, rtol=0, atol=0)
    assert {int(state["step"]) for state in bonus.optimizer.state.values()} == {3}


def test_members_come_to_agree_about_noise() -> None:
    bonus = Disagreement(SPACE, ACTIONS, encoder=nn.Identity(), width=3, **PLAIN)
    first = bonus.score(walk(64, 4)).mean()
    losses = [bonus.update(replace(walk(64, 4), next_obs=torch.randn(64, 4, 3))) for _ in range(100)]
    assert losses[-1]["forward_loss"] > 1.0  # half the sum of three variances is 1.5: it cannot be told
    assert bonus.score(walk(64, 4)).mean() < first / 10


def test_observations_are_normalized_from_the_first_rollout_on() -> None:
    bonus, transition = Disagreement(SPACE, ACTIONS), walk(20, 2)
    assert not bonus.score(transition).any()
    bonus.update(transition)
    assert bonus.score(transition).all()


def test_a_given_encoder_stays_as_it_is() -> None:
    theirs = nn.Linear(3, 8)
    before = theirs.weight.clone()
    bonus = Disagreement(SPACE, ACTIONS, width=8, encoder=theirs)
    bonus.update(walk(20, 2))
    assert theirs.weight.requires_grad
    assert theirs.weight.grad is None
    assert torch.equal(theirs.weight, before)


def test_one_member_is_refused() -> None:
    with pytest.raises(ValueError, match="`members` must be at least 2, to disagree; got 1"):
        Disagreement(SPACE, ACTIONS, members=1)
