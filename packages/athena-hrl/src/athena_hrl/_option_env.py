"""The semi-Markov decision process over options, as an environment of Gymnasium."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from athena_core.environments import Words, draw
from athena_hrl._option import Option
from athena_hrl._options import Options
from athena_hrl._smdp import (
    agreed_gamma,
    checked_gamma,
    gamma_of,
    no_option,
    not_available,
    option_streams,
    over_options,
    warn_endless,
)


class OptionEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    r"""An environment whose actions are options: a step carries one out until it ends (call-and-return).

    .. math::
        R = \sum_{i=0}^{k-1} \gamma^i r_{t+i}, \qquad
        Q(s_t, o) = \mathbb{E}\bigl[R + \gamma^k \max_{o'} Q(s_{t+k}, o')\bigr]

    An option ends on arrival in :math:`s_{t+1}` with probability :math:`\beta(s_{t+1})`, with its episode, or
    at its ``max_duration``. The end of an episode closes it with the :math:`k` steps there were;
    ``terminated`` and ``truncated`` are those of the last of them.

    ``info`` is that of the last step, and with it

    - "duration": :math:`k`, 0 after `reset`,
    - "discount": :math:`\gamma^k`, what the next value is to be weighed by,
    - "action_mask": bools ``(options,)``, those that can start in the new observation.

    An agent must share the attribute ``gamma``: those of this package raise otherwise. Where ``env`` is over
    options itself, with the same ``gamma``, these are options over options.

    Args:
        env: the environment.
        options: of `Option`, or `Options`.
        gamma: :math:`\gamma`.

    Raises ValueError for options of another environment, a ``gamma`` outside [0, 1] or other than that of an
    environment over options, an option that cannot start where it is chosen, and a state that does not end
    the episode but in which no option can start; gymnasium.error.ResetNeeded for a step before `reset` or
    after an end. Warns (RuntimeWarning), once for each option, of one that reached its ``max_duration``.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", sections 2 and 3. Departs from it: no.

    >>> from athena_hrl import primitives
    >>> lake = gym.make("FrozenLake-v1", is_slippery=False)
    >>> down = Option(policy=lambda cell: 1, termination=lambda cell: cell >= 12, name="down")
    >>> env = OptionEnv(lake, [down, *primitives(lake)], gamma=0.5)
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(0)
    >>> observation, info["duration"], info["discount"]
    (12, 3, 0.125)
    """

    def __init__(
        self, env: gym.Env[Any, Any], options: Iterable[Option] | Options, *, gamma: float = 0.99
    ) -> None:
        RecordConstructorArgs.__init__(self, options=options, gamma=gamma)
        gym.Wrapper.__init__(self, env)
        self._nested = gamma_of(env) is not None
        self.gamma = agreed_gamma(env, checked_gamma(gamma))
        self.options = Options(options, env)
        self.action_space = spaces.Discrete(len(self.options))
        self._observation: Any = None
        self._mask: NDArray[np.bool_] | None = None  # None where there is no choice to make
        self._random: Words | None = None
        self._warned: set[int] = set()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._random = option_streams(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
        elif self._random is None:
            self._random = np.random.default_rng().integers(2**64, size=1, dtype=np.uint64)
        observation, info = self.env.reset(seed=seed, options=options)
        if self._nested:
            over_options(info)
        return observation, self._arrived(observation, info, duration=0, discount=1.0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Carry out option number ``action``."""
        option = self._checked(action)
        observation, self._mask = self._observation, None
        limit, total, discount = int(self.options.max_duration[option]), 0.0, 1.0
        act, ends, advance = self.options.action, self.options.ends, self.env.step
        duration = 0
        while True:
            to_act, to_end = self._drawn()
            found = act(observation, option, uniform=to_act)
            observation, reward, terminated, truncated, info = advance(found)
            total += discount * float(reward)
            discount *= info["discount"] if self._nested else self.gamma
            duration += info["duration"] if self._nested else 1
            if terminated or truncated or ends(observation, option, uniform=to_end):
                break
            if duration >= limit:
                self._warn_once(option, observation)
                break
        info = self._arrived(observation, info, duration=duration, discount=discount, terminated=terminated)
        if terminated or truncated:
            self._mask = None
        return observation, total, bool(terminated), bool(truncated), info

    def action_masks(self) -> NDArray[np.bool_]:
        """The options that can start now, ``(options,)``, as sb3-contrib's MaskablePPO asks for them.

        Its discount is one a choice, not one a step: with ``gamma`` below 1 it takes long options for short.
        """
        return self._choices().copy()

    def _warn_once(self, option: int, observation: Any) -> None:
        if option not in self._warned:
            self._warned.add(option)
            warn_endless(self.options[option], option, observation)

    def _drawn(self) -> tuple[Any, Any]:
        """Numbers for an action and for an end, of shape ``(1,)``."""
        if not self.options.stochastic:
            return None, None
        assert self._random is not None
        numbers, self._random = draw(self._random, 2)
        return numbers[:, 0], numbers[:, 1]

    def _arrived(
        self,
        observation: Any,
        info: dict[str, Any],
        *,
        duration: int,
        discount: float,
        terminated: bool = False,
    ) -> dict[str, Any]:
        mask = self.options.starts(observation)
        if not (terminated or mask.any()):
            raise no_option(observation)
        self._observation, self._mask = observation, mask
        return {**info, "duration": duration, "discount": discount, "action_mask": mask.copy()}

    def _checked(self, action: Any) -> int:
        mask = self._choices()
        number = np.asarray(action)
        whole = number.shape == () and number.dtype.kind in "iu"
        if not (whole and 0 <= number < len(mask) and mask[number]):
            raise not_available(action, mask, self._observation)
        return int(number)

    def _choices(self) -> NDArray[np.bool_]:
        if self._mask is None:
            raise ResetNeeded("`step` needs an episode under way; there is none. Call `reset`.")
        return self._mask
