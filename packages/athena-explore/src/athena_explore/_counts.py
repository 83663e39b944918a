"""Counts of states themselves."""

from __future__ import annotations

from typing import Unpack

from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._count_bonus import CountBonus, CountOptions
from athena_explore._state_keys import StateKeys
from athena_explore._transition import Observation


class Counts(CountBonus):
    r"""Visits of each state, told apart by its exact value, or by its bins where numbers are floats.

    .. math:: b(s_{t+1}) = \frac{1}{\sqrt{n(s_{t+1})}} \quad \text{or} \quad
        b(s_t, a_t) = \frac{1}{\sqrt{n(s_t, a_t)}}

    and the other forms of `CountBonus`. States in a continuous space hardly come again: cut it with ``bins``.

    Memory: 32 to 64 bytes a distinct state.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        of, form, beta, decay: see `CountBonus`.
        bins: parts of the range of each floating-point number, of observations and actions; see `StateKeys`.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Strehl and Littman 2008, An analysis of model-based interval estimation for Markov decision
    processes, of which this is the bonus. Departs from it: the learner is another.

    >>> import torch
    >>> from gymnasium import spaces
    >>> from athena_explore import Transition
    >>> bonus = Counts(spaces.Discrete(5), spaces.Discrete(2))
    >>> visited, ends = torch.tensor([[3], [3], [4], [3]]), torch.zeros(4, 1, dtype=torch.bool)
    >>> transition = Transition(visited, torch.zeros(4, 1), visited, ends, ends)
    >>> bonus.score(transition).flatten() ** -2
    tensor([1.0000, 2.0000, 1.0000, 3.0000])
    >>> bonus.update(transition)
    {'states': 2.0}
    """

    def __init__(
        self, observation_space: Space, action_space: Space, **options: Unpack[CountOptions]
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        self.states = StateKeys(observation_space, bins=options.get("bins"))

    def _state_keys(self, observations: Observation) -> Tensor:
        return self.states(observations)
