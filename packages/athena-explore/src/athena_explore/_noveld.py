"""NovelD: a bonus for stepping out of what is known, once an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from gymnasium.spaces import Space
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_explore._bonus import Normalization, Scored
from athena_explore._encoder import EncoderFactory
from athena_explore._episodic_visits import EpisodicVisits
from athena_explore._rnd import RND
from athena_explore._transition import Observation, Transition


class NovelD(EpisodicVisits):
    r"""The gain in novelty where the episode sees a state for the first time,

    .. math::
        b(s_t, s_{t+1}) = \max\bigl(n(s_{t+1}) - \alpha\, n(s_t), 0\bigr) \cdot [N_{ep}(s_{t+1}) = 1], \qquad
        n(s) = \lVert \hat f_\theta(\bar s) - f(\bar s) \rVert_2,

    with the novelty :math:`n` of random network distillation (`RND`), and the visits :math:`N_{ep}` within
    the episode, this one included; the state that an episode starts from is counted once it is visited
    again. Until `learn` has seen a first rollout all rewards are 0, see `RND`; visits are counted in it.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        alpha: :math:`\alpha`; 0 rewards novelty, 1 its gain alone.
        bins: see `StateKeys`: how coarsely states are counted; of none, every float counts.
        width, hidden, encoder, lr, epochs, minibatches, update_proportion: see `RND`.

    Shape: rewards are ``(T, N)``. Memory: see `EpisodicCounts`, for the episodes under way.

    Raises ValueError for options outside their range.

    Source: Zhang et al. 2021, "NovelD: A simple yet effective exploration criterion", NeurIPS 2021. Departs
    from it: observations are normalised as in `RND`; the state that an episode starts from is rewarded when
    it is first come back to.

    >>> from gymnasium import spaces
    >>> bonus = NovelD(spaces.Discrete(9), spaces.Discrete(2))
    >>> obs, ends = torch.tensor([[0], [3], [0]]), torch.zeros(3, 1, dtype=torch.bool)
    >>> rewards = bonus.score(Transition(obs, torch.zeros(3, 1), torch.tensor([[3], [0], [3]]), ends, ends))
    >>> float(rewards[2])  # the second visit of 3
    0.0
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        alpha: float = 0.5,
        bins: int | None = None,
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | None = None,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
        update_proportion: float = 1.0,
    ) -> None:
        super().__init__(
            observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma, bins=bins
        )
        if not 0 <= alpha < math.inf:
            raise ValueError(f"`alpha` must be a finite number of at least 0; got {alpha}. Take 0.5.")
        self.alpha, self.width = alpha, width
        self.rnd = RND(
            observation_space,
            action_space,
            seed=seed,
            normalize="none",
            width=width,
            hidden=hidden,
            encoder=encoder,
            lr=lr,
            epochs=epochs,
            minibatches=minibatches,
            update_proportion=update_proportion,
        )

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rnd.ready

    def _score(self, transition: Transition) -> Scored:
        both = tree_map(lambda *one: torch.cat(one).flatten(0, 1), transition.obs, transition.next_obs)
        novelty_t, novelty_tp1 = self._novelty(both).view(2, *transition.shape)
        visits, after = self._visits(transition)
        gain = (novelty_tp1 - self.alpha * novelty_t).clamp(min=0)
        return Scored(torch.where(visits == 1, gain, 0), after)

    def _learn(self, samples: Transition) -> dict[str, float]:
        return self.rnd.learn(samples)

    def _novelty(self, observations: Observation) -> Tensor:
        return (self.width * self.rnd.errors_of_many(observations)).sqrt()
