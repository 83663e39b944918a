"""Meta-World's observations, stretched to what networks are made for."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor

CENTRE = 0.0, 0.6, 0.2  # of the hand's workspace, in metres
POSITIONS = 0, 4, 18, 22, 36  # hand and first object, now and a step before; goal


class MetaWorldFeatures(FlattenExtractor):
    r"""A features extractor of Stable-Baselines3: positions :math:`p` become :math:`(p - c) / 0.1`.

    Positions of Meta-World vary by some centimetres around the workspace's centre :math:`c`, where rewards
    change within five; as they are, networks take long to tell them apart. All else stays.

    Shape: ``(batch, 39 + n) -> (batch, 39 + n)``.

    >>> features = MetaWorldFeatures(spaces.Box(-1, 1, (39,)))
    >>> features(torch.tensor([[0.1, 0.6, 0.2] + 36 * [0.0]]))[0, :4]
    tensor([1., 0., 0., 0.])
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        offset, scale = torch.zeros(self.features_dim), torch.ones(self.features_dim)
        for start in POSITIONS:
            offset[start : start + 3] = torch.tensor(CENTRE)
            scale[start : start + 3] = 10.0
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        return (super().forward(observations) - self.offset) * self.scale
