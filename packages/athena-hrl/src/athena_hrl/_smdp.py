"""What environments over options and their agents agree on: the discount, and errors of choices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_core.environments import Words, streams
from athena_hrl._discrete_actions import one_line

_SALT = np.uint64(0x5C1F3B8E2A97D640)  # options draw from other streams than an environment of the same seed


def option_streams(seeds: NDArray[np.uint64]) -> Words:
    """Streams of random numbers for options, which belong to seeds.

    >>> bool((option_streams(np.arange(3, dtype=np.uint64)) == streams(np.arange(3, dtype=np.uint64))).any())
    False
    """
    return streams(seeds ^ _SALT)


def checked_gamma(gamma: float) -> float:
    """The same discount. Raises ValueError for one outside [0, 1].

    >>> checked_gamma(0.9)
    0.9
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"`gamma` must lie in [0, 1]; got {gamma}.")
    return gamma


def agreed_gamma(env: Any, gamma: float | None) -> float:
    """The discount of an environment over options, which an agent must share; None takes it over.

    Rewards of several steps are discounted in the environment, so an agent with another discount would learn
    the values of no problem. An environment without the attribute ``gamma`` leaves the choice to the agent.

    Raises ValueError where both differ, or neither has one.

    >>> import gymnasium as gym
    >>> agreed_gamma(gym.make("CartPole-v1"), 0.9)
    0.9
    """
    found = gamma_of(env)
    if found is None:
        if gamma is None:
            raise ValueError("`gamma` must be given, since `env` has none; got None. Take 0.99, for example.")
        return checked_gamma(gamma)
    if gamma is not None and gamma != found:
        raise ValueError(
            f"`gamma` must be that of `env`, which has discounted rewards by {found}; got {gamma}. Leave it "
            "out, or make the environment with another."
        )
    return found


def gamma_of(env: Any) -> float | None:
    """The discount of an environment over options or of what it wraps; None if it has none.

    >>> import gymnasium as gym
    >>> gamma_of(gym.make("CartPole-v1"))
    """
    while not _discounts(env) and hasattr(env, "env"):
        env = env.env
    return env.gamma if _discounts(env) else None


def single_steps(env: Any) -> Any:
    """The same environment, single or vector. Raises ValueError for one over options.

    >>> import gymnasium as gym
    >>> single_steps(gym.make_vec("CartPole-v1", 2)).num_envs
    2
    """
    if any(gamma_of(one) is not None for one in (env, *getattr(env.unwrapped, "envs", ()))):
        raise ValueError(
            f"`env` must take single steps, not options; got {env}. Pass the environment inside, and all "
            "options, tasks or machines beside it."
        )
    return env


def over_options(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same info. Raises ValueError if it is not of an environment over options, whatever its attributes.

    >>> over_options({"duration": 0, "discount": 1.0, "action_mask": np.ones(2, bool)})["duration"]
    0
    """
    lacking = [name for name in ("duration", "discount", "action_mask") if name not in info]
    if lacking:
        raise ValueError(
            f"`env` has an attribute `gamma`, as those over options have, but its infos lack {lacking}. Name "
            "the attribute otherwise."
        )
    return info


def _discounts(env: Any) -> bool:
    """Whether this layer is over options. Gymnasium's own wrappers have a ``gamma`` for other purposes."""
    return hasattr(env, "gamma") and not type(env).__module__.startswith("gymnasium.")


def finite_reward(reward: float, where: Any) -> float:
    """The same reward. Raises ValueError for NaN and infinity, which no value in a table recovers from.

    >>> finite_reward(0.5, 7)
    0.5
    """
    if not math.isfinite(reward):
        raise ValueError(
            f"rewards must be finite; got {reward} after {one_line(where)}. Mend the environment."
        )
    return reward


def no_option(observation: Any) -> ValueError:
    """The error of a state in which no option can start.

    >>> no_option(7).args[0].partition(";")[0]
    '`options` must hold one that can start in each state that is met'
    """
    return ValueError(
        "`options` must hold one that can start in each state that is met; got none for the state "
        f"{one_line(observation)}. Add `primitives(env)`, or widen an initiation set."
    )


def not_available(option: Any, available: NDArray[np.bool_], observation: Any) -> ValueError:
    """The error of an option that cannot start where it was chosen.

    >>> str(not_available(2, np.array([True, False, False]), 5)).partition(". ")[0]
    '`option` must be one of [0], which can start in the state 5; got 2'
    """
    return ValueError(
        f"`option` must be one of {np.flatnonzero(available).tolist()}, which can start in the state "
        f'{one_line(observation)}; got {option}. Choose within `info["action_mask"]`.'
    )


def warn_endless(option: Any, number: int, observation: Any) -> None:
    """Warn of an option that was ended by its limit.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_endless(type("", (), {"max_duration": 9, "name": "north"}), 0, 4)
    >>> caught[0].category.__name__
    'RuntimeWarning'
    """
    warnings.warn(
        f"option {number} {option.name!r} was ended after its `max_duration` of {option.max_duration} steps, "
        f"in the state {one_line(observation)}: its termination did not come. Later such ends are not told.",
        RuntimeWarning,
        stacklevel=3,
    )
