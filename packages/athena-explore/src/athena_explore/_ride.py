"""RIDE: a bonus for changing what actions can affect, less with each visit in the episode."""

from __future__ import annotations

from collections.abc import Sequence

from gymnasium.spaces import Space
from torch import nn

from athena_explore._bonus import Normalization, Scored
from athena_explore._encoder import EncoderFactory
from athena_explore._episodic_visits import EpisodicVisits
from athena_explore._icm import ICM
from athena_explore._transition import Transition


class RIDE(EpisodicVisits):
    r"""Rewarding impact-driven exploration, the change of the features over the visits of the new state,

    .. math:: b(s_t, s_{t+1}) = \frac{\lVert \phi(s_{t+1}) - \phi(s_t) \rVert_2}{\sqrt{N_{ep}(s_{t+1})}} .

    The features :math:`\phi` are trained by an inverse and a forward model, both of which shape them (`ICM`
    with ``detach=False``). :math:`N_{ep}` are the visits within the episode, this one included; the state
    that an episode starts from is counted once it is visited again.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        bins: see `StateKeys`: how coarsely states are counted; of none, every float counts.
        width, hidden, encoder, beta, normalize_observations, lr, epochs, minibatches: see `ICM`.

    Shape: rewards are ``(T, N)``. Memory: see `EpisodicCounts`, for the episodes under way.

    Raises ValueError for options outside their range.

    Source: Raileanu and Rocktaschel 2020, arXiv:2002.12292, section 4. Departs from it: the weights of the
    two losses are :math:`1 - \beta` and :math:`\beta`, as in `ICM`; the state that an episode starts from is
    no visit.

    >>> import torch
    >>> from gymnasium import spaces
    >>> bonus = RIDE(spaces.Discrete(9), spaces.Discrete(2))
    >>> obs, ends = torch.tensor([[0], [3], [0]]), torch.zeros(3, 1, dtype=torch.bool)
    >>> rewards = bonus.score(Transition(obs, torch.zeros(3, 1), torch.tensor([[3], [0], [3]]), ends, ends))
    >>> round(float(rewards[0] / rewards[2]), 4)  # the second visit of 3
    1.4142
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        bins: int | None = None,
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | nn.Module | None = None,
        beta: float = 0.2,
        normalize_observations: bool = False,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
    ) -> None:
        super().__init__(
            observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma, bins=bins
        )
        self.icm = ICM(
            observation_space,
            action_space,
            seed=seed,
            width=width,
            hidden=hidden,
            encoder=encoder,
            detach=False,
            beta=beta,
            normalize_observations=normalize_observations,
            lr=lr,
            epochs=epochs,
            minibatches=minibatches,
        )

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.icm.ready

    def _score(self, transition: Transition) -> Scored:
        phi_t, phi_tp1 = self.icm.features.rollout(transition)
        visits, after = self._visits(transition)
        return Scored((phi_tp1 - phi_t).norm(dim=2) / visits.sqrt(), after)

    def _learn(self, samples: Transition) -> dict[str, float]:
        return self.icm.learn(samples)
