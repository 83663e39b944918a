"""What bonuses share that ask how often their episode has seen a state."""

from __future__ import annotations

from typing import ClassVar

from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._bonus import Bonus, Normalization
from athena_explore._episodic_counts import CountedEpisodes, EpisodicCounts
from athena_explore._state_keys import StateKeys
from athena_explore._transition import Transition


class EpisodicVisits(Bonus):
    """A bonus that counts the states arrived at within each episode.

    Subclasses implement ``_score``, with what `_visits` gives: the visits, and the ``after`` of `Scored`.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        bins: see `StateKeys`.

    >>> import torch
    >>> from gymnasium import spaces
    >>> from athena_explore import Scored
    >>> class OncePerEpisode(EpisodicVisits):
    ...     def _score(self, transition):
    ...         visits, after = self._visits(transition)
    ...         return Scored((visits == 1).float(), after)
    >>> bonus = OncePerEpisode(spaces.Discrete(5), spaces.Discrete(2))
    >>> visited, ends = torch.tensor([[3], [3], [4]]), torch.zeros(3, 1, dtype=torch.bool)
    >>> bonus.score(Transition(visited, torch.zeros(3, 1), visited, ends, ends)).flatten()
    tensor([1., 0., 1.])
    """

    episodic: ClassVar[bool] = True

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        bins: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        self.keys, self.visits = StateKeys(observation_space, bins=bins), EpisodicCounts()

    def _visits(self, transition: Transition) -> tuple[Tensor, CountedEpisodes]:
        return self.visits(self.keys(transition.next_obs), transition.done, transition.valid)

    def _commit(self, transition: Transition, after: CountedEpisodes | None) -> None:
        self.visits.commit(self._visits(transition)[1] if after is None else after)

    def _clear_episodes(self) -> None:
        self.visits.clear()
