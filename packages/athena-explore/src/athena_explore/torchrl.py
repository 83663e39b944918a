"""TorchRL with intrinsic rewards: a transform that writes them, and a loss that trains their networks.

Needs the extra ``torchrl``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Unbounded
    from torchrl.envs.transforms import Transform
    from torchrl.objectives import LossModule
except ImportError as error:
    raise ImportError(
        "`athena_explore.torchrl` needs torchrl: run `pip install athena-explore[torchrl]`."
    ) from error

from athena_explore._bonus import Bonus
from athena_explore._spaces import shape_of
from athena_explore._transition import Transition

__all__ = ["IntrinsicRewardLoss", "IntrinsicRewardTransform", "transition_of"]


class IntrinsicRewardTransform(Transform):
    r"""Writes the bonus of each step into ``("next", "intrinsic_reward")``, of the shape of the reward.

    Each step is scored and made known to the bonus (`Bonus.advance`); while ``frozen`` is True it is scored
    only (the mode of the module says nothing: TorchRL sets every transform to ``eval``).
    Networks and statistics of observations learn where you let them: by `IntrinsicRewardLoss`, or
    ``bonus.learn(transition_of(tensordict, bonus))`` with the bonus's own optimizer. All share one bonus, so
    that a loss which is made before the first step normalises as the transform does.

    TorchRL resets environments apart from their steps: what follows a step is the observation that the action
    led to, also where the episode ended. One-hot actions and observations, as `GymEnv` makes them of discrete
    ones, become numbers again for the bonus.

    Args:
        bonus: made for the spaces of one environment, as Gymnasium has them.
        observation_key: of observations; dictionaries of them have the keys of their space.

    Raises ValueError for a reset that cuts some environments' episodes short without an end, where the bonus
    has a memory of episodes.

    >>> import gymnasium as gym
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> from athena_explore import RND
    >>> spaces_of = gym.make("CartPole-v1")
    >>> bonus = RND(spaces_of.observation_space, spaces_of.action_space)
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), IntrinsicRewardTransform(bonus))
    >>> env.rollout(5)["next", "intrinsic_reward"].shape
    torch.Size([5, 1])
    """

    def __init__(self, bonus: Bonus, *, observation_key: str = "observation") -> None:
        super().__init__(in_keys=[observation_key], out_keys=["intrinsic_reward"])
        self.bonus, self._observation_key = bonus, observation_key
        self.frozen = False
        self._ended: Tensor | None = None

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        both = tensordict.select(*tensordict.keys()).set("next", next_tensordict)
        transition = transition_of(both, self.bonus, observation_key=self._observation_key)[None]
        rewards = self.bonus.score(transition)
        if not self.frozen:
            self.bonus.advance(transition)
        self._ended = transition.done[0]
        return next_tensordict.set("intrinsic_reward", rewards.reshape(*next_tensordict.batch_size, 1))

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if self._ended is not None and not self.frozen:
            chosen = torch.ones_like(self._ended) if mask is None else mask.flatten()
            self._begin(chosen & ~self._ended, chosen)
        return tensordict_reset

    def _begin(self, early: Tensor, chosen: Tensor) -> None:
        if not bool(early.any()):
            return
        if bool(chosen.all()):
            self.bonus.clear_episodes()
        elif self.bonus.episodic:
            raise ValueError(
                f"`reset` must be of environments whose episode ended, since {type(self.bonus).__name__} "
                f"remembers episodes; got {torch.nonzero(early)[:, 0].tolist()}. Reset all, or truncate them."
            )

    def transform_reward_spec(self, reward_spec: Any) -> Any:
        shape = torch.Size([*reward_spec.shape, 1])
        reward_spec["intrinsic_reward"] = Unbounded(shape, device=reward_spec.device, dtype=torch.float32)
        return reward_spec


class IntrinsicRewardLoss(LossModule):
    r"""The loss of a bonus's networks on a batch, ``loss_bonus``, for an optimizer of yours.

    It is what `Bonus.learn` would descend, averaged over its minibatches. Statistics of observations take in
    the batch first, as they do there: they are the bonus's own, which the transform scores with.

    Args:
        bonus: with networks to train, the one of the `IntrinsicRewardTransform`.
        observation_key: see there.

    Raises ValueError for a bonus that has nothing to train.

    >>> import gymnasium as gym
    >>> from torchrl.envs import GymEnv
    >>> from athena_explore import RND
    >>> spaces_of = gym.make("CartPole-v1")
    >>> bonus = RND(spaces_of.observation_space, spaces_of.action_space)
    >>> loss = IntrinsicRewardLoss(bonus)
    >>> loss(GymEnv("CartPole-v1").rollout(5))["loss_bonus"].backward()
    >>> bonus.ready, all(weights.grad is not None for weights in bonus.predictor.parameters())
    (True, True)
    """

    out_keys = ["loss_bonus"]  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(self, bonus: Bonus, *, observation_key: str = "observation") -> None:
        super().__init__()
        if not any(part.optimizer is not None for part in _bonuses(bonus)):
            raise ValueError(f"`bonus` must have networks to train; {type(bonus).__name__} has none.")
        self.bonus, self.observation_key = bonus, observation_key

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        samples = transition_of(tensordict, self.bonus, observation_key=self.observation_key)
        with _losses(self.bonus) as losses:
            self.bonus.learn(samples)
        total = torch.stack([torch.stack(of_one).mean() for of_one in losses.values() if of_one]).sum()
        return TensorDict({"loss_bonus": total}, batch_size=[])

    def _forward_value_estimator_keys(self, **_: Any) -> None:
        """There is no value to estimate."""


def transition_of(
    tensordict: TensorDictBase, bonus: Bonus, *, observation_key: str = "observation"
) -> Transition:
    """The steps of a tensordict as transitions ``(B,)``, whatever its batch size.

    >>> from athena_explore import RND
    >>> bonus = RND(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    >>> obs, no, one_hot = torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.bool), torch.eye(4, 3)
    >>> following = TensorDict({"observation": obs, "terminated": no}, [4])
    >>> steps = TensorDict({"observation": obs, "action": one_hot, "next": following}, [4])
    >>> transition_of(steps, bonus).action.tolist()
    [0, 1, 2, 0]
    """
    rows = tensordict.reshape(math.prod(tensordict.batch_size))
    after, count = rows["next"], len(rows)
    terminated = after["terminated"].reshape(count)
    truncated = after.get("truncated", torch.zeros_like(terminated)).reshape(count)
    return Transition(
        _observation(bonus.observation_space, rows, observation_key),
        _numbers(bonus.action_space, rows["action"]),
        _observation(bonus.observation_space, after, observation_key),
        terminated,
        truncated,
    )


def _observation(space: spaces.Space, rows: TensorDictBase, key: str) -> Any:
    return _numbers(space, rows if isinstance(space, spaces.Dict) else rows[key])


def _numbers(space: spaces.Space, value: Any) -> Any:
    """Values of a space; one-hot rows of discrete ones become their numbers."""
    if isinstance(space, spaces.Dict):
        return {name: _numbers(part, value[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete) and value.dim() > 1:
        return value.to(torch.uint8).argmax(-1) + int(space.start)
    if isinstance(space, spaces.MultiDiscrete) and value.shape[-1] == space.nvec.sum() > space.nvec.size:
        parts = value.to(torch.uint8).split(space.nvec.flatten().tolist(), -1)
        numbers = torch.stack([part.argmax(-1) for part in parts], -1).reshape(len(value), *space.nvec.shape)
        return numbers + torch.as_tensor(space.start, device=value.device)
    return value.reshape(len(value), *shape_of(space))


def _bonuses(bonus: Bonus) -> list[Bonus]:
    """A bonus and those it is made of."""
    return [part for part in bonus.modules() if isinstance(part, Bonus)]


@contextmanager
def _losses(bonus: Bonus) -> Iterator[dict[int, list[Tensor]]]:
    """Collect the losses that a bonus and its parts would descend, in place of their steps."""
    found: dict[int, list[Tensor]] = {}
    parts = _bonuses(bonus)
    for part in parts:
        part.step = found.setdefault(id(part), []).append  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for part in parts:
            del part.step
