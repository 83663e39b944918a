"""The intrinsic curiosity module: the error of predicting, in features that tell actions, where they lead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from athena_explore._actions import Actions
from athena_explore._bonus import Bonus, Normalization, Scored, check_training
from athena_explore._encoder import EncoderFactory
from athena_explore._features import Features
from athena_explore._transition import Transition
from athena_explore._transition_models import ForwardModel, InverseModel


class ICM(Bonus):
    r"""The intrinsic curiosity module,

    .. math:: b(s_t, a_t, s_{t+1}) = \frac{\eta}{2} \lVert f(\phi(s_t), a_t) - \phi(s_{t+1}) \rVert_2^2,

    where the forward model :math:`f`, the inverse model :math:`g` and the encoder :math:`\phi` minimise

    .. math::
        (1 - \beta)\, L_I\bigl(g(\phi(s_t), \phi(s_{t+1})), a_t\bigr)
        + \beta\, \tfrac12 \lVert f(\phi(s_t), a_t) - \phi(s_{t+1}) \rVert_2^2 .

    :math:`L_I` is the negative log-likelihood of the action, see `Actions`. The inverse model keeps the
    features to what actions affect. The forward error alone is smallest for features that are all alike, so
    it does not train the encoder unless ``detach`` is False. ``s_{t+1}`` is the true next observation at the
    end of an episode too. All steps are those of this module's own optimizer: none of its gradients reaches
    a policy.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        width: features of an observation.
        hidden: widths of the layers between, of all three networks.
        encoder: see `Features`: a factory makes one that is trained here; a module, such as the policy's, is
            read as it is, so that the losses train the two models alone.
        detach: whether the forward error leaves the encoder to the inverse model.
        beta: :math:`\beta`, the weight of the forward error.
        eta: :math:`\eta`, the scale of the bonus.
        normalize_observations: see `ObservationNormalizer`; the first rollout's bonus is then 0.
        lr: of Adam.
        epochs, minibatches: passes over what `learn` is given, and gradient steps in each.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Pathak et al. 2017, arXiv:1705.05363, eqs. 2 to 7. It normalises neither rewards nor observations;
    ``normalize="return"`` and ``normalize_observations`` are as Burda et al. 2018, arXiv:1808.04355. Departs
    from it: widths and ReLUs; ``detach``, since its authors' code lets both errors train the encoder.

    >>> from gymnasium import spaces
    >>> bonus = ICM(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    >>> obs, action = torch.rand(64, 2, 2), torch.randint(2, (64, 2))
    >>> ends = torch.zeros(64, 2, dtype=torch.bool)
    >>> transition = Transition(obs, action, obs + action[..., None] - 0.5, ends, ends)
    >>> first = bonus.update(transition)
    >>> last = [bonus.update(transition) for _ in range(50)][-1]
    >>> {name: last[name] < first[name] / 2 for name in last}
    {'inverse_loss': True, 'forward_loss': True}
    """

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
        detach: bool = True,
        beta: float = 0.2,
        eta: float = 1.0,
        normalize_observations: bool = False,
        lr: float = 1e-3,
        epochs: int = 1,
        minibatches: int = 4,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        check_training(lr=lr, epochs=epochs, minibatches=minibatches)
        if not 0 < beta < 1:
            raise ValueError(
                f"`beta` must lie in (0, 1), for both models to be trained; got {beta}. Take 0.2."
            )
        if not eta > 0:
            raise ValueError(f"`eta` must be positive; got {eta}. Take 1.")
        self.detach, self.beta, self.eta = detach, beta, eta
        self.epochs, self.n_minibatches = epochs, minibatches
        actions = Actions(action_space)
        with self.own_random():
            self.features = Features(
                observation_space, width, encoder=encoder, hidden=hidden, normalize=normalize_observations
            )
            self.inverse_model = InverseModel(actions, width, hidden=hidden)
            self.forward_model = ForwardModel(actions, width, hidden=hidden)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.features.ready

    def losses(self, samples: Transition) -> tuple[Tensor, Tensor]:
        """The inverse and the forward loss of samples ``(B,)``, each a mean, with gradients."""
        phi_t, phi_tp1 = self.features.pair(samples)
        inverse = self.inverse_model.loss(phi_t, phi_tp1, samples.action)
        if self.detach:
            phi_t, phi_tp1 = phi_t.detach(), phi_tp1.detach()
        return inverse.mean(), self.forward_model.error(phi_t, samples.action, phi_tp1).mean()

    def _score(self, transition: Transition) -> Scored:
        phi_t, phi_tp1 = self.features.rollout(transition)
        action = tree_map(lambda part: part.flatten(0, 1), transition.action)
        errors = self.forward_model.error(phi_t.flatten(0, 1), action, phi_tp1.flatten(0, 1))
        return Scored(self.eta * errors.view(transition.shape))

    def _learn(self, samples: Transition) -> dict[str, float]:
        self.features.update(samples.next_obs)
        found = []
        for rows in self.minibatches(
            len(samples.terminated), epochs=self.epochs, minibatches=self.n_minibatches
        ):
            inverse, forward = self.losses(samples[rows])
            self.step((1 - self.beta) * inverse + self.beta * forward)
            found.append(torch.stack([inverse.detach(), forward.detach()]))
        inverse_loss, forward_loss = torch.stack(found).mean(0).tolist()
        return {"inverse_loss": inverse_loss, "forward_loss": forward_loss}
