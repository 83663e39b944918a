"""Bit-flip: n bits, of which an action flips one, and a goal that is rewarded alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments import Advanced, State, VisitMap, Words, draw, painted
from athena_hrl._goal_dynamics import GoalDynamics, GoalEnv, GoalVectorEnv

_OFF, _ON, _WRONG, _GAP = (225, 225, 220), (0, 114, 178), (213, 94, 0), (255, 255, 255)


class BitFlip(GoalDynamics):
    r"""``bits`` bits, of which action ``i`` flips the ``i``-th; the reward is -1 until they are the goal.

    .. math:: r(s, g) = -1(s \ne g)

    Start and goal are drawn for each episode, and are not the same. Reaching the goal terminates; after as
    many steps as there are bits the episode is truncated, which is always enough.

    Observations are a Dict of ``observation``, ``achieved_goal`` and ``desired_goal``, each MultiBinary of
    int8, which Stable-Baselines3 makes floats of for its networks.

    Args:
        bits: how many.
        time_limit: steps after which an episode is truncated; as many as bits if left out.

    Raises ValueError for numbers below 1.
    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 3.1. Departs from it: an episode never begins
    at its goal, and ends when it gets there.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(BitFlip(bits=2), 1)
    >>> observation, _ = env.reset(seed=0)
    >>> observation["observation"].tolist(), observation["desired_goal"].tolist()
    ([[0, 0]], [[1, 0]])
    >>> env.step(np.array([0]))[1:4]
    (array([0.]), array([ True]), array([False]))
    """

    def __init__(self, *, bits: int = 15, time_limit: int | None = None) -> None:
        for name, value in (("bits", bits), ("time_limit", time_limit)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self.bits, self.time_limit = bits, bits if time_limit is None else time_limit
        names = "observation", "achieved_goal", "desired_goal"
        self.observation_space = spaces.Dict({name: spaces.MultiBinary(bits) for name in names})
        self.action_space = spaces.Discrete(bits)

    def start(self, random: Words) -> State:
        drawn, random = draw(random, 2 * self.bits + 1)
        bits, goal = np.split((drawn[:, :-1] < 0.5).astype(np.int8), 2, axis=1)
        rows = np.flatnonzero((bits == goal).all(1))
        goal[rows, (drawn[rows, -1] * self.bits).astype(np.int64)] ^= 1
        return {"random": random, "bits": bits, "goal": goal}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        bits, goal = state["bits"].copy(), state["goal"]
        bits[np.arange(len(bits)), action] ^= 1
        return Advanced({**state, "bits": bits}, self.goal_reward(bits, goal), self.goal_reached(bits, goal))

    def goal_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.float64]:
        return self.goal_reached(achieved_goal, desired_goal).astype(np.float64) - 1

    def goal_reached(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any]) -> NDArray[np.bool_]:
        return (achieved_goal == desired_goal).all(-1)

    def observe(self, state: State) -> dict[str, NDArray[np.int8]]:
        bits, goal = state["bits"], state["goal"]
        return {"observation": bits.copy(), "achieved_goal": bits.copy(), "desired_goal": goal.copy()}

    def position(self, observation: Any) -> NDArray[np.float64]:
        """How many bits are set in each half of each observation, ``(..., 2)``."""
        halves = np.array_split(np.asarray(observation["observation"]), 2, axis=-1)
        return np.stack([half.sum(-1, dtype=np.float64) for half in halves], -1)

    def visit_map(self) -> VisitMap:
        most = self.bits - self.bits // 2, self.bits // 2
        return VisitMap([-0.5] * 2, np.add(most, 0.5), [count + 1 for count in most])

    def frames(self, state: State) -> NDArray[np.uint8]:
        """The bits above, those that differ from the goal in another colour; the goal below."""
        bits, goal = state["bits"][..., None] > 0, state["goal"][..., None] > 0
        wrong = bits != goal
        cells = np.full((len(bits), 5, self.bits + 2, 3), _GAP, dtype=np.uint8)
        cells[:, 1, 1:-1] = np.where(bits, np.where(wrong, _WRONG, _ON), _OFF)
        cells[:, 2, 1:-1] = np.where(wrong, _WRONG, _GAP)
        cells[:, 3, 1:-1] = np.where(goal, _ON, _OFF)
        return painted(cells, 16)


class BitFlipEnv(GoalEnv):
    """One `BitFlip`; what `gymnasium.make` builds. It has the time limit of its bits."""

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        rules = BitFlip(**options)
        super().__init__(rules, max_episode_steps=rules.time_limit, render_mode=render_mode)


class BitFlipVectorEnv(GoalVectorEnv):
    """Many of `BitFlip`; what `gymnasium.make_vec` builds. ``options`` are split between both."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        own, rest = self.split_options(options)
        super().__init__(BitFlip(**rest), num_envs, **own)
