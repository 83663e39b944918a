"""Features of observations: an encoder of one's own, or someone else's, that is only read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from athena_explore._encoder import EncoderFactory, encoder_factory
from athena_explore._observation_normalizer import ObservationNormalizer
from athena_explore._pieces import pieces
from athena_explore._spaces import parts
from athena_explore._transition import Observation, Transition


class Features(nn.Module):
    r"""Features :math:`\phi(s)`, of observations normalised first if that is asked for.

    Args:
        space: of one observation.
        width: of the features.
        encoder: a factory, called with ``space`` and ``width``, whose module belongs to this one and is
            trained, saved and moved with it; or a module that belongs to someone else (the policy), which is
            called without gradients, and neither trained, saved, moved nor switched between its modes here.
            Both are given observations ``(B, *shape)`` and must treat each row by itself; `Encoder` if None.
        hidden: widths of the layers between, of `Encoder`.
        normalize: whether an `ObservationNormalizer` comes first. Its statistics come from `update`.
        trained: False freezes a module that belongs to this one.

    Shape: ``(B, *shape) -> (B, width)``.

    Raises ValueError for features of another width.

    >>> from gymnasium import spaces
    >>> space = spaces.Box(-1, 1, (3,))
    >>> theirs = torch.nn.Linear(3, 8)
    >>> features = Features(space, 8, encoder=theirs)
    >>> features(torch.zeros(2, 3)).requires_grad, len(list(features.parameters()))
    (False, 0)
    """

    def __init__(
        self,
        space: Space,
        width: int,
        *,
        encoder: EncoderFactory | nn.Module | None = None,
        hidden: Sequence[int] = (64, 64),
        normalize: bool = False,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.space, self.width = space, width
        self.observations = ObservationNormalizer(space) if normalize else None
        self._theirs: tuple[nn.Module, ...] = ()  # a tuple, since an attribute would be registered
        if isinstance(encoder, nn.Module):
            self._theirs = (encoder,)
        else:
            self.encoder = encoder_factory(encoder, hidden=hidden)(space, width)
            if not trained:
                self.encoder.requires_grad_(False)

    @property
    def ready(self) -> bool:
        """Whether there are statistics of observations, or none are needed."""
        return self.observations is None or self.observations.ready

    def update(self, observations: Observation) -> None:
        """Take observations ``(B, *shape)`` into the statistics."""
        if self.observations is not None:
            self.observations.update(observations)

    def forward(self, observations: Observation) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._theirs):
            return torch.cat([self._encoded(piece) for piece in pieces(observations)])

    def _encoded(self, observations: Observation) -> Tensor:
        if self.observations is not None:
            observations = self.observations(observations)
        return self._checked((self._theirs[0] if self._theirs else self.encoder)(observations))

    def pair(self, samples: Transition) -> tuple[Tensor, Tensor]:
        r""":math:`\phi(s_t)` and :math:`\phi(s_{t+1})` of samples ``(B,)``, in one pass."""
        both = tree_map(lambda *one: torch.cat(one), samples.obs, samples.next_obs)
        phi_t, phi_tp1 = self(both).chunk(2)
        return phi_t, phi_tp1

    def rollout(self, transition: Transition) -> tuple[Tensor, Tensor]:
        r""":math:`\phi(s_t)` and :math:`\phi(s_{t+1})` of transitions ``(T, N)``, each ``(T, N, width)``.

        Where :math:`s_t` is equal to what the row before led to, it is not encoded again.
        """
        steps, environments = transition.shape
        same = self._repeats(transition)
        only_first = tree_map(lambda obs: obs[~same], transition.obs)
        encoded = self(
            tree_map(lambda a, b: torch.cat([a, b.flatten(0, 1)]), only_first, transition.next_obs)
        )
        phi_tp1 = encoded[len(encoded) - steps * environments :].view(steps, environments, self.width)
        phi_t = torch.cat([phi_tp1[:1], phi_tp1[:-1]])
        phi_t[~same] = encoded[: len(encoded) - steps * environments]
        return phi_t, phi_tp1

    def _checked(self, features: Tensor) -> Tensor:
        if features.dim() != 2 or features.shape[1] != self.width:
            raise ValueError(
                f"`encoder` must give features of the shape (B, {self.width}); got {tuple(features.shape)}. "
                "Pass their number as `width`."
            )
        return features

    def _repeats(self, transition: Transition) -> Tensor:
        """Whether the observation ``(T, N)`` is what the row before led to, bit for bit."""
        same = torch.ones_like(transition.terminated)
        same[:1] = False
        both = (parts(self.space, observation) for observation in (transition.obs, transition.next_obs))
        for obs, next_obs in zip(*both, strict=True):
            equal = (obs[1:] == next_obs[:-1]).unsqueeze(-1).flatten(2)
            if equal.numel():  # the smallest byte, in a tenth of the time of `all`
                same[1:] &= equal.view(torch.uint8).amin(2).bool()
        return same
