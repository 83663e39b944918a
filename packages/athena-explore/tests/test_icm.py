"""ICM against plain loops in float64, its losses by hand, and what each of them trains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import ICM, Transition

SPACE = spaces.Box(-9, 9, (3,))
ACTIONS = {
    "discrete": spaces.Discrete(3, start=1),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "continuous": spaces.Box(-1, 1, (2,), np.float32),
}


def walk(action_space: spaces.Space, steps: int, environments: int) -> Transition:
    """Episodes of both endings, after which the next observation is another."""
    action_space.seed(0)
    action = np.stack([[action_space.sample() for _ in range(environments)] for _ in range(steps)])
    terminated, truncated = torch.rand(2, steps, environments) < 0.1
    every = torch.randn(steps + 1, environments, 3)
    obs, next_obs = every[:-1].clone(), every[1:].clone()
    next_obs[terminated | truncated] += 5
    return Transition(obs, torch.as_tensor(action), next_obs, terminated, truncated)


def perceptron(layers: nn.Sequential, row: np.ndarray) -> np.ndarray:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            weight, bias = (value.detach().double().numpy() for value in (layer.weight, layer.bias))
            row = weight @ row + bias
        else:
            row = np.maximum(row, 0)
    return row


def encoded(space: spaces.Space, action: np.ndarray) -> list[float]:
    if isinstance(space, spaces.Box):
        return action.tolist()
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    values = np.atleast_1d(action - space.start).tolist()
    return [float(value == i) for value, size in zip(values, sizes, strict=True) for i in range(size)]


@pytest.mark.parametrize("name", ACTIONS)
def test_rewards_are_those_of_plain_loops(name: str) -> None:
    bonus = ICM(SPACE, ACTIONS[name], width=5, hidden=(7,), eta=0.3)
    transition = walk(ACTIONS[name], 6, 2)
    bonus.update(transition)
    expected = np.zeros((6, 2))
    for t, n in np.ndindex(6, 2):
        phi_t, phi_tp1 = (
            perceptron(bonus.features.encoder.body, rows[t, n].double().numpy())
            for rows in (transition.obs, transition.next_obs)
        )
        dense = encoded(ACTIONS[name], transition.action[t, n].numpy())
        predicted = perceptron(bonus.forward_model.body, np.concatenate([phi_t, dense]))
        expected[t, n] = 0.3 / 2 * sum((predicted - phi_tp1) ** 2)
    torch.testing.assert_close(
        bonus.score(transition), torch.as_tensor(expected).float(), rtol=1e-4, atol=1e-6
    )


def blank(**options: object) -> ICM:
    """Features are the observation itself, and both models give zeros."""
    bonus = ICM(SPACE, spaces.Discrete(4), width=3, encoder=nn.Identity(), **options)
    for model in (bonus.inverse_model, bonus.forward_model):
        nn.init.zeros_(model.body[-1].weight)
    return bonus


def one(next_obs: list[float]) -> Transition:
    no = torch.zeros(1, 1, dtype=torch.bool)
    return Transition(torch.zeros(1, 1, 3), torch.ones(1, 1), torch.tensor([[next_obs]]), no, no)


def test_reward_and_losses_by_hand() -> None:
    transition = one([2.0, 1.0, 2.0])
    assert blank().score(transition).item() == 4.5  # 9 / 2
    assert blank(eta=0.01).score(transition).item() == pytest.approx(0.045)
    metrics = blank(minibatches=1).update(transition)
    assert metrics == {"inverse_loss": pytest.approx(math.log(4)), "forward_loss": pytest.approx(4.5)}


def gradients(bonus: ICM, loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True))


def test_forward_error_shapes_the_encoder_only_if_not_detached() -> None:
    transition = walk(spaces.Discrete(3), 6, 2).flat()
    apart, together = (ICM(SPACE, spaces.Discrete(3), detach=detach) for detach in (True, False))
    for bonus, shapes in ((apart, False), (together, True)):
        inverse, forward = bonus.losses(transition)
        assert all(grad is not None for grad in gradients(bonus, inverse, bonus.features.encoder))
        assert all((grad is not None) == shapes for grad in gradients(bonus, forward, bonus.features.encoder))
        assert all(grad is not None for grad in gradients(bonus, forward, bonus.forward_model))
        assert all(grad is None for grad in gradients(bonus, forward, bonus.inverse_model))
        assert all(grad is None for grad in gradients(bonus, inverse, bonus.forward_model))
    torch.testing.assert_close(apart.losses(transition), together.losses(transition))


@pytest.mark.parametrize("detach", [True, False])
def test_encoder_takes_the_weighted_gradient(detach: bool) -> None:
    transition = walk(spaces.Discrete(3), 6, 2)
    bonus = ICM(SPACE, spaces.Discrete(3), detach=detach, beta=0.3, minibatches=1)
    encoder = bonus.features.encoder
    inverse, forward = bonus.losses(transition.flat())
    expected = [0.7 * grad for grad in gradients(bonus, inverse, encoder)]
    if not detach:
        expected = [a + 0.3 * b for a, b in zip(expected, gradients(bonus, forward, encoder), strict=True)]
    bonus.update(transition)
    for parameter, grad in zip(encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)


def controlled(steps: int, action_space: spaces.Space) -> Transition:
    """The first of three numbers moves as the action says; the others are noise."""
    obs, next_obs = torch.randn(2, steps, 1, 3)
    if isinstance(action_space, spaces.Discrete):
        action = torch.randint(3, (steps, 1))
        next_obs[..., 0] = obs[..., 0] + action - 1
    else:
        action = torch.rand(steps, 1, 1) * 2 - 1
        next_obs[..., 0] = obs[..., 0] + action[..., 0]
    no = torch.zeros(steps, 1, dtype=torch.bool)
    return Transition(obs, action, next_obs, no, no)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float32)])
def test_inverse_model_learns_features_of_what_actions_affect(action_space: spaces.Space) -> None:
    bonus = ICM(SPACE, action_space, width=8, lr=3e-3)
    losses = [bonus.update(controlled(256, action_space))["inverse_loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 5

    def moves(axis: int) -> float:
        obs = torch.randn(200, 3)
        moved = obs.clone()
        moved[:, axis] += 1
        return (bonus.features(moved) - bonus.features(obs)).norm(dim=1).mean().item()

    assert moves(0) > 2 * max(moves(1), moves(2))


def test_no_gradient_reaches_a_policy() -> None:
    policy = nn.ModuleDict({"features": nn.Linear(3, 8), "head": nn.Linear(8, 3)})
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    transition = walk(spaces.Discrete(3), 6, 2)
    bonus = ICM(SPACE, spaces.Discrete(3), width=8, encoder=policy["features"])
    bonus.update(transition)
    assert all(parameter.grad is None for parameter in policy.parameters())
    torch.testing.assert_close(dict(policy.state_dict()), before, rtol=0, atol=0)
    assert not any("features" in name for name in bonus.state_dict())
    with torch.no_grad():
        policy["features"].weight.zero_()
        policy["features"].bias.zero_()
    assert len(bonus.score(replace(transition, action=torch.zeros(6, 2))).unique()) == 1  # it is read live


def test_a_factory_may_share_what_icm_trains() -> None:
    policy = nn.ModuleDict({"features": nn.Linear(3, 8), "head": nn.Linear(8, 3)})
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    bonus = ICM(SPACE, spaces.Discrete(3), width=8, encoder=lambda space, width: policy["features"])
    bonus.update(walk(spaces.Discrete(3), 6, 2))
    after = policy.state_dict()
    assert {name: torch.equal(after[name], before[name]) for name in after} == {
        "features.weight": False, "features.bias": False, "head.weight": True, "head.bias": True
    }  # fmt: skip


def test_samples_score_as_their_rollout_does() -> None:
    bonus, transition = ICM(SPACE, spaces.Discrete(3)), walk(spaces.Discrete(3), 6, 2)
    order = torch.randperm(12)
    torch.testing.assert_close(
        bonus.score_samples(transition.flat()[order]), bonus.score(transition).flatten()[order]
    )


def test_normalized_observations_are_those_the_networks_see() -> None:
    transition = walk(spaces.Discrete(3), 40, 2)
    bonus = ICM(SPACE, spaces.Discrete(3), normalize_observations=True)
    assert not bonus.score(transition).any()
    bonus.update(transition)
    mean, deviation = (
        part(transition.next_obs.flatten(0, 1), 0)
        for part in (torch.mean, lambda x, d: x.std(d, correction=0))
    )
    plain = ICM(SPACE, spaces.Discrete(3), encoder=lambda space, width: bonus.features.encoder)
    plain.forward_model = bonus.forward_model
    obs, next_obs = (((x - mean) / deviation).clamp(-5, 5) for x in (transition.obs, transition.next_obs))
    torch.testing.assert_close(
        bonus.score(transition),
        plain.score(replace(transition, obs=obs, next_obs=next_obs)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_epochs_and_minibatches_count_the_steps() -> None:
    bonus = ICM(SPACE, spaces.Discrete(3), epochs=3, minibatches=2)
    bonus.update(walk(spaces.Discrete(3), 6, 2))
    assert {int(state["step"]) for state in bonus.optimizer.state.values()} == {6}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, r"`beta` must lie in \(0, 1\).*got 0.0"),
        ({"beta": 1.0}, r"`beta` must lie in \(0, 1\).*got 1.0"),
        ({"eta": 0.0}, "`eta` must be positive; got 0.0"),
        ({"lr": -1.0}, "`lr` must be a positive number; got -1.0"),
        ({"epochs": 0}, "`epochs` must be at least 1; got 0"),
        ({"minibatches": 0}, "`minibatches` must be at least 1; got 0"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ICM(SPACE, spaces.Discrete(3), **options)


def test_optimizer_goes_with_the_networks() -> None:
    bonus, transition = ICM(SPACE, spaces.Discrete(3)), walk(spaces.Discrete(3), 6, 2)
    bonus.update(transition)
    bonus.double().update(transition)
    states = bonus.optimizer.state.values()
    assert {(int(state["step"]), state["step"].dtype, state["exp_avg"].dtype) for state in states} == {
        (8, torch.float32, torch.float64)
    }
