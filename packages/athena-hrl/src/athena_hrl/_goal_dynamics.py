"""Rules of goal-conditioned environments, whose rewards are functions of goals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_core.environments import Dynamics, NumpyEnv, NumpyVectorEnv


class GoalDynamics(Dynamics):
    """Rules whose observations are dictionaries of ``observation``, ``achieved_goal`` and ``desired_goal``.

    Rewards and ends are functions of goals, by which hindsight changes what was desired.

    >>> from athena_hrl import BitFlip
    >>> BitFlip(bits=3).goal_reward(np.array([1, 0, 0]), np.array([1, 0, 0]))
    np.float64(0.0)
    """

    @abstractmethod
    def goal_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.float64]:
        """Rewards ``(...)`` of arriving at goals ``(..., d)`` while others are desired."""

    @abstractmethod
    def goal_reached(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether that ends the episode, ``(...)``."""


class _GoalFunctions:
    """The two functions by gymnasium-robotics' names, as Stable-Baselines3's replay buffers ask for them."""

    dynamics: GoalDynamics

    def compute_reward(
        self,
        achieved_goal: Any,
        desired_goal: Any,
        info: Any,  # noqa: ARG002  # not needed here
    ) -> NDArray[np.float64]:
        """`GoalDynamics.goal_reward`, of one goal or of many at once."""
        return self.dynamics.goal_reward(np.asarray(achieved_goal), np.asarray(desired_goal))

    def compute_terminated(
        self,
        achieved_goal: Any,
        desired_goal: Any,
        info: Any,  # noqa: ARG002  # not needed here
    ) -> NDArray[np.bool_]:
        """`GoalDynamics.goal_reached`, of one goal or of many at once."""
        return self.dynamics.goal_reached(np.asarray(achieved_goal), np.asarray(desired_goal))


class GoalEnv(_GoalFunctions, NumpyEnv):
    """One environment by `GoalDynamics`, with ``compute_reward`` and ``compute_terminated``.

    >>> from athena_hrl import BitFlip
    >>> env = GoalEnv(BitFlip(bits=3))
    >>> sorted(env.reset(seed=0)[0])
    ['achieved_goal', 'desired_goal', 'observation']
    """

    dynamics: GoalDynamics


class GoalVectorEnv(_GoalFunctions, NumpyVectorEnv):
    """Many environments by `GoalDynamics`, with ``compute_reward`` and ``compute_terminated``.

    >>> from athena_hrl import BitFlip
    >>> env = GoalVectorEnv(BitFlip(bits=3), 2)
    >>> goals = np.eye(3, dtype=np.int8)
    >>> env.compute_reward(goals, goals[[0, 2, 1]], {})
    array([ 0., -1., -1.])
    """

    dynamics: GoalDynamics
