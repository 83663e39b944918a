"""What holds for every encoding of positions, beside the laws of the conformance kit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from athena_nn import (
    AlibiPositions,
    LearnedPositions,
    NoPositions,
    Positions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    SinusoidalPositions,
    YarnScaling,
)
from athena_nn._laws import positions_checks

WIDTH, HEADS, HEAD_DIM = 4, 2, 4
PARTS = {
    "rotary": lambda: RotaryPositions(HEAD_DIM),
    "rotary-interleaved": lambda: RotaryPositions(HEAD_DIM, layout="interleaved", rotary_dim=2),
    "rotary-yarn": lambda: RotaryPositions(HEAD_DIM, scaling=YarnScaling(4.0, 64)),
    "sinusoidal": lambda: SinusoidalPositions(WIDTH),
    "learned": lambda: LearnedPositions(16, WIDTH),
    "relative-bias": lambda: RelativeBias(HEADS, num_buckets=4, max_distance=3),
    "shaw": lambda: ShawPositions(HEAD_DIM, max_distance=2),
    "shaw-keys": lambda: ShawPositions(HEAD_DIM, max_distance=2, act_on_values=False),
    "alibi": lambda: AlibiPositions(HEADS),
    "none": NoPositions,
}
EVERY = pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)


class Hooks(torch.nn.Module):
    """All hooks of a part as one module, so that transforms can be tried on them together."""

    def __init__(self, part: Positions) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, q: Tensor, weights: Tensor, queries: Tensor, keys: Tensor) -> list[Tensor]:
        phases = self.part.phases(queries, q.dtype)
        found = [
            self.part.embed(x, queries),
            q if phases is None else self.part.rotate(q, phases),
            self.part.bias(queries, keys),
            self.part.scores(q, queries, keys),
            self.part.values(weights, queries, keys) if self.part.weighs_values else None,
        ]
        return [one for one in found if one is not None]


def inputs(dtype: torch.dtype = torch.float32, *, batch: int = 3, queries: int = 3, keys: int = 5):
    return (
        torch.randn(batch, queries, WIDTH, dtype=dtype),
        torch.randn(batch, HEADS, queries, HEAD_DIM, dtype=dtype),
        torch.randn(batch, HEADS, queries, keys, dtype=dtype),
    )


@EVERY
def test_gradcheck_of_every_hook(make):
    """With respect to inputs and parameters, at positions with gaps; outputs depend on them or not."""
    hooks = Hooks(make()).double()
    names, parameters = zip(*hooks.named_parameters(), strict=True) if [*hooks.parameters()] else ((), ())
    queries, keys = torch.tensor([4, 6, 9]), torch.tensor([0, 4, 5, 6, 9])

    def function(x: Tensor, q: Tensor, weights: Tensor, *parameters: Tensor) -> list[Tensor]:
        found = functional_call(
            hooks, dict(zip(names, parameters, strict=True)), (x, q, weights, queries, keys)
        )
        return [one for one in found if one.requires_grad]

    given = [one.detach().requires_grad_() for one in (*inputs(torch.float64, batch=1), *parameters)]
    assert torch.autograd.gradcheck(function, given)


@EVERY
def test_vmap_over_the_batch(make):
    """Each row at its own positions: one call for all is one call a row."""
    hooks = Hooks(make())
    queries = torch.tensor([[2, 3, 4], [4, 6, 9], [0, 1, 2]])
    keys = torch.tensor([[0, 1, 2, 3, 4], [0, 4, 5, 6, 9], [0, 1, 2, 3, 4]])
    x, q, weights = inputs()
    together = hooks(x, q, weights, queries, keys)

    def row(x: Tensor, q: Tensor, weights: Tensor, queries: Tensor, keys: Tensor) -> list[Tensor]:
        return hooks(x[None], q[None], weights[None], queries, keys)

    mapped = vmap(row)(x, q, weights, queries, keys)
    for one, other in zip(together, mapped, strict=True):
        torch.testing.assert_close(other.reshape(one.shape), one)


@EVERY
def test_decoding_compiles_once(make):
    """One graph, and no recompilation as positions move on."""
    torch.compiler.reset()
    hooks, graphs = Hooks(make()), []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(hooks, fullgraph=True, backend=backend)
    given = inputs(queries=1)
    with torch.no_grad():
        for position in range(4, 9):
            step = (*given, torch.tensor([position]), torch.arange(position - 4, position + 1))
            for found, expected in zip(compiled(*step), hooks(*step), strict=True):
                torch.testing.assert_close(found, expected)
    assert len(graphs) <= 1  # none where no hook acts
    torch.compiler.reset()


@EVERY
def test_empty_slots_of_a_cache_give_finite_numbers(make):
    """A key position of -1 holds no key: masked later, but infinity times zero would stay."""
    found = Hooks(make())(*inputs(), torch.tensor([4, 5, 6]), torch.tensor([-1, -1, 4, 5, 6]))
    assert all(one.isfinite().all() for one in found)


@EVERY
def test_no_tokens_and_no_rows(make):
    for batch, queries in ((0, 3), (2, 0)):
        given = inputs(batch=batch, queries=queries)
        found = Hooks(make())(*given, torch.arange(queries), torch.arange(5))
        assert found[0].shape == (batch, queries, WIDTH)


@EVERY
def test_copies_load_states_and_print(make):
    part, other = make(), copy.deepcopy(make())
    other.load_state_dict(part.state_dict())
    given = (*inputs(), torch.arange(2, 5), torch.arange(5))
    for one, same in zip(Hooks(part)(*given), Hooks(other)(*given), strict=True):
        assert torch.equal(one, same)
    assert type(part).__name__ in repr(part)


@pytest.mark.parametrize("part", [Positions(), NoPositions()])
def test_the_base_acts_nowhere(part):
    x, q, _ = inputs()
    order = torch.arange(3)
    assert part.embed(x, order) is x
    assert part.phases(order, x.dtype) is None
    assert part.rotate(q, (q, q)) is q
    assert part.bias(order, order) is None
    assert part.scores(q, order, order) is None
    assert (part.head_dim, part.num_heads, part.max_length, part.weighs_values) == (None, None, None, False)
    with pytest.raises(NotImplementedError, match="must override `values`"):
        part.values(q, order, order)


def test_parts_tell_what_they_were_made_for():
    assert RotaryPositions(8).head_dim == ShawPositions(8).head_dim == 8
    assert RelativeBias(3).num_heads == AlibiPositions(3).num_heads == 3
    assert LearnedPositions(7, 4).max_length == 7


class Unreached(Positions):
    """Holds a parameter that no hook uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))


class Looking(Positions):
    """Branches on what a position is, which makes the host wait and breaks a graph."""

    def embed(self, x, positions):
        return x + 1 if positions[0] > 3 else x


class Square(Positions):
    """A bias of queries alone, which fits no cache."""

    def bias(self, query_positions, key_positions):
        return (query_positions[:, None] - query_positions[None]).float()[None]


class ByOrder(Positions):
    """A bias by order in the tensor, for all rows the same."""

    def bias(self, query_positions, key_positions):
        queries, keys = query_positions.shape[-1], key_positions.shape[-1]
        return (torch.arange(queries)[:, None] - torch.arange(keys)).float()[None]


@pytest.mark.parametrize(
    ("positions", "law", "message"),
    [
        (Unreached, "gradients reach every parameter", "no gradient reaches weight"),
        (Looking, "one graph under torch.compile", "Data-dependent"),
        (Square, "keeps shapes and dtypes, float32", r"`bias` gave \(1, 5, 5\)"),
        (ByOrder, "goes on at any position", "not close"),
    ],
)
def test_broken_positions_fail_their_law(positions, law, message):
    (check,) = (one for one in positions_checks(None, positions) if one.name == law)
    with pytest.raises(Exception, match=message):
        check()
