"""Actions as inputs of networks, and how likely a network's outputs make them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._spaces import dense, dense_width, leaves, parts


class Actions:
    r"""The actions of a space for networks: dense inputs, and the loss of outputs that tell them.

    The loss is the negative log-likelihood, the components of an action being independent of each other:

    .. math::
        -\log \operatorname{softmax}(z)_a, \qquad
        -\log \sigma(z)^a (1 - \sigma(z))^{1 - a}, \qquad
        \tfrac12 \lVert z - a \rVert_2^2

    for Discrete (each component of MultiDiscrete), MultiBinary and Box (a Gaussian of variance 1, less its
    constant). Those of the parts of a Dict or Tuple are added.

    Args:
        space: of one action.

    Shape: ``dense`` is ``(B, *shape) -> (B, width)``; ``loss`` takes outputs ``(B, width)`` and actions
    ``(B, *shape)`` and gives ``(B,)``.

    >>> actions = Actions(spaces.MultiDiscrete([2, 3]))
    >>> actions.dense(torch.tensor([[1, 0]]))
    tensor([[0., 1., 1., 0., 0.]])
    >>> actions.loss(torch.zeros(1, 5), torch.tensor([[1, 0]])).exp().round()  # 2 x 3 actions, all as likely
    tensor([6.])
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.plain = [part for _, part in leaves(space, "action_space")]
        self.widths = [dense_width(part) for part in self.plain]
        self.width = sum(self.widths)

    def dense(self, action: Tensor) -> Tensor:
        """One-hot where discrete, flat else; the parts of an action side by side."""
        rows = [dense(part, value) for part, value in zip(self.plain, parts(self.space, action), strict=True)]
        return (rows[0] if len(rows) == 1 else torch.cat(rows, 1)).float()

    def loss(self, outputs: Tensor, action: Tensor) -> Tensor:
        """The negative log-likelihood of actions ``(B, *shape)``, of shape ``(B,)``."""
        pieces = outputs.split(self.widths, 1)
        values = parts(self.space, action)
        losses = [_loss(part, z, a) for part, z, a in zip(self.plain, pieces, values, strict=True)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)


def _loss(space: Space, outputs: Tensor, action: Tensor) -> Tensor:
    flat = action.unsqueeze(-1).flatten(1)
    if isinstance(space, spaces.Discrete):
        return F.cross_entropy(outputs, flat[:, 0].long() - int(space.start), reduction="none")
    if isinstance(space, spaces.MultiDiscrete):
        start = torch.as_tensor(space.start.flatten(), device=action.device)
        chosen = (flat - start).long().unbind(1)
        pieces = outputs.split([int(size) for size in space.nvec.flatten()], 1)
        one = [F.cross_entropy(z, a, reduction="none") for z, a in zip(pieces, chosen, strict=True)]
        return torch.stack(one).sum(0)
    wanted = flat.to(outputs.dtype)
    if isinstance(space, spaces.MultiBinary):
        return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(1)
    return (outputs - wanted).square().sum(1) / 2
