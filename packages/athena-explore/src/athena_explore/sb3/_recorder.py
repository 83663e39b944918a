"""The callback that records a rollout with its true next observations, and gives it its bonus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from athena_explore._spaces import shape_of
from athena_explore._transition import Transition
from athena_explore.sb3._raw_observations import RawObservations
from athena_explore.sb3._rollout import IntrinsicReturns, endless_advantages

if TYPE_CHECKING:
    from athena_explore.sb3._on_policy import IntrinsicOnPolicy


class Rows:
    """Arrays for so many steps of environments, of a plain space or of a Dict of them; float64 in float32.

    >>> rows = Rows(spaces.Discrete(5), 3, 2)
    >>> rows.write(0, np.array([1, 4]))
    >>> rows.value[0]
    array([1, 4])
    """

    def __init__(self, space: Space, steps: int, environments: int) -> None:
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self.arrays: dict[str | None, NDArray[Any]] = {
            name: _empty(part, steps, environments) for name, part in parts.items()
        }

    @property
    def value(self) -> Any:
        """The array, or a dictionary of arrays."""
        return _plain(self.arrays)

    def write(self, where: Any, value: Any) -> None:
        for name, array in self.arrays.items():
            array[where] = value if name is None else value[name]

    def shifted(self) -> Rows:
        """A copy of all but the first step."""
        other = object.__new__(Rows)
        other.arrays = {name: array[1:].copy() for name, array in self.arrays.items()}
        return other

    def first(self, steps: int) -> Any:
        """The value without what comes after so many steps."""
        cut = {name: array[:steps] for name, array in self.arrays.items()}
        return _plain(cut)


def _plain(arrays: dict[str | None, NDArray[Any]]) -> Any:
    return arrays.get(None, arrays)


def _empty(space: Space, steps: int, environments: int) -> NDArray[Any]:
    dtype = np.dtype(np.float32) if space.dtype == np.float64 else space.dtype
    return np.empty((steps, environments, *shape_of(space)), dtype)


class RolloutRecorder(BaseCallback):
    """Records each step in front of the user's callbacks, and mixes the advantages of a complete rollout.

    Only its algorithm makes one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw: RawObservations | None = None
        self._clock = 0.0

    def _on_training_start(self) -> None:
        self._clock = time.perf_counter()

    def _on_rollout_start(self) -> None:
        algorithm, raw = self._algorithm, self._raw
        steps, environments = algorithm.n_steps, algorithm.n_envs
        self._obs = Rows(raw.space, steps + 1, environments)
        self._actions = Rows(algorithm.action_space, steps, environments)
        self._done, self._truncated = np.zeros((2, steps, environments), bool)
        self._terminal: list[tuple[int, int, Any]] = []
        self._features: list[Tensor] = []
        self._obs.write(0, raw.now(algorithm._last_obs))

    def _on_step(self) -> bool:
        step, seen = len(self._features), self.locals
        self._features.append(cast(Tensor, self._algorithm.intrinsic_value.features))
        self._obs.write(step + 1, self._raw.now(seen["new_obs"]))
        self._actions.write(step, seen["clipped_actions"] if "clipped_actions" in seen else seen["actions"])
        if seen["dones"].any():
            self._note_ends(step, seen["dones"], seen["infos"])
        return True

    def _note_ends(self, step: int, dones: NDArray[np.bool_], infos: list[dict[str, Any]]) -> None:
        self._done[step] = dones
        for i in np.flatnonzero(dones).tolist():
            self._terminal.append((step, i, self._raw.terminal(i, infos[i])))
            self._truncated[step, i] = infos[i].get("TimeLimit.truncated", False)

    def _on_rollout_end(self) -> None:
        algorithm = self._algorithm
        before, transition = time.perf_counter(), self._transition()
        rewards = algorithm.bonus.score(transition)
        metrics = algorithm.bonus.update(transition)
        now = time.perf_counter()
        coefficient = algorithm.bonus_coefficient(algorithm._current_progress_remaining)
        if coefficient > 0:
            self._mix(rewards.cpu().numpy(), coefficient)
        self._log(rewards, metrics, coefficient, share=(now - before) / (now - self._clock))
        self._clock = now
        del self._obs, self._actions, self._features, self._terminal  # not to be held while the policy trains

    def _transition(self) -> Transition:
        steps = len(self._features)
        following = self._obs.shifted()
        for step, environment, obs in self._terminal:
            following.write((step, environment), obs)
        terminated = self._done & ~self._truncated
        ends = torch.from_numpy(terminated), torch.from_numpy(self._truncated)
        return Transition(self._obs.first(steps), self._actions.value, following.value, *ends)

    def _mix(self, rewards: NDArray[np.float32], coefficient: float) -> None:
        algorithm, head = self._algorithm, self._algorithm.intrinsic_value
        with torch.no_grad():  # the last features are of the observations after the last step
            values = head(torch.stack([*self._features, cast(Tensor, head.features)])).cpu().numpy()
        advantages = endless_advantages(
            rewards,
            values[:-1],
            values[-1],
            gamma=algorithm.intrinsic_gamma,
            gae_lambda=algorithm.intrinsic_gae_lambda,
        )
        buffer = cast(IntrinsicReturns, algorithm.rollout_buffer)
        buffer.add_intrinsic(advantages, values[:-1], coefficient=coefficient)

    def _log(
        self, rewards: Tensor, metrics: Mapping[str, float], coefficient: float, *, share: float
    ) -> None:
        std, mean = torch.std_mean(rewards, correction=0)
        own = {"reward_mean": float(mean), "reward_std": float(std), "coefficient": coefficient}
        for name, value in {**own, "time_share": share, **metrics}.items():
            self.logger.record(f"intrinsic/{name}", value)

    @property
    def _algorithm(self) -> IntrinsicOnPolicy:
        return cast("IntrinsicOnPolicy", self.model)

    @property
    def _raw(self) -> RawObservations:
        assert self.raw is not None
        return self.raw
