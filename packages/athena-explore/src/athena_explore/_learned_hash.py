"""Counts of states that an autoencoder gives the same binary code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._bonus import check_training
from athena_explore._count_bonus import CountBonus, CountOptions
from athena_explore._encoder import EncoderFactory, encoder_factory, multilayer
from athena_explore._observation_normalizer import ObservationNormalizer
from athena_explore._sim_hash import GaussianSigns
from athena_explore._spaces import dense, dense_width, leaves, parts
from athena_explore._transition import Observation, Transition


class LearnedHash(CountBonus):
    r"""Visits of states with the same binary code, which an autoencoder learns.

    .. math:: b(s) = \frac{1}{\sqrt{n(\phi(s))}}, \qquad \phi(s) = \operatorname{sgn}(A \lfloor c(s) \rceil)

    and the other forms of `CountBonus`. The code :math:`c(s) \in (0, 1)^K`, a layer of sigmoids, is rounded,
    then projected to :math:`k` bits, so that a change of a few of its own seldom changes the key. The
    autoencoder descends

    .. math:: -\log p\big(s \mid c(s) + u\big) + \frac{\lambda}{K} \sum_i \min\{(1 - c_i)^2, c_i^2\},
        \qquad u_i \sim U(-a, a),

    where the noise makes codes tell states apart by numbers far from each other, and the last term lets those
    that are not used rest near 0 or 1. Codes change while it learns: visits under old codes stay, unseen.
    Until `learn` has seen a first rollout all rewards are 0.

    Memory: 32 to 64 bytes a distinct code, over all of training.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        of, form, beta, decay, bins: see `CountBonus`.
        width: :math:`K`, of the code.
        bits: :math:`k`, of the key.
        noise: :math:`a`; above 1/4, what the decoder is to tell apart must lie more than 1/2 apart.
        binary_weight: :math:`\lambda`.
        hidden: widths of the layers between, of encoder and decoder.
        encoder: makes a network of a space and a width, in place of `Encoder`.
        lr: of Adam, the autoencoder's optimizer.
        epochs, minibatches: passes over what `learn` is given, and gradient steps in each.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Tang et al. 2017, arXiv:1611.04717, section 2.3, eq. 3. Departs from it: :math:`p` is a normal
    distribution of variance 1 over the normalised observation, not a softmax over 64 levels of each pixel;
    the decoder is a perceptron; the autoencoder learns from the latest rollout, not from a memory of samples.

    >>> from gymnasium import spaces
    >>> bonus = LearnedHash(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), epochs=20)
    >>> obs, ends = torch.randn(64, 2, 3).sign(), torch.zeros(64, 2, dtype=torch.bool)
    >>> transition = Transition(obs, torch.zeros(64, 2), obs, ends, ends)
    >>> first, last = (bonus.update(transition)["reconstruction_error"] for _ in range(2))
    >>> last < first / 2
    True
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        width: int = 128,
        bits: int = 32,
        noise: float = 0.3,
        binary_weight: float = 10.0,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | None = None,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
        **options: Unpack[CountOptions],
    ) -> None:
        super().__init__(observation_space, action_space, **options)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        for name, value in (("noise", noise), ("binary_weight", binary_weight)):
            if value < 0:
                raise ValueError(f"`{name}` must be at least 0; got {value}. Take 0 for none.")
        self.noise, self.binary_weight = noise, binary_weight
        self.epochs, self.n_minibatches = epochs, minibatches
        self.plain = [part for _, part in leaves(observation_space)]
        self.observations = ObservationNormalizer(observation_space)
        make = encoder_factory(encoder, hidden=hidden)
        with self.own_random():
            self.encoder = make(observation_space, width)
            self.decoder = multilayer([width, *hidden, sum(dense_width(part) for part in self.plain)])
            self.signs = GaussianSigns(width, bits)
        trained = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=lr)

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.observations.ready

    def codes(self, observations: Observation) -> Tensor:
        """The code ``(B, width)`` of observations ``(B, *shape)``, before it is rounded, with gradients."""
        return self.encoder(self.observations(observations)).sigmoid()

    def losses(self, observations: Observation) -> tuple[Tensor, Tensor]:
        r"""Of each row, :math:`-\log p` up to a constant, and the mean distance of its code from 0 and 1."""
        values = self.observations(observations)
        pairs = zip(self.plain, parts(self.observation_space, values), strict=True)
        wanted = torch.cat([dense(part, value) for part, value in pairs], 1)
        codes = self.encoder(values).sigmoid()
        noise = (2 * torch.rand_like(codes) - 1) * self.noise
        errors = (self.decoder(codes + noise) - wanted).square().sum(1) / 2
        return errors, torch.minimum((1 - codes).square(), codes.square()).mean(1)

    def _state_keys(self, observations: Observation) -> Tensor:
        return self.signs(self.codes(observations).round())

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.observations.update(samples.next_obs)
        steps = []
        count = len(samples.terminated)
        for rows in self.minibatches(count, epochs=self.epochs, minibatches=self.n_minibatches):
            errors, distances = self.losses(samples[rows].next_obs)
            self.step((errors + self.binary_weight * distances).mean())
            steps.append(torch.stack([errors.mean(), distances.mean()]).detach())
        error, distance = torch.stack(steps).mean(0).tolist()
        return {"reconstruction_error": error, "distance_from_binary": distance}
