"""Universal values: their form, and the two-stage training on a small grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from athena_hrl import ConcatenatedValue, TwoStreamValue, ValueFactors, factorize_values, fit_embeddings


def grid_table(size: int = 5, gamma: float = 0.9) -> torch.Tensor:
    """Optimal values of cells (rows) for goal cells (columns) of an empty grid: gamma to the distance."""
    cells = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1).view(-1, 2)
    distance = (cells[:, None] - cells).abs().sum(-1)
    return gamma ** distance.double()


def low_rank(rows: int, columns: int, rank: int) -> torch.Tensor:
    return torch.randn(rows, rank, dtype=torch.float64) @ torch.randn(rank, columns, dtype=torch.float64)


def test_two_streams_are_the_inner_product_of_the_embeddings():
    value = TwoStreamValue(3, 2, rank=4, hidden=[8])
    states, goals = torch.randn(5, 3), torch.randn(5, 2)
    by_hand = torch.stack([value.phi(s) @ value.psi(g) for s, g in zip(states, goals, strict=True)])
    torch.testing.assert_close(value(states, goals), by_hand)
    torch.testing.assert_close(value.table(states, goals).diagonal(), by_hand)


def test_with_actions_each_has_an_embedding_of_the_state():
    value = TwoStreamValue(3, 2, rank=4, hidden=[8], n_actions=3)
    states, goals = torch.randn(5, 3), torch.randn(5, 2)
    q = value(states, goals)
    assert q.shape == (5, 3)
    phi = value.phi(states).view(5, 3, 4)
    torch.testing.assert_close(q[1, 2], phi[1, 2] @ value.psi(goals[1]))
    torch.testing.assert_close(value.table(states, goals)[1, :, 4], phi[1] @ value.psi(goals[4]))


@pytest.mark.parametrize("n_actions", [None, 4])
def test_a_concatenated_value_is_a_network_of_both(n_actions):
    value = ConcatenatedValue(3, 2, hidden=[8], n_actions=n_actions)
    states, goals = torch.randn(2, 7, 3), torch.randn(2, 7, 2)
    both = value.network(torch.cat((states, goals), -1))
    assert torch.equal(value(states, goals), both if n_actions else both[..., 0])
    assert value(states[:, :0], goals[:, :0]).shape == ((2, 0, 4) if n_actions else (2, 0))


def test_a_full_table_is_its_truncated_decomposition():
    """Eckart and Young: no other factors of that rank are nearer."""
    table = grid_table()
    factors = factorize_values(table, 5)
    u, s, vh = torch.linalg.svd(table)
    torch.testing.assert_close(factors.states @ factors.goals.T, (u[:, :5] * s[:5]) @ vh[:5])
    torch.testing.assert_close(factors.states.square().sum(0), s[:5])  # the values go to both sides by roots


def test_missing_entries_of_a_low_rank_table_are_recovered():
    table = low_rank(30, 20, 3)
    seen = torch.rand(30, 20) < 0.6
    given = torch.where(seen, table, torch.nan)  # what is not known is never looked at
    factors = factorize_values(given, 3, seen=seen, sweeps=200, ridge=1e-9)
    missing = (factors.states @ factors.goals.T - table)[~seen]
    assert missing.abs().max() < 1e-3 * table.std()


def test_the_two_stages_recover_the_values_of_a_grid():
    """25 cells, all goals; the embeddings of one-hot cells give back the table of rank 6 closely."""
    table = grid_table()
    factors = factorize_values(table, 6)
    cells = torch.eye(25)
    value = TwoStreamValue(25, 25, rank=6, hidden=[64])
    losses = fit_embeddings(value, cells, cells, factors, steps=300)
    best = factors.states @ factors.goals.T
    found = value.table(cells, cells).detach().double()
    assert max(losses.values()) < 1e-3
    assert (found - best).abs().max() < 0.1
    assert (found - table).square().mean() < 1.2 * (best - table).square().mean() + 1e-3


def test_a_table_of_actions_trains_their_embeddings():
    """Rows are pairs of a state and an action, the state's actions one after the other."""
    table = low_rank(4 * 2, 3, 2)
    value = TwoStreamValue(4, 3, rank=2, hidden=[32], n_actions=2)
    fit_embeddings(value, torch.eye(4), torch.eye(3), factorize_values(table, 2), steps=300)
    found = value.table(torch.eye(4), torch.eye(3)).reshape(8, 3).double()
    torch.testing.assert_close(found, table, atol=0.05, rtol=0.05)


def test_training_changes_no_global_generator():
    value = TwoStreamValue(2, 2, rank=1, hidden=[4])
    before = torch.get_rng_state()
    fit_embeddings(
        value, torch.eye(2), torch.eye(2), ValueFactors(torch.ones(2, 1), torch.ones(2, 1)), steps=2
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (torch.ones(3, 2), {"rank": 3}, r"`rank` must lie in \[1, 2\]; got 3"),
        (torch.ones(3, 2), {"rank": 0}, r"`rank` must lie"),
        (torch.full((3, 2), torch.nan), {"rank": 1}, "`table` must hold finite values"),
        (torch.ones(3, 2), {"rank": 1, "seen": torch.zeros(3, 2, dtype=torch.bool)}, "`table` must hold"),
    ],
)
def test_a_table_that_cannot_be_factorised_is_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        factorize_values(table, **options)


def test_factors_of_another_size_are_refused():
    value = TwoStreamValue(2, 2, rank=2)
    factors = ValueFactors(torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match="`factors` must have the shapes"):
        fit_embeddings(value, torch.eye(2), torch.eye(2), factors)
    with pytest.raises(ValueError, match="`rank` must be at least 1"):
        TwoStreamValue(2, 2, rank=0)


def test_tables_may_be_non_contiguous():
    table = np.asfortranarray(grid_table(3).numpy())
    torch.testing.assert_close(
        factorize_values(torch.from_numpy(table).T, 2).states, factorize_values(grid_table(3).T, 2).states
    )
