"""Elliptical episodic bonuses: how far a state lies outside of what its episode has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from athena_explore._actions import Actions
from athena_explore._bonus import Bonus, Normalization, Scored, check_training
from athena_explore._encoder import EncoderFactory
from athena_explore._features import Features
from athena_explore._transition import Transition
from athena_explore._transition_models import InverseModel, learn_actions


def elliptical(features: Tensor, done: Tensor, root: Tensor, *, ridge: float) -> tuple[Tensor, Tensor]:
    r"""Elliptical bonuses over time, and the square root of the inverse covariance after them.

    With :math:`C^{-1} = S S^\top` and :math:`v = S^\top \phi`, the bonus and Sherman's and Morrison's formula
    for :math:`(C + \phi \phi^\top)^{-1}` are

    .. math:: b = \phi^\top C^{-1} \phi = \lVert v \rVert_2^2, \qquad
        S \leftarrow S - \frac{S v\, v^\top}{1 + b + \sqrt{1 + b}} .

    Updated in this form, :math:`C^{-1}` stays symmetric and positive in float32 after any number of steps,
    whatever the scale of the features; updated itself, rounding ends that once :math:`\lVert\phi\rVert^2 /
    \lambda` is large. Where an episode ends, :math:`S` starts anew after the row, from
    :math:`\lambda^{-1/2} I`.

    Args:
        features: those of the observations in the order of time; a row of zeros changes nothing.
        done: the rows that end an episode.
        root: :math:`S` before the first row.
        ridge: :math:`\lambda`.

    Shape: ``(T, N, d), (T, N), (N, d, d) -> (T, N), (N, d, d)``.

    Source: Henaff et al. 2022, arXiv:2210.05805, algorithm 1; Potter's square root as in Kaminski, Bryson,
    Schmidt 1971, "Discrete square root filtering". Departs from it: no.

    >>> phi, done = torch.ones(2, 1, 1), torch.zeros(2, 1, dtype=torch.bool)
    >>> bonus, root = elliptical(phi, done, torch.ones(1, 1, 1), ridge=1.0)  # C is 1, 2 and 3
    >>> bonus.flatten()
    tensor([1.0000, 0.5000])
    """
    fresh = torch.eye(features.shape[2], device=features.device, dtype=features.dtype) * ridge**-0.5
    rewards = []
    root = root.clone()
    for phi, ends, any_ends in zip(features.unsqueeze(2), done, done.any(1).tolist(), strict=True):
        v = torch.bmm(phi, root)
        bonus = v.square().sum(2, keepdim=True)
        above = 1 + bonus
        root.addcmul_(torch.bmm(root, v.mT), v / (above + above.sqrt()), value=-1)
        rewards.append(bonus)
        if any_ends:
            root[ends] = fresh
    return torch.stack(rewards).view(done.shape) if rewards else features.new_zeros(done.shape), root


class E3B(Bonus):
    r"""Exploration via elliptical episodic bonuses,

    .. math:: b(s_{t+1}) = \phi(s_{t+1})^\top C_t^{-1} \phi(s_{t+1}), \qquad
        C_t = \lambda I + \sum_{i=1}^{t} \phi(s_i) \phi(s_i)^\top,

    of features that an inverse model keeps to what actions affect, as in `ICM`. The sum is over what the
    episode's steps have led to; its first observation, which no action led to, is not in it, and each
    environment has its own. The sum keeps features as they were at the time, while the encoder learns. A
    bonus is at most :math:`\lVert \phi \rVert_2^2 / \lambda`; the memory is ``N x width x width`` numbers.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        width: features of an observation.
        hidden: widths of the layers between, of the encoder and of the inverse model.
        encoder: see `Features`: a factory makes one that is trained here; a module, such as the policy's, is
            read as it is.
        ridge: :math:`\lambda`; the lower, the more a state counts that its episode has not seen.
        normalize_observations: see `ObservationNormalizer`; the first rollout's bonus is then 0.
        lr: of Adam.
        epochs, minibatches: passes over what `learn` is given, and gradient steps in each.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Henaff et al. 2022, arXiv:2210.05805, algorithm 1, which normalises nothing. Departs from it: the
    bonus of a transition is that of the state it leads to, also at the end of an episode; the update's form.

    >>> from gymnasium import spaces
    >>> bonus = E3B(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    >>> obs, action = torch.ones(3, 1, 2), torch.zeros(3, 1)
    >>> truncated = torch.tensor([[False], [True], [False]])
    >>> transition = Transition(obs, action, obs, torch.zeros_like(truncated), truncated)
    >>> first, second, anew = bonus.score(transition).flatten().tolist()
    >>> second < first, anew == first
    (True, True)
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
        width: int = 64,
        hidden: Sequence[int] = (64, 64),
        encoder: EncoderFactory | nn.Module | None = None,
        ridge: float = 0.1,
        normalize_observations: bool = False,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        if not ridge > 0:
            raise ValueError(f"`ridge` must be positive; got {ridge}. Take 0.1.")
        self.width, self.ridge = width, ridge
        self.epochs, self.n_minibatches = epochs, minibatches
        with self.own_random():
            self.features = Features(
                observation_space, width, encoder=encoder, hidden=hidden, normalize=normalize_observations
            )
            self.inverse_model = InverseModel(Actions(action_space), width, hidden=hidden)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.features.ready

    def _score(self, transition: Transition) -> Scored:
        environments = transition.shape[1]
        observations = tree_map(lambda part: part.flatten(0, 1), transition.next_obs)
        phi = self.features(observations).view(*transition.shape, self.width)
        phi = torch.where(transition.valid[..., None], phi, 0)
        root = self.memory.get("root")
        if root is None:
            fresh = torch.eye(self.width, device=self.device, dtype=phi.dtype) * self.ridge**-0.5
            root = fresh.expand(environments, -1, -1)
        rewards, root = elliptical(phi, transition.done, root, ridge=self.ridge)
        return Scored(rewards, root)

    def _commit(self, transition: Transition, after: Any) -> None:  # noqa: ARG002
        if after is not None:
            self.memory["root"] = after

    def _clear_episodes(self) -> None:
        self.memory.clear()

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.features.update(samples.next_obs)
        batches = self.minibatches(
            len(samples.terminated), epochs=self.epochs, minibatches=self.n_minibatches
        )
        inverse_loss = learn_actions(
            self, self.features, self.inverse_model, (samples[rows] for rows in batches)
        )
        return {"inverse_loss": inverse_loss}
