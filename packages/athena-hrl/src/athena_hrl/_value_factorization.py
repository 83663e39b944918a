"""The two-stage training of universal values: factorise a table of values, then regress on the factors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_core import as_float64
from athena_hrl._universal_value import TwoStreamValue


class ValueFactors(NamedTuple):
    """Embeddings of states ``(M, rank)`` and goals ``(N, rank)`` whose products are the table's values.

    >>> ValueFactors(torch.ones(3, 1), torch.ones(2, 1)).states.shape
    torch.Size([3, 1])
    """

    states: Tensor
    goals: Tensor


def factorize_values(
    table: Tensor, rank: int, *, seen: Tensor | None = None, sweeps: int = 50, ridge: float = 1e-6
) -> ValueFactors:
    r"""Factors of a table of values, some of which may be unknown: the first stage.

    .. math:: \min_{\hat\phi, \hat\psi} \sum_{(s, g) \in E} \bigl(V(s, g) - \hat\phi_s^\top \hat\psi_g\bigr)^2

    The start is the truncated singular value decomposition of the table with zeros where nothing is known,
    divided by the share that is; its singular values go to both sides by their roots. A full table is done
    with that. Otherwise each side is solved in turn against the other, by least squares.

    Args:
        table: values of states (rows) for goals (columns).
        rank: of the factors.
        seen: the entries :math:`E` that are known, booleans; all if left out.
        sweeps: of the alternation, where entries are missing.
        ridge: weight of the factors' squares in it, a share of the known values' mean square.

    Shape: ``(M, N) -> (M, rank), (N, rank)``, float64; on the host where the table's device has none.
    Raises ValueError for a rank above both sides', a value that is known and not finite, or nothing known.
    Source: Schaul et al. 2015, "Universal Value Function Approximators", ICML, two-stage training (OptSpace
    of Keshavan et al. 2009, arXiv:0901.3150, whose spectral start this is). Departs from it: alternating
    least squares in place of OptSpace's descent on the Grassmann manifold, and no trimming.

    >>> table = torch.outer(torch.arange(1.0, 5.0), torch.tensor([1.0, 2.0, 3.0]))
    >>> seen = torch.ones(4, 3, dtype=torch.bool)
    >>> seen[0, 0] = seen[3, 2] = False
    >>> factors = factorize_values(table, 1, seen=seen)
    >>> (factors.states @ factors.goals.T)[3, 2].round(decimals=2).item()
    12.0
    """
    seen = torch.ones_like(table, dtype=torch.bool) if seen is None else seen
    if not 1 <= rank <= min(table.shape):
        raise ValueError(f"`rank` must lie in [1, {min(table.shape)}]; got {rank}.")
    if not bool(seen.any()) or not bool(torch.isfinite(table[seen]).all()):
        raise ValueError("`table` must hold finite values where they are known; mark unknown ones in `seen`.")
    known, whole = as_float64(torch.where(seen, table, 0)), bool(seen.all())
    seen = as_float64(seen)
    share = seen.mean()
    u, s, vh = torch.linalg.svd(known / share, full_matrices=False)
    root = s[:rank].sqrt()
    states, goals = u[:, :rank] * root, vh[:rank].T * root
    if not whole:
        weight = ridge * known.square().sum() / seen.sum()
        for _ in range(sweeps):
            states = _least_squares(known, seen, goals, weight)
            goals = _least_squares(known.T, seen.T, states, weight)
    return ValueFactors(states, goals)


def _least_squares(known: Tensor, seen: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """The best factors of the rows, given those of the columns."""
    gram = torch.einsum("mn,nr,nq->mrq", seen, other, other)
    eye = torch.eye(other.shape[1], dtype=other.dtype, device=other.device)
    return torch.linalg.solve(gram + weight * eye, (known @ other)[..., None])[..., 0]


def fit_embeddings(
    value: TwoStreamValue,
    states: Tensor,
    goals: Tensor,
    factors: ValueFactors,
    *,
    steps: int = 1000,
    lr: float = 1e-2,
) -> dict[str, float]:
    r"""Regress both embeddings on the factors, :math:`\hat\phi_s` and :math:`\hat\psi_g`: the second stage.

    Both streams descend their mean squared error by Adam on all rows at once, apart from each other.

    Args:
        value: changed in place; without actions, or with all of them in the table's rows, state by state.
        states, goals: what the table's rows and columns belong to.
        factors: of `factorize_values`.
        steps, lr: of Adam.

    Shape: states ``(M, S)``, goals ``(N, G)``; factors ``(M, rank)`` or ``(M * A, rank)``, and ``(N, rank)``.
    Raises ValueError for factors of another rank or number.
    Source: Schaul et al. 2015, "Universal Value Function Approximators", ICML, two-stage training. Departs
    from it: no (to go on end to end from there is any training of the network).

    >>> value = TwoStreamValue(2, 2, rank=1, hidden=[16])
    >>> factors = ValueFactors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [-1.0]]))
    >>> losses = fit_embeddings(value, torch.eye(2), torch.eye(2), factors, steps=300)
    >>> value.table(torch.eye(2), torch.eye(2)).round(decimals=1).abs().tolist()
    [[3.0, 1.0], [6.0, 2.0]]
    """
    wanted = (len(states) * (value.n_actions or 1), value.rank), (len(goals), value.rank)
    if (tuple(factors.states.shape), tuple(factors.goals.shape)) != wanted:
        raise ValueError(
            f"`factors` must have the shapes {wanted}; got {tuple(factors.states.shape)} and "
            f"{tuple(factors.goals.shape)}. Factorise the table at the value's rank."
        )
    optimizer = torch.optim.Adam(value.parameters(), lr=lr)
    targets = [factor.detach().to(states) for factor in factors]
    losses = [torch.zeros(()), torch.zeros(())]
    for _ in range(steps):
        embedded = value.embed_state(states).reshape(-1, value.rank), value.psi(goals)
        losses = [F.mse_loss(*pair) for pair in zip(embedded, targets, strict=True)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return {"phi_loss": losses[0].item(), "psi_loss": losses[1].item()}
