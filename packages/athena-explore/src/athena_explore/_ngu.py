"""Never give up: how unlike its episode a state is, times how unlike all that was seen before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._actions import Actions
from athena_explore._bonus import Bonus, Normalization, Scored, check_training
from athena_explore._encoder import EncoderFactory
from athena_explore._features import Features
from athena_explore._moments import RunningMoments
from athena_explore._ngu_memory import EpisodicSimilarity, Remembered, episodic_rewards
from athena_explore._rnd import RND
from athena_explore._transition import Observation, Transition
from athena_explore._transition_models import InverseModel, learn_actions


class NGU(Bonus):
    r"""Never give up: an episodic reward times a life-long one that is kept in a range,

    .. math::
        b(s_{t+1}) = r_{ep}(s_{t+1}) \cdot \min\bigl(\max(\alpha(s_{t+1}), 1), L\bigr), \qquad
        \alpha(s) = 1 + \frac{e(s) - \mu_e}{\sigma_e} .

    :math:`r_{ep}` falls with the similarity of a state to its nearest neighbours among the states of its
    episode before it, the first one among them (`EpisodicSimilarity`), in features that an inverse model
    trains to tell actions. :math:`e` is the error of random network distillation (`RND`), :math:`\mu_e` and
    :math:`\sigma_e` its mean and deviation over all that `learn` has seen; until they are known the factor
    is 1.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        similarity: the constants of :math:`r_{ep}`, and the capacity of an episode's memory.
        largest: :math:`L`.
        width, hidden, encoder, normalize_observations: of the features, see `Features`.
        rnd_width: features of the random network.
        lr, epochs, minibatches: of the inverse model with the features, and again of the random network.

    Shape: rewards are ``(T, N)``. Memory: 4 bytes times ``width`` for each state of an episode under way, in
    each environment, as many as the longest has, at most ``similarity.capacity``; of 30,000 and ``width`` 32,
    3.84 MB an environment. Scoring takes about 64 MiB beside it.

    Raises ValueError for options outside their range.

    Source: Badia et al. 2020, arXiv:2002.06038, section 2. Departs from it: widths; each environment has a
    running mean of distances of its own, as each of the paper's actors.

    >>> from gymnasium import spaces
    >>> bonus = NGU(spaces.Box(-9, 9, (1,)), spaces.Discrete(2))
    >>> line = torch.arange(5.0).view(5, 1, 1)
    >>> there_and_back = torch.cat([line, line[:-1].flip(0)])
    >>> ends = torch.zeros(8, 1, dtype=torch.bool)
    >>> walk = Transition(there_and_back[:-1], torch.zeros(8, 1), there_and_back[1:], ends, ends)
    >>> out, back = bonus.score(walk).chunk(2)
    >>> bool(out.min() > back.max())
    True
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
        similarity: EpisodicSimilarity | None = None,
        largest: float = 5.0,
        width: int = 32,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | nn.Module | None = None,
        normalize_observations: bool = False,
        rnd_width: int = 64,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        if not 1 <= largest < math.inf:
            raise ValueError(f"`largest` must be a finite number of at least 1; got {largest}. Take 5.")
        self.similarity, self.largest = similarity or EpisodicSimilarity(), largest
        self.epochs, self.n_minibatches = epochs, minibatches
        with self.own_random():
            self.features = Features(
                observation_space, width, encoder=encoder, hidden=hidden, normalize=normalize_observations
            )
            self.inverse_model = InverseModel(Actions(action_space), width, hidden=hidden)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        self.rnd = RND(
            observation_space,
            action_space,
            seed=int(torch.randint(2**31, (), generator=self.generator, device="cpu")),
            normalize="none",
            width=rnd_width,
            hidden=hidden,
            lr=lr,
            epochs=epochs,
            minibatches=minibatches,
        )
        self.errors = RunningMoments(())

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.features.ready

    @torch.no_grad()
    def life_long(self, observations: Observation) -> Tensor:
        r"""The factor :math:`\min(\max(\alpha, 1), L)` of observations ``(B, *shape)``."""
        _, mean, variance = self.errors.value
        known = variance > 0
        above = (self.rnd.errors_of_many(observations) - mean) / torch.where(known, variance, 1).sqrt()
        return torch.where(known, 1 + above, 1).clamp(1, self.largest)

    def _score(self, transition: Transition) -> Scored:
        episodic, after = self._episodic(transition)
        rows = transition.map(lambda tensor: tensor.flatten(0, 1))
        return Scored(episodic * self.life_long(rows.next_obs).view(transition.shape), after)

    def _commit(self, transition: Transition, after: Remembered | None) -> None:
        after = self._episodic(transition)[1] if after is None else after
        for name, tensor in after._asdict().items():
            self.memory[name] = tensor

    def _learn(self, samples: Transition) -> dict[str, float]:
        if self.rnd.ready:  # as they were when they were scored
            self.errors.update(self.rnd.errors_of_many(samples.next_obs))
        metrics = self.rnd.learn(samples)
        self.features.update(samples.next_obs)
        batches = self.minibatches(
            len(samples.terminated), epochs=self.epochs, minibatches=self.n_minibatches
        )
        inverse_loss = learn_actions(
            self, self.features, self.inverse_model, (samples[rows] for rows in batches)
        )
        return {**metrics, "inverse_loss": inverse_loss}

    def _clear_episodes(self) -> None:
        self.memory.clear()

    def _episodic(self, transition: Transition) -> tuple[Tensor, Remembered]:
        obs, next_obs = self.features.rollout(transition)
        environments = transition.shape[1]
        memory = Remembered.nothing(environments, self.features.width, self.device)
        if "features" in self.memory:
            memory = Remembered(**{name: self.memory[name] for name in Remembered._fields})
        return episodic_rewards(
            obs.float(),
            next_obs.float(),
            done=transition.done,
            valid=transition.valid,
            memory=memory,
            similarity=self.similarity,
        )
