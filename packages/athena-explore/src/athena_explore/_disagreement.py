"""Disagreement: how much an ensemble of forward models differs about where an action leads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._actions import Actions
from athena_explore._bonus import Bonus, Normalization, Scored, check_training
from athena_explore._encoder import EncoderFactory, multilayer
from athena_explore._features import Features
from athena_explore._transition import Transition


class EnsemblePerceptron(nn.Module):
    """Perceptrons of the same widths, each with weights of its own, in one product of matrices a layer.

    Args:
        members: how many.
        widths: of the layers, as `multilayer` has them, which makes each member.

    Shape: ``(members, B, widths[0]) -> (members, B, widths[-1])``.

    >>> EnsemblePerceptron(5, [3, 4, 2])(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(self, members: int, widths: Sequence[int]) -> None:
        super().__init__()
        made = [
            [layer for layer in multilayer(widths) if isinstance(layer, nn.Linear)] for _ in range(members)
        ]
        layers = list(zip(*made, strict=True))
        self.weights = nn.ParameterList(torch.stack([one.weight.mT for one in layer]) for layer in layers)
        self.biases = nn.ParameterList(torch.stack([one.bias[None] for one in layer]) for layer in layers)

    def forward(self, inputs: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = torch.baddbmm(bias, inputs, weight)
            inputs = inputs.relu_() if index < last else inputs
        return inputs


class Disagreement(Bonus):
    r"""The variance of an ensemble's predictions, summed over features,

    .. math:: b(s_t, a_t) = \frac1K \sum_{k=1}^K \Bigl\lVert f_k(\phi(s_t), a_t)
        - \frac1K \sum_{j=1}^K f_j(\phi(s_t), a_t) \Bigr\rVert_2^2 .

    Each forward model is trained to predict :math:`\phi(s_{t+1})`, on minibatches of its own drawing. Where
    what follows is random, all learn its mean and come to agree, while the error of each stays. The features
    stay as they are: a random encoder's unless one is given.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        members: :math:`K`.
        width: features of an observation.
        hidden: widths of the layers between, of the encoder and of each model.
        encoder: see `Features`; neither a factory's module nor one that is given is trained here.
        normalize_observations: see `ObservationNormalizer`; the first rollout's bonus is then 0.
        lr: of Adam.
        epochs, minibatches: passes over what `learn` is given, and gradient steps in each.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Pathak et al. 2019, arXiv:1906.04161, eq. 1; both normalisers as in its authors' code. Departs
    from it: no; their code takes the mean over features, where the equation has the sum.

    >>> from gymnasium import spaces
    >>> bonus = Disagreement(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), normalize="none")
    >>> obs, action = torch.rand(64, 2, 2), torch.randint(2, (64, 2))
    >>> ends = torch.zeros(64, 2, dtype=torch.bool)
    >>> transition = Transition(obs, action, obs + action[..., None] - 0.5, ends, ends)
    >>> _ = bonus.update(transition)
    >>> first = bonus.score(transition).mean()
    >>> _ = [bonus.update(transition) for _ in range(50)]
    >>> bool(bonus.score(transition).mean() < first / 2)
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
        members: int = 5,
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | nn.Module | None = None,
        normalize_observations: bool = True,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        if members < 2:
            raise ValueError(f"`members` must be at least 2, to disagree; got {members}. Take 5.")
        self.members, self.epochs, self.n_minibatches = members, epochs, minibatches
        self.actions = Actions(action_space)
        with self.own_random():
            self.features = Features(
                observation_space,
                width,
                encoder=encoder,
                hidden=hidden,
                normalize=normalize_observations,
                trained=False,
            )
            self.ensemble = EnsemblePerceptron(members, [width + self.actions.width, *hidden, width])
        self.optimizer = torch.optim.Adam(self.ensemble.parameters(), lr=lr, fused=True)

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.features.ready

    def _score(self, transition: Transition) -> Scored:
        rows = transition.map(lambda tensor: tensor.flatten(0, 1))
        inputs = torch.cat([self.features(rows.obs), self.actions.dense(rows.action)], 1)
        predictions = self.ensemble(inputs.expand(self.members, -1, -1))
        spread = (predictions - predictions.mean(0)).square().mean(0).sum(1)
        return Scored(spread.view(transition.shape))

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.features.update(samples.next_obs)
        with torch.no_grad():
            phi_t, phi_tp1 = self.features.pair(samples)
        inputs, count = torch.cat([phi_t, self.actions.dense(samples.action)], 1), len(phi_t)
        losses = []
        draws = (
            self.minibatches(count, epochs=self.epochs, minibatches=self.n_minibatches)
            for _ in range(self.members)
        )
        for own in zip(*draws, strict=True):
            rows = torch.stack(own)
            errors = F.mse_loss(self.ensemble(inputs[rows]), phi_tp1[rows], reduction="none").sum(2) / 2
            self.step(errors.mean(1).sum())
            losses.append(errors.detach().mean())
        return {"forward_loss": float(torch.stack(losses).mean())}
