"""Random network distillation: the error of predicting a network that is random and stays so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium.spaces import Space
from torch import Tensor
from torch.utils._pytree import tree_map

from athena_explore._bonus import Bonus, Normalization, Scored, check_training
from athena_explore._encoder import EncoderFactory, encoder_factory
from athena_explore._observation_normalizer import ObservationNormalizer
from athena_explore._pieces import pieces
from athena_explore._transition import Observation, Transition


class RND(Bonus):
    r"""Random network distillation,

    .. math:: b(s_{t+1}) = \frac{1}{d} \lVert \hat f_\theta(\bar s_{t+1}) - f(\bar s_{t+1}) \rVert_2^2,

    with a random target :math:`f` that stays as it is, and a predictor trained on the states that are scored.
    Observations are normalised and clipped for both networks. Until `learn` has seen a first rollout, or one
    handed over for the purpose, there are no statistics, and all rewards are 0.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        width: :math:`d`, features of the target.
        hidden: widths of the layers between, of both networks.
        encoder: makes a network of a space and a width, in place of `Encoder`; called for each of the two.
        lr: of Adam, the predictor's optimizer.
        epochs, minibatches: passes over what `learn` is given, and gradient steps in each.
        update_proportion: the share of samples that the predictor is trained on, drawn anew each step.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Burda et al. 2018, arXiv:1810.12894, section 2. Departs from it: the mean over features, not the
    sum, as in its authors' code; observation statistics start from the first rollout, not from random steps
    (`warm_up` takes those); both networks are alike, where its authors' predictor has two more layers; of
    stacked frames all are predicted unless ``encoder`` is `LatestFrame`.

    >>> from gymnasium import spaces
    >>> bonus = RND(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), normalize="none")
    >>> obs, ends = torch.randn(64, 2, 3).clamp(-1, 1), torch.zeros(64, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(64, 2), obs, ends, ends)
    >>> float(bonus.score(transition).sum())
    0.0
    >>> first = bonus.update(transition)["prediction_error"]
    >>> last = [bonus.update(transition)["prediction_error"] for _ in range(20)][-1]
    >>> last < first / 2
    True
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "return",
        gamma: float = 0.99,
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | None = None,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
        update_proportion: float = 1.0,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        if not 0 < update_proportion <= 1:
            raise ValueError(f"`update_proportion` must lie in (0, 1]; got {update_proportion}. Take 1.")
        self.epochs, self.n_minibatches, self.update_proportion = epochs, minibatches, update_proportion
        make = encoder_factory(encoder, hidden=hidden)
        self.observations = ObservationNormalizer(observation_space)
        with self.own_random():
            self.target = make(observation_space, width).requires_grad_(False)
            self.predictor = make(observation_space, width)
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=lr, fused=True)

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.observations.ready

    def errors(self, observations: Observation) -> Tensor:
        """The prediction error of observations ``(B, *shape)``, with gradients to the predictor."""
        inputs = self.observations(observations)
        with torch.no_grad():
            wanted = self.target(inputs)
        return F.mse_loss(self.predictor(inputs), wanted, reduction="none").mean(1)

    def _score(self, transition: Transition) -> Scored:
        steps, environments = transition.shape
        rows = tree_map(lambda tensor: tensor.flatten(0, 1), transition.next_obs)
        return Scored(self.errors_of_many(rows).view(steps, environments))

    def _score_samples(self, samples: Transition) -> Tensor:
        return self.errors_of_many(samples.next_obs)

    @torch.no_grad()
    def errors_of_many(self, observations: Observation) -> Tensor:
        """`errors` of a large batch, without gradients and in pieces, which bounds the memory it takes."""
        return torch.cat([self.errors(piece) for piece in pieces(observations)])

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.observations.update(samples.next_obs)
        losses, count = [], len(samples.terminated)
        wanted = self._wanted(samples) if self.epochs > 1 else None
        for rows in self.minibatches(count, epochs=self.epochs, minibatches=self.n_minibatches):
            inputs = self._inputs(samples, rows)
            targets = self._features(inputs) if wanted is None else wanted[rows]
            loss = self._masked_mean(F.mse_loss(self.predictor(inputs), targets, reduction="none").mean(1))
            self.step(loss)
            losses.append(loss.detach())
        return {"prediction_error": float(torch.stack(losses).mean())}

    def _inputs(self, samples: Transition, rows: Tensor) -> Any:
        return self.observations(tree_map(lambda tensor: tensor.index_select(0, rows), samples.next_obs))

    def _wanted(self, samples: Transition) -> Tensor:
        """The target's features, the same in every epoch; those of one are taken with its minibatches."""
        return torch.cat([self._features(self.observations(piece)) for piece in pieces(samples.next_obs)])

    @torch.no_grad()
    def _features(self, inputs: Any) -> Tensor:
        return torch.cat([self.target(piece) for piece in pieces(inputs)])

    def _masked_mean(self, errors: Tensor) -> Tensor:
        if self.update_proportion == 1:
            return errors.mean()
        drawn = torch.rand(len(errors), generator=self.generator, device="cpu").to(errors.device)
        mask = (drawn < self.update_proportion).to(errors.dtype)
        return (errors * mask).sum() / mask.sum().clamp(min=1)
