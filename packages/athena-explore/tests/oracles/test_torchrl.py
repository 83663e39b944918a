"""TorchRL's transform and loss: the bonus's own rewards and gradients, with one normaliser for both."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.envs import GymEnv, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from athena_core import components, create
from athena_explore import ICM, RND, Bonus, Transition
from athena_explore._bonus_laws import ACTIONS, VECTOR, assert_same_state, walk
from athena_explore.torchrl import IntrinsicRewardLoss, IntrinsicRewardTransform, transition_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def bonus_of(name: str, env_id: str = "CartPole-v1", **options: Any) -> Bonus:
    env = gym.make(env_id)
    return create("bonus", name, env.observation_space, env.action_space, **options)


def wrapped(bonus: Bonus, env_id: str = "CartPole-v1", *, rows: int = 0) -> TransformedEnv:
    make = lambda: GymEnv(env_id)  # noqa: E731  # SerialEnv takes functions
    return TransformedEnv(SerialEnv(rows, make) if rows else make(), IntrinsicRewardTransform(bonus))


@pytest.mark.parametrize("name", ["counts", "e3b", "rnd"])
def test_each_step_is_scored_and_made_known(name: str) -> None:
    bonus, same = bonus_of(name), bonus_of(name)
    env = wrapped(bonus, rows=3)
    env.set_seed(0)
    rollout = env.rollout(40, break_when_any_done=False)
    assert rollout["next", "intrinsic_reward"].shape == rollout["next", "reward"].shape
    assert rollout["next", "terminated"].any()
    for t in range(40):
        step = transition_of(rollout[:, t], same)[None]
        torch.testing.assert_close(rollout["next", "intrinsic_reward"][:, t, 0], same.score(step)[0])
        same.advance(step)
    assert_same_state(bonus, same)
    assert bool(rollout["next", "intrinsic_reward"].any()) == (name != "rnd")
    bonus.learn(transition_of(rollout, bonus))
    assert env.rollout(5)["next", "intrinsic_reward"].any()


def test_the_true_next_observation_at_an_end() -> None:
    env = wrapped(bonus_of("counts"))
    env.set_seed(0)
    rollout = env.rollout(60, break_when_any_done=False)
    told = transition_of(rollout, env.transform.bonus)
    ends = told.done.nonzero()[:, 0]
    assert len(ends) >= 2
    for end in ends.tolist()[:-1]:
        assert told.obs[end + 1].abs().max() < 0.051  # where episodes begin
        assert told.next_obs[end].abs().max() > 0.051


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "CliffWalking-v1"])
@pytest.mark.parametrize("rows", [0, 2])
def test_specs_of_several_spaces(env_id: str, rows: int) -> None:
    env = wrapped(bonus_of("icm", env_id), env_id, rows=rows)
    check_env_specs(env)
    rollout = env.rollout(6)
    env.transform.bonus.learn(transition_of(rollout, env.transform.bonus))
    assert env.rollout(3)["next", "intrinsic_reward"].dtype == torch.float32


def test_dictionaries_and_other_keys() -> None:
    space = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
    bonus = RND(space, ACTIONS)
    parts = {"a": torch.ones(2, 5, 3), "b": torch.eye(3)[torch.zeros(2, 5, dtype=torch.int64)]}
    following = TensorDict({**parts, "terminated": torch.zeros(2, 5, 1, dtype=torch.bool)}, [2, 5])
    steps = TensorDict({**parts, "action": torch.zeros(2, 5, dtype=torch.int64), "next": following}, [2, 5])
    told = transition_of(steps, bonus)
    assert told.shape == (10,)
    assert told.obs["b"].tolist() == [0] * 10
    plain = RND(VECTOR, ACTIONS)
    loss = IntrinsicRewardLoss(plain, observation_key="a")
    assert loss(steps)["loss_bonus"].requires_grad
    assert plain.ready


def test_nested_dictionaries_and_actions_of_several_parts() -> None:
    space = spaces.Dict({"x": spaces.Dict({"y": spaces.Discrete(4, start=1)})})
    bonus = RND(space, spaces.MultiDiscrete([2, 3], start=[0, 5]))
    obs = TensorDict({"x": TensorDict({"y": torch.eye(4)[[2, 0]]}, [2])}, [2])
    action = torch.tensor([[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]])
    following = TensorDict({**obs, "terminated": torch.zeros(2, 1, dtype=torch.bool)}, [2])
    told = transition_of(TensorDict({**obs, "action": action, "next": following}, [2]), bonus)
    assert told.obs["x"]["y"].tolist() == [3, 1]
    assert told.action.tolist() == [[0, 7], [1, 5]]
    numbers = TensorDict({**obs, "action": told.action, "next": following}, [2])
    assert torch.equal(transition_of(numbers, bonus).action, told.action)
    assert bonus.learn(told)


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrl.data", None)
    monkeypatch.delitem(sys.modules, "athena_explore.torchrl")
    with pytest.raises(ImportError, match=r"pip install athena-explore\[torchrl\]"):
        importlib.import_module("athena_explore.torchrl")


def test_evaluation_changes_nothing() -> None:
    bonus = bonus_of("counts")
    env = wrapped(bonus)
    env.rollout(20)
    env.transform.frozen = True
    size = {key: value for key, value in bonus.state_dict().items() if isinstance(value, torch.Tensor)}
    before = {key: value.clone() for key, value in size.items()}
    env.rollout(20)
    for key, value in before.items():
        torch.testing.assert_close(bonus.state_dict()[key], value, rtol=0, atol=0)


def test_a_reset_in_the_middle() -> None:
    bonus = bonus_of("e3b")
    env = wrapped(bonus, rows=2)
    state = env.rand_step(env.reset())["next"]
    env.reset()
    bonus.clear_episodes()
    first = env.rand_step(env.reset())["next", "intrinsic_reward"]
    assert torch.isfinite(first).all()
    state = env.rand_step(env.reset())["next"]
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match=r"E3B remembers episodes; got \[0\]"):
        env.reset(state.set("_reset", mask))


NETWORKS = [
    component.name
    for component in components("bonus")
    if any(part.optimizer for part in bonus_of(component.name).modules() if isinstance(part, Bonus))
]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_is_what_the_bonus_descends(name: str) -> None:
    """One optimizer step on the loss is one of the bonus's own, in the same random numbers."""
    options = {"epochs": 1, "minibatches": 1} if name in ("rnd", "icm", "e3b", "disagreement") else {}
    one, other = (create("bonus", name, VECTOR, ACTIONS, **options) for _ in range(2))
    rollout = walk(24, 2, seed=1)
    following = {"observation": rollout.next_obs, "terminated": rollout.terminated[..., None]}
    following["truncated"] = rollout.truncated[..., None]
    steps = {"observation": rollout.obs, "action": rollout.action, "next": TensorDict(following, [24, 2])}
    loss = IntrinsicRewardLoss(one)
    found = loss(TensorDict(steps, [24, 2]))["loss_bonus"]
    found.backward()
    other.learn(rollout)
    parts = list(zip(one.modules(), other.modules(), strict=True))
    if options:
        assert one.optimizer is not None
        one.optimizer.step()
        for weights, expected in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weights, expected)
    moments = [(a.mean, b.mean) for a, b in parts if hasattr(a, "variance") and hasattr(a, "count")]
    for mean, expected in moments:
        torch.testing.assert_close(mean, expected)
    assert any(weights.grad is not None for weights in loss.parameters())
    assert "step" not in vars(one)


def test_a_loss_made_first_normalises_as_the_transform_does() -> None:
    """TorchRL's own loss, made before the first step, trains on observations that are not normalised."""
    from torchrl.collectors import Collector  # warns of its own parts

    bonus = RND(spaces.Box(-1e6, 1e6, (4,)), spaces.Discrete(2), normalize="none")
    loss = IntrinsicRewardLoss(bonus)
    env = wrapped(bonus)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    assert loss.bonus is env.transform.bonus
    collector = Collector(env, env.rand_action, frames_per_batch=40, total_frames=800)
    losses, seen = [], []
    for batch in collector:
        found = loss(batch)["loss_bonus"]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
        seen.append(batch["next", "observation"])
    collector.shutdown()
    torch.testing.assert_close(bonus.observations.moments[0].mean, torch.cat(seen).mean(0))
    assert losses[-1] < losses[0]
    errors = bonus.errors(seen[-1]).mean()
    assert abs(errors.item() - losses[-1]) < 0.5 * losses[-1]


def test_only_networks_have_a_loss() -> None:
    with pytest.raises(ValueError, match=r"`bonus` must have networks to train; .* has none"):
        IntrinsicRewardLoss(bonus_of("counts"))


def test_the_policy_gets_no_gradient() -> None:
    bonus = ICM(VECTOR, ACTIONS)
    obs = torch.randn(6, 3, requires_grad=True)
    no = torch.zeros(6, 1, dtype=torch.bool)
    steps = {"observation": obs, "action": torch.zeros(6, dtype=torch.int64)}
    steps["next"] = TensorDict({"observation": obs + 1, "terminated": no}, [6])  # type: ignore[assignment]
    IntrinsicRewardLoss(bonus)(TensorDict(steps, [6]))["loss_bonus"].backward()
    assert obs.grad is None
    assert isinstance(transition_of(TensorDict(steps, [6]), bonus), Transition)


def test_with_other_transforms() -> None:
    bonus = bonus_of("counts")
    env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter(max_steps=5))
    env.append_transform(IntrinsicRewardTransform(bonus))
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout["next", "truncated"].sum() == 2
    assert rollout["next", "intrinsic_reward"].shape == (12, 1)
