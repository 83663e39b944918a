"""Universal value functions: one network for the values of states under all goals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def _network(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ConcatenatedValue(nn.Module):
    r"""The value of a state for a goal by one network of both: :math:`V(s, g; \theta) = f([s, g])`.

    With actions it is :math:`Q(s, a, g)` of each action, as many outputs.

    Args:
        state_dim, goal_dim: widths.
        hidden: widths of the layers.
        n_actions: of a Discrete space; None is the value of the state.

    Shape: ``(..., S), (..., G) -> (...)``, or ``(..., A)`` with actions.
    Source: Schaul et al. 2015, "Universal Value Function Approximators", ICML, figure 1.
    Departs from it: no.

    >>> ConcatenatedValue(3, 2, hidden=[8])(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5])
    >>> ConcatenatedValue(3, 2, hidden=[8], n_actions=4)(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self, state_dim: int, goal_dim: int, *, hidden: Sequence[int] = (64, 64), n_actions: int | None = None
    ) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.network = _network([state_dim + goal_dim, *hidden, n_actions or 1])

    def forward(self, state: Tensor, goal: Tensor) -> Tensor:
        values = self.network(torch.cat((state, goal), -1))
        return values[..., 0] if self.n_actions is None else values


class TwoStreamValue(nn.Module):
    r"""The value of a state for a goal by an embedding of each: :math:`V(s, g) = \phi(s)^\top \psi(g)`.

    With actions the state has an embedding for each, :math:`Q(s, a, g) = \phi(s, a)^\top \psi(g)`. A table of
    such values has at most rank ``rank``: that is what the two-stage training makes use of
    (`factorize_values`, `fit_embeddings`).

    Args:
        state_dim, goal_dim: widths.
        rank: width of the embeddings.
        hidden: widths of the layers of both streams.
        n_actions: of a Discrete space; None is the value of the state.

    Shape: ``(..., S), (..., G) -> (...)``, or ``(..., A)`` with actions.
    Source: Schaul et al. 2015, "Universal Value Function Approximators", ICML, figure 1 (dot
    product as :math:`h`, networks not shared). Departs from it: no.

    >>> value = TwoStreamValue(3, 2, rank=4, hidden=[8])
    >>> value(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5])
    >>> table = value.table(torch.randn(7, 3), torch.randn(6, 2))
    >>> table.shape, int(torch.linalg.matrix_rank(table)) <= 4
    (torch.Size([7, 6]), True)
    """

    def __init__(
        self,
        state_dim: int,
        goal_dim: int,
        *,
        rank: int,
        hidden: Sequence[int] = (64, 64),
        n_actions: int | None = None,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"`rank` must be at least 1; got {rank}.")
        self.rank, self.n_actions = rank, n_actions
        self.phi = _network([state_dim, *hidden, rank * (n_actions or 1)])
        self.psi = _network([goal_dim, *hidden, rank])

    def embed_state(self, state: Tensor) -> Tensor:
        """:math:`\\phi`, ``(..., rank)``, or ``(..., A, rank)`` with actions."""
        embedded = self.phi(state)
        return embedded if self.n_actions is None else embedded.unflatten(-1, (self.n_actions, self.rank))

    def forward(self, state: Tensor, goal: Tensor) -> Tensor:
        embedded, goal = self.embed_state(state), self.psi(goal)
        goal = goal if self.n_actions is None else goal[..., None, :]
        return (embedded * goal).sum(-1)

    def table(self, states: Tensor, goals: Tensor) -> Tensor:
        """Values of all pairs: ``(M, S), (N, G) -> (M, N)``, or ``(M, A, N)`` with actions."""
        return self.embed_state(states) @ self.psi(goals).T
