"""Features: whose encoder it is, and that a rollout is encoded once."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from athena_explore import Features, Transition

SPACE = spaces.Box(-9, 9, (3,))


class Counting(nn.Module):
    """A linear encoder that remembers how many rows it has met."""

    def __init__(self, space: spaces.Space, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, width)
        self.rows: list[int] = []

    def forward(self, observations: Tensor) -> Tensor:
        self.rows.append(len(observations))
        return self.linear(observations)


def walk(steps: int, environments: int, *, seed: int = 0) -> Transition:
    """Episodes of both endings, after which the next observation is another."""
    torch.manual_seed(seed)
    terminated, truncated = torch.rand(2, steps, environments) < 0.1
    every = torch.randn(steps + 1, environments, 3)
    obs, next_obs = every[:-1].clone(), every[1:].clone()
    next_obs[terminated | truncated] += 5
    return Transition(obs, torch.zeros(steps, environments), next_obs, terminated, truncated)


def test_rollout_is_pair_by_pair() -> None:
    features, transition = Features(SPACE, 8, encoder=Counting), walk(20, 3)
    phi_t, phi_tp1 = features.rollout(transition)
    expected = features.pair(transition.flat())
    torch.testing.assert_close(phi_t.flatten(0, 1), expected[0])
    torch.testing.assert_close(phi_tp1.flatten(0, 1), expected[1])


def test_rollout_encodes_each_observation_once() -> None:
    features, transition = Features(SPACE, 8, encoder=Counting), walk(20, 3)
    features.rollout(transition)
    ends = int(transition.done[:-1].sum())
    assert ends > 0
    assert features.encoder.rows == [20 * 3 + 3 + ends]


@pytest.mark.parametrize(("steps", "environments"), [(0, 2), (1, 2), (2, 0), (5, 1)])
def test_small_rollouts(steps: int, environments: int) -> None:
    phi_t, phi_tp1 = Features(SPACE, 8).rollout(walk(steps, environments))
    assert phi_t.shape == phi_tp1.shape == (steps, environments, 8)


def test_all_parts_of_an_observation_must_repeat() -> None:
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,))})
    obs = {"b": torch.tensor([[[0.0]], [[1.0]], [[1.0]]]), "a": torch.tensor([[0], [1], [0]])}
    next_obs = {"a": torch.tensor([[0], [0], [0]]), "b": torch.tensor([[[1.0]], [[1.0]], [[1.0]]])}
    no = torch.zeros(3, 1, dtype=torch.bool)
    transition = Transition(obs, torch.zeros(3, 1), next_obs, no, no)
    features = Features(space, 4)
    torch.testing.assert_close(
        features.rollout(transition)[0].flatten(0, 1), features.pair(transition.flat())[0]
    )


def test_a_module_is_read_alone() -> None:
    theirs = nn.Sequential(nn.Linear(3, 8), nn.Dropout())
    theirs[1].eval()
    features = Features(SPACE, 8, encoder=theirs)
    assert features.train()(torch.ones(2, 3)).requires_grad is False
    features.eval()
    assert theirs.training
    assert not theirs[1].training
    assert not features.state_dict()
    features.double()
    assert theirs[0].weight.dtype == torch.float32


def test_a_factory_makes_what_is_trained_unless_frozen() -> None:
    trained = Features(SPACE, 8, encoder=Counting)
    assert trained(torch.ones(2, 3)).requires_grad
    assert set(trained.state_dict()) == {"encoder.linear.weight", "encoder.linear.bias"}
    assert not Features(SPACE, 8, encoder=Counting, trained=False)(torch.ones(2, 3)).requires_grad


def test_normalized_observations_reach_the_encoder() -> None:
    features = Features(SPACE, 3, encoder=nn.Identity(), normalize=True)
    assert not features.ready
    features.update(torch.tensor([[0.0, 1, 2], [2.0, 1, 6]]))
    assert features.ready
    assert features(torch.tensor([[2.0, 1, 6]])).tolist() == [[1, 0, 1]]


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`encoder` must give features of the shape \(B, 5\); got \(2, 8\)"):
        Features(SPACE, 5, encoder=nn.Linear(3, 8))(torch.ones(2, 3))
