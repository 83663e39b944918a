"""Shaw's positions against equations 3 and 4, term by term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from athena_nn import RelativeBias, ShawPositions


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, part: ShawPositions, queries: list[int], keys: list[int]
) -> Tensor:
    """Equations 3 to 5 for one row, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    heads, n, width = q.shape
    z = torch.zeros(heads, n, width, dtype=torch.float64)
    for h in range(heads):
        for i in range(n):
            rows = [
                max(-part.max_distance, min(part.max_distance, key - queries[i])) + part.max_distance
                for key in keys
            ]
            e = torch.stack(
                [
                    q[h, i] @ (k[h, j] + part.key_table[row].double()) / math.sqrt(width)
                    for j, row in enumerate(rows)
                ]
            )
            alpha = e.softmax(0)
            for j, row in enumerate(rows):
                added = part.value_table[row].double() if part.weighs_values else 0.0
                z[h, i] += alpha[j] * (v[h, j] + added)
    return z


def attention(q: Tensor, k: Tensor, v: Tensor, part: ShawPositions, queries: Tensor, keys: Tensor) -> Tensor:
    """As attention calls the hooks."""
    q = q / math.sqrt(q.shape[-1])
    weights = (q @ k.mT + part.scores(q, queries, keys)).softmax(-1)
    z = weights @ v
    return z + part.values(weights, queries, keys) if part.weighs_values else z


@pytest.mark.parametrize("act_on_values", [True, False])
@pytest.mark.parametrize("max_distance", [1, 3, 16])
def test_attention_equals_the_equations(dtype, tolerance, max_distance, act_on_values):
    part = ShawPositions(4, max_distance=max_distance, act_on_values=act_on_values).to(dtype)
    q, k, v = (torch.randn(2, 3, time, 4).to(dtype) for time in (4, 6, 6))
    queries, keys = [[2, 3, 4, 5], [7, 9, 11, 30]], [[0, 1, 2, 3, 4, 5], [0, 7, 8, 9, 11, 30]]
    found = attention(q, k, v, part, torch.tensor(queries), torch.tensor(keys))
    assert found.dtype == dtype
    expected = torch.stack(
        [plain_attention(q[row], k[row], v[row], part, queries[row], keys[row]) for row in range(2)]
    )
    torch.testing.assert_close(found.double(), expected, **tolerance)


def test_golden_value():
    """Two tokens, D = 1, width 1, by hand (equation 4): q_0 = 2 meets w_0 = 5 and w_1 = 7, q_1 = 3 meets

    w_-1 = 4 and w_0 = 5; weights (1/4, 3/4) and (1, 0) of values w = 4, 5, 7 give 6.5 and 4 (equation 3).
    """
    part = ShawPositions(1, max_distance=1)
    with torch.no_grad():
        for table in part.parameters():
            table.copy_(torch.tensor([[4.0], [5.0], [7.0]]))
    order = torch.arange(2)
    scores = part.scores(torch.tensor([[[[2.0], [3.0]]]]), order, order)
    assert scores.tolist() == [[[[10.0, 14.0], [12.0, 15.0]]]]
    values = part.values(torch.tensor([[[[0.25, 0.75], [1.0, 0.0]]]]), order, order)
    assert values.tolist() == [[[[6.5], [4.0]]]]


def test_tables_of_zeros_are_no_positions():
    part, q, order = ShawPositions(4), torch.randn(2, 3, 5, 4), torch.arange(5)
    for table in part.parameters():
        torch.nn.init.zeros_(table)
    assert not part.scores(q, order, order).any()
    assert not part.values(q @ q.mT, order, order).any()


def test_queries_of_ones_make_it_a_relative_bias():
    """The sibling: with the same query everywhere, a score depends on the distance's bucket alone."""
    part, order = ShawPositions(4, max_distance=3), torch.arange(5)
    scores = part.scores(torch.ones(1, 2, 5, 4), order, order)
    bias = RelativeBias(2, num_buckets=16, max_distance=8)
    with torch.no_grad():  # buckets 0 to 3 are for the query and keys before it, 9 to 11 for keys after it
        bias.weight[[0, 1, 2, 3, 9, 10, 11]] = part.key_table[[3, 2, 1, 0, 4, 5, 6]].sum(-1, keepdim=True)
    near = (order[:, None] - order).abs() <= 3
    torch.testing.assert_close(scores[0][:, near], bias.bias(order, order)[:, near])


def test_distances_beyond_the_maximum_share_a_vector():
    part, q = ShawPositions(4, max_distance=2), torch.randn(1, 1, 1, 4)
    scores = part.scores(q, torch.tensor([50]), torch.tensor([0, 30, 48, 49, 50, 51, 52, 99]))[0, 0, 0]
    assert len(scores.unique()) == 5
    assert scores[0] == scores[1] == scores[2]
    assert scores[6] == scores[7]


def test_memory_does_not_grow_with_the_head_width():
    """No tensor of queries x keys x head_dim: the largest made, or kept for the backward pass."""
    part, time, sizes = ShawPositions(64, max_distance=4), 32, []
    q = torch.randn(1, 1, time, 64, requires_grad=True)
    weights = torch.randn(1, 1, time, time, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        part.scores(q, torch.arange(time), torch.arange(time))
        part.values(weights, torch.arange(time), torch.arange(time))
    assert sizes
    assert max(sizes) <= time * 64  # the queries themselves


def test_without_the_term_of_values_it_needs_no_weights():
    part = ShawPositions(4, act_on_values=False)
    assert not part.weighs_values
    assert [name for name, _ in part.named_parameters()] == ["key_table"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 0}, "`head_dim` must be at least 1; got 0"),
        ({"head_dim": 4, "max_distance": 0}, "`max_distance` must be at least 1; got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShawPositions(**options)
