"""The feudal network: a manager that names directions in a latent space, a worker that follows them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_hrl._numbers import LARGEST, in_range


class DilatedLSTM(nn.Module):
    r"""An LSTM of ``radius`` states, one of which a step goes on: each sees every ``radius``-th input.

    .. math:: \hat h^{t \% r}_t = \mathrm{LSTM}(x_t, \hat h^{t \% r}_{t-1}), \qquad
        y_t = \frac1r \sum_i \hat h^i_t

    Args:
        width: of inputs and outputs.
        radius: :math:`r`.

    Shape: ``(B, D)`` and a state ``(2, r, B, D)`` to ``(B, D)`` and a state.
    Source: Vezhnevets et al. 2017, arXiv:1703.01161, "dilated LSTM". Departs from it: outputs are averaged.

    >>> lstm = DilatedLSTM(4, radius=3)
    >>> output, state = lstm(torch.ones(2, 4), lstm.start(2), step=0)
    >>> output.shape, [bool(one.any()) for one in state[0]]
    (torch.Size([2, 4]), [True, False, False])
    """

    def __init__(self, width: int, *, radius: int) -> None:
        super().__init__()
        self.radius, self.cell = radius, nn.LSTMCell(width, width)

    def start(self, rows: int) -> Tensor:
        """A state of zeros."""
        return self.cell.weight_hh.new_zeros(2, self.radius, rows, self.cell.hidden_size)

    def forward(self, inputs: Tensor, state: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        turn = step % self.radius
        new = torch.stack(self.cell(inputs, (state[0, turn], state[1, turn])))
        state = torch.cat((state[:, :turn], new[:, None], state[:, turn + 1 :]), 1)
        return state[0].mean(0), state


class FeudalMemory(NamedTuple):
    """What a feudal network keeps of the steps before, for ``B`` rows.

    >>> memory = FeudalNetwork(3, 2, horizon=4, latent_dim=8).start(5)
    >>> memory.goals.shape, memory.mask.sum()
    (torch.Size([5, 4, 8]), tensor(0.))
    """

    manager: Tensor  # (2, horizon, B, D)
    latents: Tensor  # (B, horizon, D), the last ones
    goals: Tensor  # (B, horizon, D), set there
    mask: Tensor  # (B, horizon): 1 where they are of the same episode
    step: int

    def restarted(self, rows: Tensor) -> FeudalMemory:
        """Without what the rows of a mask ``(B,)`` remember."""
        kept = (~rows).to(self.mask.dtype)
        return self._replace(
            manager=self.manager * kept[:, None],
            latents=self.latents * kept[:, None, None],
            goals=self.goals * kept[:, None, None],
            mask=self.mask * kept[:, None],
        )

    def detached(self) -> FeudalMemory:
        """The same numbers without their gradients."""
        return FeudalMemory._make([*(part.detach() for part in self[:4]), self.step])


class FeudalOutput(NamedTuple):
    """What a feudal network says of a step.

    >>> network = FeudalNetwork(3, 2, horizon=4, latent_dim=8)
    >>> network(torch.zeros(5, 3), network.start(5))[0].logits.shape
    torch.Size([5, 2])
    """

    logits: Tensor  # (B, A)
    latent: Tensor  # (B, D)
    goal: Tensor  # (B, D), of length 1
    values: Tensor  # (B, 2): the manager's, the worker's


class FeudalNetwork(nn.Module):
    r"""Directions from a manager, actions from a worker that never sends a gradient back to it.

    .. math::
        z_t = f(x_t), \quad s_t = f^M(z_t), \quad g_t = \frac{\hat g_t}{\lVert \hat g_t \rVert}, \quad
        w_t = W \sum_{i=t-c}^{t} g_i, \quad \pi_t = \operatorname{softmax}(U_t(z_t)\, w_t)

    :math:`\hat g` comes from a `DilatedLSTM` of radius ``horizon``; :math:`W` has no bias, so that a goal
    cannot be ignored by a constant.

    Args:
        state_dim, n_actions: widths.
        horizon: :math:`c`.
        latent_dim: :math:`d`, of latent states and goals.
        embedding_dim: :math:`k`, of the worker's actions and :math:`w`.

    Raises ValueError for a horizon or a width below 1.
    Source: Vezhnevets et al. 2017, arXiv:1703.01161, equations 1 to 6. Departs from it:
    :math:`f`, the worker and both values are feed-forward, so that a state's values need no memory; no random
    goals.

    >>> network = FeudalNetwork(3, 2, horizon=4, latent_dim=8)
    >>> output, memory = network(torch.zeros(5, 3), network.start(5))
    >>> output.goal.norm(dim=-1).round(decimals=4).tolist(), memory.mask[0].tolist()
    ([1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0])
    """

    def __init__(
        self,
        state_dim: int,
        n_actions: int,
        *,
        horizon: int = 10,
        latent_dim: int = 32,
        embedding_dim: int = 8,
    ) -> None:
        super().__init__()
        in_range(1, LARGEST, horizon=horizon, latent_dim=latent_dim, embedding_dim=embedding_dim)
        self.horizon, self.latent_dim = horizon, latent_dim
        self.n_actions, self.embedding_dim = n_actions, embedding_dim
        self.percept = nn.Sequential(nn.Linear(state_dim, latent_dim), nn.ReLU())
        self.latent = nn.Sequential(nn.Linear(latent_dim, latent_dim), nn.ReLU())
        self.manager = DilatedLSTM(latent_dim, radius=horizon)
        self.worker = nn.Linear(latent_dim, n_actions * embedding_dim)
        self.goal_embedding = nn.Linear(latent_dim, embedding_dim, bias=False)
        self.values = nn.Linear(latent_dim, 2)

    def start(self, rows: int) -> FeudalMemory:
        """The memory before the first step."""
        manager = self.manager.start(rows)
        empty = manager.new_zeros(rows, self.horizon, self.latent_dim)
        return FeudalMemory(manager, empty, empty, empty[..., 0], 0)

    def forward(self, state: Tensor, memory: FeudalMemory) -> tuple[FeudalOutput, FeudalMemory]:
        percept = self.percept(state)
        latent = self.latent(percept)
        raw, manager = self.manager(latent, memory.manager, step=memory.step)
        goal = F.normalize(raw, dim=-1)
        pooled = (memory.goals * memory.mask[..., None]).sum(1) + goal
        direction = self.goal_embedding(pooled.detach())  # the worker teaches the manager nothing
        actions = self.worker(percept).unflatten(-1, (self.n_actions, self.embedding_dim))
        logits = (actions @ direction[..., None])[..., 0]
        output = FeudalOutput(logits, latent, goal, self.values(percept))
        one = memory.mask.new_ones(len(state), 1)
        return output, FeudalMemory(
            manager,
            torch.cat((memory.latents[:, 1:], latent[:, None]), 1),
            torch.cat((memory.goals[:, 1:], goal[:, None]), 1),
            torch.cat((memory.mask[:, 1:], one), 1),
            memory.step + 1,
        )

    def state_values(self, state: Tensor) -> Tensor:
        """The manager's and the worker's value of states, ``(B, S) -> (B, 2)``."""
        return self.values(self.percept(state))

    def state_latent(self, state: Tensor) -> Tensor:
        """Latent states, ``(B, S) -> (B, D)``."""
        return self.latent(self.percept(state))
