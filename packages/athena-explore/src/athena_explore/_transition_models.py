"""Models of transitions between features: which action it was, and where it leads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_explore._actions import Actions
from athena_explore._bonus import Bonus
from athena_explore._encoder import multilayer
from athena_explore._features import Features
from athena_explore._transition import Transition


class InverseModel(nn.Module):
    r"""Which action led there, :math:`\hat a_t = g(\phi(s_t), \phi(s_{t+1}))`.

    Features that tell it hold what the agent can affect, and need not hold the rest.

    Args:
        actions: what is to be told.
        width: of the features.
        hidden: widths of the layers between.

    Shape: ``(B, width), (B, width) -> (B, actions.width)``; ``loss`` gives ``(B,)``.

    Source: Pathak et al. 2017, arXiv:1705.05363, eqs. 2 and 3. Departs from it: no.

    >>> from gymnasium import spaces
    >>> inverse = InverseModel(Actions(spaces.Discrete(4)), 8)
    >>> inverse(torch.zeros(2, 8), torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(self, actions: Actions, width: int, *, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.actions = actions
        self.body = multilayer([2 * width, *hidden, actions.width])

    def forward(self, phi_t: Tensor, phi_tp1: Tensor) -> Tensor:
        return self.body(torch.cat([phi_t, phi_tp1], 1))

    def loss(self, phi_t: Tensor, phi_tp1: Tensor, action: Tensor) -> Tensor:
        """The negative log-likelihood of the actions taken, see `Actions`."""
        return self.actions.loss(self(phi_t, phi_tp1), action)


class ForwardModel(nn.Module):
    r"""Where an action leads, :math:`\hat\phi(s_{t+1}) = f(\phi(s_t), a_t)`.

    Args:
        actions: that are taken.
        width: of the features.
        hidden: widths of the layers between.

    Shape: ``(B, width), (B, *action) -> (B, width)``; ``error`` gives ``(B,)``.

    Source: Pathak et al. 2017, arXiv:1705.05363, eqs. 4 and 5. Departs from it: no.

    >>> from gymnasium import spaces
    >>> model = ForwardModel(Actions(spaces.Discrete(4)), 8)
    >>> model(torch.zeros(2, 8), torch.tensor([0, 3])).shape
    torch.Size([2, 8])
    """

    def __init__(self, actions: Actions, width: int, *, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.actions = actions
        self.body = multilayer([width + actions.width, *hidden, width])

    def forward(self, phi_t: Tensor, action: Tensor) -> Tensor:
        return self.body(torch.cat([phi_t, self.actions.dense(action)], 1))

    def error(self, phi_t: Tensor, action: Tensor, phi_tp1: Tensor) -> Tensor:
        r"""Half the squared error, :math:`\tfrac12 \lVert \hat\phi(s_{t+1}) - \phi(s_{t+1}) \rVert_2^2`."""
        return F.mse_loss(self(phi_t, action), phi_tp1, reduction="none").sum(1) / 2


def learn_actions(
    bonus: Bonus, features: Features, model: InverseModel, batches: Iterable[Transition]
) -> float:
    """Train features, by the bonus's optimizer, to tell actions; the mean loss of the batches.

    >>> from gymnasium import spaces
    >>> from athena_explore import E3B
    >>> bonus = E3B(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    >>> obs, ends = torch.rand(8, 3), torch.zeros(8, dtype=torch.bool)
    >>> batch = Transition(obs, torch.zeros(8), obs, ends, ends)
    >>> losses = [learn_actions(bonus, bonus.features, bonus.inverse_model, [batch]) for _ in range(20)]
    >>> losses[-1] < losses[0]
    True
    """
    losses = []
    for batch in batches:
        loss = model.loss(*features.pair(batch), batch.action).mean()
        bonus.step(loss)
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())
