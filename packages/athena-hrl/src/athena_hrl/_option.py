"""An option: where it can start, how it acts, where it ends."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from athena_hrl._option_parts import Part, spaces_of


class Option:
    r"""A course of action over several steps, :math:`o = (I_o, \pi_o, \beta_o)`.

    It may start in a state :math:`s \in I_o`, acts by :math:`a \sim \pi_o(\cdot \mid s)`, and ends on arrival
    in :math:`s'` with probability :math:`\beta_o(s')`. Each part is

    - a function of one observation,
    - an array or tensor over the states of a Discrete space, its first axis: the fast form, or
    - a network, called without gradients on a batch of observations as tensors, Discrete ones as ``int64``.

    A policy gives an action or, where actions are Discrete, a probability for each; a termination gives a
    bool or a probability; an initiation a bool. So a table of actions is ``(states,)`` and one of
    probabilities ``(states, actions)``.

    Args:
        policy: :math:`\pi_o`.
        termination: :math:`\beta_o`.
        initiation: :math:`I_o`; None is everywhere.
        max_duration: :math:`k` at which the option is ended, with a warning, because its own termination has
            not come.
        name: what errors, warnings and pictures call it.

    Raises TypeError for a part that is none of these, ValueError for a ``max_duration`` below 1.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 2. Departs from it:
    ``max_duration`` is the one way in which an option depends on more than the state.

    >>> to_the_right = Option(policy=lambda place: 1, termination=lambda place: place == 8, name="right")
    >>> to_the_right
    Option('right')
    """

    def __init__(
        self,
        *,
        policy: Part,
        termination: Part,
        initiation: Part | None = None,
        max_duration: int = 10_000,
        name: str = "",
    ) -> None:
        if max_duration < 1:
            raise ValueError(
                f"`max_duration` must be at least 1; got {max_duration}. An option takes a step at least."
            )
        self.policy, self.termination = _part(policy, "policy"), _part(termination, "termination")
        self.initiation = None if initiation is None else _part(initiation, "initiation")
        self.max_duration, self.name = max_duration, name

    def __repr__(self) -> str:
        return f"Option({self.name!r})"


def primitives(env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> list[Option]:
    r"""One option for each action of an environment: it starts everywhere, takes the action once, and ends.

    With these among the options nothing is lost against learning without options.

    Raises ValueError for an environment whose actions are not Discrete.
    Source: Sutton, Precup, Singh 1999, section 2. Departs from it: no.

    >>> [option.name for option in primitives(gym.make("CartPole-v1"))]
    ['action 0', 'action 1']
    """
    observations, actions = spaces_of(env)
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(
            f"`env` must have Discrete actions, for an option each; got {actions}. Write the options by hand."
        )
    return [_primitive(int(actions.start) + i, observations) for i in range(int(actions.n))]


def _primitive(action: int, observations: spaces.Space[Any]) -> Option:
    name = f"action {action}"
    if isinstance(observations, spaces.Discrete) and observations.start == 0:
        everywhere = np.ones(int(observations.n), dtype=np.bool_)
        return Option(policy=np.full(len(everywhere), action), termination=everywhere, name=name)
    return Option(policy=lambda _: action, termination=lambda _: True, name=name)


def _part(part: Part, name: str) -> Part:
    if isinstance(part, nn.Module):
        return part
    if isinstance(part, Tensor):
        part = part.detach().cpu().numpy()
    if not (callable(part) or isinstance(part, np.ndarray)):
        raise TypeError(
            f"`{name}` must be a function of an observation, an array over states or a network; got "
            f"{type(part).__name__}. Put a list into `np.array`."
        )
    return part
