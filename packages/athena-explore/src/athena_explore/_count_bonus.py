"""What bonuses that count states share: visits in their order, the form of the bonus, its decay."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from gymnasium.spaces import Space
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_explore._bonus import Bonus, Normalization, Scored
from athena_explore._clock import Clock
from athena_explore._count_table import CountTable, Found, occurrences
from athena_explore._state_keys import StateKeys, mix
from athena_explore._transition import Observation, Transition

Counted = Literal["state", "state-action"]
Form = Literal["sqrt", "ucb", "mbie-eb"]
_ACTION_MIX = -7070675565921424023  # 0x9DDFEA08EB382D69, of CityHash


class _Visits(NamedTuple):
    keys: Tensor
    amounts: Tensor
    found: Found
    passed: Tensor


class CountOptions(TypedDict, total=False):
    """The options of `CountBonus`, which its subclasses hand on."""

    seed: int
    normalize: Normalization
    gamma: float
    of: Counted
    form: Form
    beta: float
    decay: float
    bins: int | None


class CountBonus(Bonus):
    r"""A bonus that falls with the visits of a state, or of an action in a state, over all of training.

    .. math:: b = (1 - \kappa)^{t - 1} \cdot \begin{cases} 1 / \sqrt{n} & \text{"sqrt"} \\
        \sqrt{2 \log t / n} & \text{"ucb"} \\ \beta / \sqrt{n} & \text{"mbie-eb"} \end{cases}

    where :math:`n` is the number of visits with the one that is rewarded, and :math:`t` that of transitions.
    With ``of="state"`` the state is the one arrived at, :math:`s_{t+1}`; with "state-action" it is the pair
    :math:`(s_t, a_t)`. Transitions count in the order of time, then of environments. `score_samples` looks up
    present visits, adds none, and takes states without any as visited once.

    Subclasses implement `_state_keys`: which states are one.

    Memory: that of `CountTable`, 32 to 64 bytes a distinct state.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        of: what is counted.
        form: of the bonus.
        beta: :math:`\beta`, of the form "mbie-eb" alone.
        decay: :math:`\kappa`, what the bonus loses with each transition.
        bins: of each floating-point number of actions; see `StateKeys`.

    Raises ValueError for options outside their range.

    Source: the forms of Auer et al. 2002 (UCB1) and of Strehl and Littman 2008 (MBIE-EB). Departs from them:
    the former's time is that of all states, not of the one the action is chosen in.

    >>> from gymnasium import spaces
    >>> class SameColumn(CountBonus):
    ...     def _state_keys(self, observations):
    ...         return observations[..., 0].long()
    >>> bonus = SameColumn(spaces.Box(0, 9, (2,)), spaces.Discrete(2))
    >>> obs, ends = torch.tensor([[[3.0, 1.0]], [[3.0, 2.0]]]), torch.zeros(2, 1, dtype=torch.bool)
    >>> bonus.score(Transition(obs, torch.zeros(2, 1), obs, ends, ends))[1]  # the second visit
    tensor([0.7071])
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        of: Counted = "state",
        form: Form = "sqrt",
        beta: float = 1.0,
        decay: float = 0.0,
        bins: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        if of not in ("state", "state-action"):
            raise ValueError(f'`of` must be "state" or "state-action"; got {of!r}. Take "state".')
        if form not in ("sqrt", "ucb", "mbie-eb"):
            raise ValueError(f'`form` must be "sqrt", "ucb" or "mbie-eb"; got {form!r}. Take "sqrt".')
        if not 0 < beta < float("inf"):
            raise ValueError(f"`beta` must be a positive number; got {beta}. Take 0.05.")
        self.of, self.form, self.beta = of, form, beta
        self.actions = StateKeys(action_space, bins=bins)
        self.table = CountTable()
        self.clock = Clock(decay=decay)

    @abstractmethod
    def _state_keys(self, observations: Observation) -> Tensor:
        """Keys ``(B,)`` in int64 of observations ``(B, *shape)``, equal where the states are one."""

    def visits(self, transition: Transition) -> Tensor:
        """How often what each row visits was visited before, of ``transition``'s own shape."""
        keys = self._keys(transition)
        return self.table.look_up(keys.flatten()).view(keys.shape)

    def _keys(self, transition: Transition) -> Tensor:
        shape = transition.shape
        visited = transition.next_obs if self.of == "state" else transition.obs
        rows = tree_map(lambda tensor: tensor.flatten(0, len(shape) - 1), visited)
        states = self._state_keys(rows).view(shape)
        if self.of == "state":
            return states
        return mix(states + mix(self.actions(transition.action), _ACTION_MIX), _ACTION_MIX)

    def _score(self, transition: Transition) -> Scored:
        valid, keys = transition.valid, self._keys(transition)
        times, passed = self.clock(valid)
        visited = keys[valid]
        nth, last = occurrences(visited)
        found = self.table.find(visited)
        visits = torch.ones_like(keys).masked_scatter(valid, nth + found.counts)
        rows = last.nonzero()[:, 0]
        return Scored(self._bonus(visits, times), _Visits(visited[rows], nth[rows], found[rows], passed))

    def _score_samples(self, samples: Transition) -> Tensor:
        return self._bonus(self.visits(samples).clamp(min=1), self.clock.passed)

    def _commit(self, transition: Transition, after: Any) -> None:  # noqa: ARG002  `after` tells all
        if after is None:  # scored before the bonus was ready
            return
        self.table.add(after.keys, after.amounts, found=after.found)
        self.clock.commit(after.passed)

    def learn(self, transition: Transition) -> dict[str, float]:
        """Train the network, of a bonus that has one; the number of distinct states, and its metrics."""
        metrics = super().learn(transition) if self.optimizer is not None else {}
        return {**metrics, "states": float(len(self.table))}

    def _saved_with(self) -> str:
        return f"{super()._saved_with()}, of {self.of}, bins {self.actions.bins}"

    def _bonus(self, visits: Tensor, times: Tensor) -> Tensor:
        bonus = visits.float().rsqrt()
        if self.form == "ucb":
            bonus = bonus * (2 * times.clamp(min=1).log()).sqrt()
        elif self.form == "mbie-eb":
            bonus = bonus * self.beta
        return bonus * self.clock.factor(times) if self.clock.decay else bonus
