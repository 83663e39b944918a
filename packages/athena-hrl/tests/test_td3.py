"""TD3: hand-worked targets, bounds, delays, what has a gradient, and saving."""

from __future__ import annotations

import pytest
import torch

from athena_hrl import TD3, TD3Batch, smoothed_action, td3_target
from athena_hrl._td3 import TwinCritic


def batch(rows: int = 16) -> TD3Batch:
    return TD3Batch(
        torch.randn(rows, 3),
        torch.rand(rows, 2) * 2 - 1,
        torch.randn(rows),
        0.9 * (torch.rand(rows) < 0.8),
        torch.randn(rows, 3),
    )


def test_the_target_is_that_of_the_smaller_critic_and_a_discount_of_0_ends_it():
    reward, discount = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([0.9, 0.0, 0.5])
    values = torch.tensor([[10.0, 10.0, -4.0], [20.0, 20.0, -8.0]])
    torch.testing.assert_close(td3_target(reward, discount, values), torch.tensor([10.0, 1.0, -6.0]))
    bounded = td3_target(reward, discount, values, bounds=(-5.0, 0.0))
    torch.testing.assert_close(bounded, torch.tensor([0.0, 0.0, -5.0]))


def test_smoothing_clips_the_noise_and_then_the_action():
    action, noise = torch.tensor([0.0, 0.9, -0.2]), torch.tensor([2.0, 0.3, -0.1])
    torch.testing.assert_close(smoothed_action(action, noise, 0.5), torch.tensor([0.5, 1.0, -0.3]))


def test_twin_critics_are_two_networks():
    twin = TwinCritic(3, 2, hidden=[8, 4])
    given = batch()
    for index in range(2):
        hidden = torch.cat((given.observation_t, given.action_t), 1)
        for layer, (weight, bias) in enumerate(zip(twin.weights, twin.biases, strict=True)):
            hidden = hidden @ weight[index] + bias[index]
            hidden = torch.relu(hidden) if layer < 2 else hidden
        torch.testing.assert_close(twin(given.observation_t, given.action_t)[index], hidden[:, 0])


def test_the_critic_learns_the_target_and_the_actor_what_it_values():
    """One state, the reward of an action is minus its distance to 0.5."""
    td3 = TD3(1, 1, hidden=[32], actor_lr=3e-3, critic_lr=1e-2, seed=0)
    state = torch.zeros(64, 1)
    for _ in range(300):
        action = torch.rand(64, 1) * 2 - 1
        td3.update(TD3Batch(state, action, -(action[:, 0] - 0.5).abs(), torch.zeros(64), state))
    assert td3.act(state[:1]).item() == pytest.approx(0.5, abs=0.15)


def test_the_actor_and_the_targets_move_at_every_second_update_alone():
    td3 = TD3(3, 2, hidden=[8], policy_delay=2)

    def weights() -> list[torch.Tensor]:
        networks = td3.actor, td3.target_actor, td3.target_critic
        return [one.detach().clone() for network in networks for one in network.parameters()]

    start = weights()
    assert "actor_loss" not in td3.update(batch())
    assert all(torch.equal(*pair) for pair in zip(start, weights(), strict=True))
    before = [one.detach().clone() for one in td3.target_critic.parameters()]
    assert "actor_loss" in td3.update(batch())
    assert not any(torch.equal(*pair) for pair in zip(start, weights(), strict=True))
    for old, new, online in zip(before, td3.target_critic.parameters(), td3.critic.parameters(), strict=True):
        torch.testing.assert_close(new, torch.lerp(old, online, 0.005))


def test_a_resumed_td3_equals_an_uninterrupted_one():
    batches = [batch() for _ in range(6)]
    whole, cut, resumed = (TD3(3, 2, hidden=[8], seed=1) for _ in range(3))
    for one in batches:
        whole.update(one)
    for one in batches[:3]:
        cut.update(one)
    resumed.load_state_dict(cut.state_dict())
    for one in batches[3:]:
        resumed.update(one)
    state = torch.zeros(4, 3)
    assert torch.equal(whole.act(state, noise=0.3), resumed.act(state, noise=0.3))
    assert whole.updates == resumed.updates


def test_a_td3_that_took_over_a_state_shares_nothing_with_the_other():
    first, copied, other = (TD3(3, 2, hidden=[8], seed=seed) for seed in (1, 1, 2))
    for _ in range(2):
        one = batch()
        first.update(one), copied.update(one)
    other.load_state_dict(first.state_dict())
    other.update(batch()), other.update(batch())
    for _ in range(2):
        one = batch()
        assert first.update(one) == copied.update(one)
    assert torch.equal(first.act(torch.ones(4, 3)), copied.act(torch.ones(4, 3)))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    td3 = TD3(3, 2, hidden=[8], seed=4)
    td3.act(torch.zeros(1, 3), noise=0.1)
    td3.target(
        TD3Batch(*[torch.zeros(1, n) for n in (3, 2)], torch.zeros(1), torch.zeros(1), torch.zeros(1, 3))
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_are_of_the_target_networks_alone():
    td3 = TD3(3, 2, hidden=[8], target_noise=0.0, seed=0)
    one = torch.ones(4)
    batch = TD3Batch(torch.ones(4, 3), torch.zeros(4, 2), one, 0.5 * one, torch.ones(4, 3))
    before = td3.target(batch)
    for network in (td3.actor, td3.critic):
        for weight in network.parameters():
            weight.data.mul_(-3.0)
    assert torch.equal(td3.target(batch), before)
    for network in (td3.target_actor, td3.target_critic):
        kept = [weight.clone() for weight in network.parameters()]
        for weight in network.parameters():
            weight.data.mul_(-3.0)
        assert not torch.equal(td3.target(batch), before)
        for weight, value in zip(network.parameters(), kept, strict=True):
            weight.data.copy_(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "`tau` must be a positive number; got 0.0"),
        ({"tau": 1.5}, "`tau` must lie in"),
        ({"critic_lr": float("nan")}, "`critic_lr` must be a positive number"),
        ({"policy_delay": 0}, "`policy_delay` must be at least 1; got 0"),
        ({"target_noise": -1.0}, "`target_noise` must be at least 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TD3(3, 2, **options)
    with pytest.raises(ValueError, match="`action_dim` must be at least 1"):
        TD3(3, 0)
