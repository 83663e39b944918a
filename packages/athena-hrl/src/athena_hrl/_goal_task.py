"""What hindsight needs of an environment: its spaces, and its rewards as functions of goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

KEYS = "observation", "achieved_goal", "desired_goal"
Infos = Sequence[dict[str, Any]]
GoalFunction = Callable[[Any, Any, Any], Any]

_PROBE = 8  # rows by which a function of many is compared with itself, of one


class ManyGoals:
    """A function of goals ``(achieved, desired, info)`` for many at once, whatever it was written for.

    The first time that there are two or more, it is called with all of them and with the first few one by
    one. If both agree, it is called once a batch from then on, else once a row.

    Args:
        function: of goals ``(d,)`` and an info, or of goals ``(B, d)`` and a list of infos.
        dtype: of what it gives.

    Raises ValueError if it gives anything but one number a row.

    >>> import math
    >>> one_by_one = ManyGoals(lambda achieved, desired, info: -math.dist(achieved, desired), np.float32)
    >>> one_by_one(np.zeros((2, 1)), np.array([[1.0], [2.0]]), [{}, {}]), one_by_one.at_once
    (array([-1., -2.], dtype=float32), False)
    """

    def __init__(self, function: GoalFunction, dtype: Any) -> None:
        self.function, self.dtype = function, np.dtype(dtype)
        self.at_once: bool | None = None  # None: not yet known

    def __call__(self, achieved: NDArray[Any], desired: NDArray[Any], infos: Infos) -> NDArray[Any]:
        if self.at_once is None and len(achieved) > 1:
            self.at_once = self._takes_many(achieved, desired, infos)
        if not self.at_once:
            return self._by_row(achieved, desired, infos)
        values = np.asarray(self.function(achieved, desired, infos), self.dtype)
        if values.shape != (len(achieved),):
            raise ValueError(
                f"`{_name(self.function)}` must give one number a row, ({len(achieved)},); got the shape "
                f"{values.shape}."
            )
        return values

    def _by_row(self, achieved: NDArray[Any], desired: NDArray[Any], infos: Infos) -> NDArray[Any]:
        values = [self.function(*row) for row in zip(achieved, desired, infos, strict=True)]
        try:
            return np.asarray(values, self.dtype).reshape(len(achieved))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{_name(self.function)}` must give one number; got {values[0]!r:.80}."
            ) from error

    def _takes_many(self, achieved: NDArray[Any], desired: NDArray[Any], infos: Infos) -> bool:
        try:
            many = np.asarray(self.function(achieved, desired, infos), self.dtype)
        except Exception:  # noqa: BLE001  whatever it raises, it was not written for many
            return False
        if many.shape != (len(achieved),):
            return False
        few = slice(0, _PROBE)
        one_by_one = self._by_row(achieved[few], desired[few], infos[few])
        return bool(np.allclose(many[few], one_by_one, equal_nan=True))


class GoalTask:
    """The spaces of a goal-conditioned environment, and its rewards for any goals.

    Args:
        observation_space: a Dict of at least ``observation``, ``achieved_goal`` and ``desired_goal``.
        action_space: of one environment.
        compute_reward: ``(achieved, desired, info)`` of one transition or of many, where ``achieved`` is the
            *next* achieved goal.
        compute_terminated: likewise, whether the episode has terminated; None if the environment has none.

    Raises TypeError for observations of another form.

    >>> import gymnasium as gym
    >>> class Reach(gym.Env):
    ...     observation_space = spaces.Dict({key: spaces.Box(-1, 1, (2,)) for key in KEYS})
    ...     action_space = spaces.Discrete(4)
    ...
    ...     def compute_reward(self, achieved, desired, info):
    ...         return -np.linalg.norm(achieved - desired, axis=-1)
    >>> task = GoalTask.of(Reach())
    >>> task.reward(np.zeros((2, 2)), np.ones((2, 2)), [{}, {}]).shape, task.terminated
    ((2,), None)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        compute_reward: GoalFunction,
        compute_terminated: GoalFunction | None = None,
    ) -> None:
        observation_space = goal_observations(observation_space)
        achieved, desired = observation_space["achieved_goal"], observation_space["desired_goal"]
        if (achieved.shape, achieved.dtype) != (desired.shape, desired.dtype):
            raise TypeError(
                f"`achieved_goal` must have the shape and the type of `desired_goal`, {desired}; got "
                f"{achieved}."
            )
        self.observation_space, self.action_space = observation_space, action_space
        self.reward = ManyGoals(compute_reward, np.float32)
        self.terminated = None if compute_terminated is None else ManyGoals(compute_terminated, np.bool_)

    @classmethod
    def of(cls, env: Any) -> Self:
        """The task of a Gymnasium environment, one or a vector of them, through its wrappers.

        Raises ValueError for one that has no ``compute_reward``.
        """
        vector = hasattr(env, "single_observation_space")
        return cls(
            env.single_observation_space if vector else env.observation_space,
            env.single_action_space if vector else env.action_space,
            compute_reward=goal_function(env, "compute_reward"),
            compute_terminated=goal_function(env, "compute_terminated", required=False),
        )


def goal_observations(space: spaces.Space[Any]) -> spaces.Dict:
    """The space itself, if its observations have goals. Raises TypeError otherwise.

    >>> goal_observations(spaces.Dict({key: spaces.MultiBinary(4) for key in KEYS}))["desired_goal"]
    MultiBinary(4)
    """
    if not isinstance(space, spaces.Dict) or not set(KEYS) <= set(space.spaces):
        found = list(space.spaces) if isinstance(space, spaces.Dict) else str(space)
        raise TypeError(
            f"`observation_space` must be a Dict with {', '.join(KEYS)}; got {found}. Hindsight needs goals "
            "in observations."
        )
    return space


def goal_function(env: Any, name: str, *, required: bool = True) -> Any:
    """A method of a Gymnasium environment or of the first of many, through wrappers; None if it has none.

    Raises ValueError if it is ``required``.

    >>> import gymnasium as gym
    >>> goal_function(gym.make("CartPole-v1"), "compute_reward", required=False) is None
    True
    """
    inside = env.unwrapped
    candidates = [env, inside, getattr(inside, "dynamics", None), *getattr(inside, "envs", ())[:1]]
    for one in candidates:
        if hasattr(one, "get_wrapper_attr") and one.has_wrapper_attr(name):
            return one.get_wrapper_attr(name)
        if hasattr(one, name):
            return getattr(one, name)
    if required:
        raise ValueError(
            f"`env` must have `{name}(achieved, desired, info)`; {env} has none. Add it, in a wrapper if "
            "need be: hindsight asks what a transition would have earned with another goal."
        )
    return None


def _name(function: GoalFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)
