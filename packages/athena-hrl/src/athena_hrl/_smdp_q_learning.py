"""Q-learning over options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from athena_hrl._option_parts import spaces_of
from athena_hrl._option_table import OptionTable
from athena_hrl._option_vector_env import OptionVectorEnv
from athena_hrl._schedule import Schedule, scheduled
from athena_hrl._smdp import agreed_gamma, finite_reward, gamma_of, over_options

Array = NDArray[np.float64]


def smdp_target(
    reward: ArrayLike, discount: ArrayLike, next_q: ArrayLike, *, terminated: ArrayLike, available: ArrayLike
) -> Array:
    r"""What Q-learning over options learns towards,

    .. math:: R + \gamma^k (1 - d) \max_{o' \in O(s')} Q(s', o')

    with :math:`d` where the episode terminated. A truncated one is continued by the value of its last state.

    Args:
        reward: :math:`R = \sum_{i<k} \gamma^i r_i`.
        discount: :math:`\gamma^k`.
        next_q: :math:`Q(s', \cdot)`.
        terminated: :math:`d`.
        available: :math:`O(s')`, the options that can start in :math:`s'`, as bools.

    Shape: ``(...), (...), (..., O), (...), (..., O) -> (...)``.
    Raises ValueError for an episode that goes on where no option can start.
    Source: Sutton, Precup, Singh 1999, section 3.2. Departs from it: no.

    >>> float(smdp_target(1.0, 0.25, [8.0, 16.0], terminated=False, available=[True, False]))
    3.0
    """
    value = np.where(available, next_q, -np.inf).max(-1)
    value = np.where(terminated, 0.0, value)
    if np.isneginf(value).any():
        raise ValueError("`available` must hold an option wherever an episode goes on; got none.")
    return np.asarray(reward) + np.asarray(discount) * value


class SMDPQLearning(OptionTable):
    r"""Q-learning in a table over states and options, from the steps of an environment over options.

    .. math:: Q(s, o) \mathrel{+}= \alpha \bigl(R + \gamma^k \max_{o' \in O(s')} Q(s', o') - Q(s, o)\bigr)

    The options that can start, ``info["action_mask"]``, bound what is chosen, what is drawn at random, and
    the maximum. Of equally good options one is drawn. In an environment without the attribute ``gamma`` each
    action is an option of one step that starts everywhere, and this is Watkins' Q-learning.

    Args:
        env: `OptionEnv` or another with its three keys of ``info``, such as the one a HAM induces, over
            Discrete observations; `OptionVectorEnv`; or a plain single environment.
        gamma: None is that of ``env``.
        step_size: :math:`\alpha`, a number or a function of how often the pair has been visited, from 1 on.
        epsilon: the share of choices that are random, a number or a function of the steps taken.
        initial: of the table.
        seed: of the agent's draws, and of the first reset.

    Attributes:
        q: ``(states, options)``.
        visits: how often each pair was learned from, of the same shape.
        steps: those of the environment, not of options, so far.

    Raises ValueError for a ``gamma`` that is not the environment's, spaces that are not Discrete from 0, and
    numbers outside [0, 1].
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 3.2; first Bradtke and Duff
    1995, "Reinforcement learning methods for continuous-time Markov decision problems". Departs from it: no.

    >>> from athena_hrl import Option, OptionEnv, primitives
    >>> lake = gym.make("FrozenLake-v1", is_slippery=False)
    >>> down = Option(policy=lambda cell: 1, termination=lambda cell: cell >= 8, name="down")
    >>> agent = SMDPQLearning(OptionEnv(lake, [down, *primitives(lake)], gamma=0.9), step_size=0.5)
    >>> agent.learn(3000).q[0].round(3).tolist()[0]
    0.59
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | OptionVectorEnv,
        *,
        gamma: float | None = None,
        step_size: Schedule = 0.1,
        epsilon: Schedule = 0.1,
        initial: float = 0.0,
        seed: int = 0,
    ) -> None:
        if isinstance(env, gym.vector.VectorEnv) and not isinstance(env, OptionVectorEnv):
            raise ValueError(f"`env` must be `OptionVectorEnv` if it has rows; got {env}. Wrap it.")
        self.env, self.gamma = env, agreed_gamma(env, gamma)
        observations, actions = spaces_of(env)
        shape = size_of(observations, "observations"), size_of(actions, "actions")
        super().__init__(shape, step_size=step_size, epsilon=epsilon, initial=initial, seed=seed)
        self._over_options = gamma_of(env) is not None
        self._all = np.ones(shape[1], dtype=np.bool_)
        self._mask = self._all
        self._rows: tuple[Any, dict[str, Any]] | None = None  # the same of a vector environment
        self._begun = False

    def learn(self, steps: int) -> Self:
        """Take at least so many steps of the environment, those of an option counted when it ends."""
        until = self.steps + steps
        while self.steps < until:
            if isinstance(self.env, OptionVectorEnv):
                self._learn_rows(self.env)
            else:
                self._learn_once(self.env)
        return self

    def act(self, state: int, available: NDArray[np.bool_] | None = None) -> int:
        """An option: the best of those available or, with probability ``epsilon``, any of them."""
        return self.choose(state, self._all if available is None else available)

    def update(
        self,
        state: int,
        option: int,
        reward: float,
        next_state: int,
        *,
        discount: float,
        terminated: bool,
        available: NDArray[np.bool_],
    ) -> None:
        """Learn from an option that has ended; `smdp_target` says what the arguments are."""
        reward = finite_reward(reward, state)
        target = smdp_target(reward, discount, self.q[next_state], terminated=terminated, available=available)
        self.visits[state, option] += 1
        step_size = scheduled(self.step_size, int(self.visits[state, option]), name="step_size")
        self.q[state, option] += step_size * (target - self.q[state, option])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._rows = None

    def _learn_once(self, env: gym.Env[Any, Any]) -> None:
        state, self._state = self._started(env), None  # stays None if something raises: a new episode then
        option = self.act(state, self._mask)
        observation, reward, terminated, truncated, info = env.step(option)
        mask, discount = self._all, self.gamma
        if self._over_options:
            mask, discount = info["action_mask"], info["discount"]
        # Cut inside of a machine that was to act first, where no choice is open that has a value.
        if terminated or not truncated or info.get("at_choice", True):
            self.update(
                state,
                option,
                float(reward),
                int(observation),
                discount=discount,
                terminated=terminated,
                available=mask,
            )
        self.steps += info["duration"] if self._over_options else 1
        self._state, self._mask = None if terminated or truncated else int(observation), mask

    def _started(self, env: gym.Env[Any, Any]) -> int:
        if self._state is None:
            observation, info = env.reset(seed=None if self._begun else self.seed)
            self._begun, self._state = True, int(observation)
            self._mask = over_options(info)["action_mask"] if self._over_options else self._all
        return self._state

    def _learn_rows(self, env: OptionVectorEnv) -> None:
        if self._rows is None:
            self._rows = env.reset(seed=None if self._begun else self.seed)
            self._begun = True
        (observation, info), self._rows = self._rows, None
        choices = np.zeros(env.num_envs, dtype=np.int64)
        for row in np.flatnonzero(info["needs_option"]):
            choices[row] = self.act(int(observation[row]), info["action_mask"][row])
        observation, _, terminated, truncated, info = env.step(choices)
        ended = env.transitions()
        for place in range(len(ended.rows)):
            self.update(
                int(ended.observation[place]),
                int(ended.option[place]),
                float(ended.reward[place]),
                int(ended.next_observation[place]),
                discount=float(ended.discount[place]),
                terminated=bool(ended.terminated[place]),
                available=ended.available[place],
            )
        self.steps += int(ended.duration.sum())
        done = terminated | truncated
        if env.mode is AutoresetMode.DISABLED and done.any():
            observation, info = env.reset(options={"reset_mask": done})
        self._rows = observation, info


def size_of(space: spaces.Space[Any], name: str) -> int:
    """The number of elements of a space. Raises ValueError unless it is Discrete from 0.

    >>> size_of(spaces.Discrete(4), "actions")
    4
    """
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise ValueError(f"`env` must have {name} that are Discrete from 0, for a table; got {space}.")
    return int(space.n)
