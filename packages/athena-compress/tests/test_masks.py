"""Masks: exact counts by brute force, ties, patterns, layers of every kind."""

from __future__ import annotations

from copy import deepcopy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_compress import Pruner, pattern_mask, prunable_weights
from athena_compress._masks import Eraser, global_masks, row_mask, smallest

sizes = st.integers(0, 6)


def ones(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(part, dtype=torch.bool) for name, part in scores.items()}


@given(values=st.lists(st.integers(-3, 3), max_size=20), share=st.floats(0, 1))
def test_smallest_are_those_of_a_stable_sort(values: list[int], share: float) -> None:
    count = round(share * len(values))
    first = set(sorted(range(len(values)), key=values.__getitem__)[:count])
    expected = [index in first for index in range(len(values))]
    assert smallest(torch.tensor(values, dtype=torch.float32), count).tolist() == expected


def test_smallest_among_zeros_of_both_signs_infinities_and_nan() -> None:
    assert smallest(torch.tensor([0.0, -0.0, 0.0]), 2).tolist() == [True, True, False]
    scores = torch.tensor([[torch.inf, torch.nan], [-torch.inf, 1.0]])
    assert smallest(scores, 2).tolist() == [False, False, True, True]
    assert smallest(scores, 3).tolist() == [True, False, True, True]
    assert not smallest(scores, 4).any()  # the fourth is no number


def test_smallest_needs_as_many_scores() -> None:
    assert smallest(torch.ones(0), 0).tolist() == []
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"`count` must be at most {number}.*got 4"):
            smallest(torch.ones(number), 4)


def test_smallest_of_a_batch() -> None:
    scores = torch.randn(3, 20).round()
    found = torch.vmap(lambda one: smallest(one, 7))(scores)
    assert torch.equal(found, torch.stack([smallest(one, 7) for one in scores]))


def test_smallest_is_one_graph_for_a_compiler() -> None:
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0], requires_grad=True)
    try:
        found = torch.compile(smallest, backend="eager", fullgraph=True)(scores, 2)
    finally:
        torch._dynamo.reset()
    assert found.tolist() == [False, True, True, False]
    assert not found.requires_grad


@given(
    shapes=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4),
    share=st.floats(0, 1),
    levels=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_global_counts_are_exact_and_the_smallest_go(
    shapes: list[tuple[int, int]], share: float, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        str(i): torch.randint(levels, shape, generator=generator).float() for i, shape in enumerate(shapes)
    }
    total = sum(part.numel() for part in scores.values())
    filled = sum(part.numel() > 0 for part in scores.values())
    count = round(share * total)
    masks = global_masks(scores, count, ones(scores))
    assert sum(int((~mask).sum()) for mask in masks.values()) == min(count, total - filled)
    assert all(mask.any() for mask in masks.values() if mask.numel())
    # No pruned score is above a kept one, other than one that is the last of its tensor.
    kept = [float(scores[name][masks[name]].min()) for name in scores if masks[name].sum() > 1]
    pruned = [float(scores[name][~masks[name]].max()) for name in scores if (~masks[name]).any()]
    assert all(low <= high for low, high in product(pruned, kept))


@given(first=st.floats(0, 0.9), second=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_what_is_pruned_stays_pruned_though_scores_change(first: float, second: float, seed: int) -> None:
    first, second = sorted((first, second))
    generator = torch.Generator().manual_seed(seed)

    def draw() -> dict[str, Tensor]:
        return {name: torch.rand(5, 4, generator=generator) for name in "ab"}

    scores = draw()
    early = global_masks(scores, round(first * 40), ones(scores))
    late = global_masks(draw(), round(second * 40), early)
    assert all((late[name] <= early[name]).all() for name in scores)
    pruned = sum(int((~mask).sum()) for mask in late.values())
    assert pruned == min(round(second * 40), 38)


def test_ties_go_by_position() -> None:
    scores = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}
    masks = global_masks(scores, 5, ones(scores))
    assert masks["a"].flatten().tolist() == [False, False, False, True]
    assert masks["b"].tolist() == [False, False, True]


@given(rows=st.integers(0, 5), columns=st.integers(1, 9), share=st.floats(0, 0.999), seed=st.integers(0, 99))
def test_rows_lose_equally_many(rows: int, columns: int, share: float, seed: int) -> None:
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    mask = row_mask(scores, share, torch.ones(rows, columns, dtype=torch.bool))
    count = min(round(share * columns), columns - 1)
    assert ((~mask).sum(1) == count).all()
    for row, kept in zip(scores, mask, strict=True):
        assert set(row[~kept].tolist()) == set(sorted(row.tolist())[:count])


@given(
    pattern=st.sampled_from([(2, 4), (1, 4), (1, 2), (2, 3), (4, 8)]),
    blocks=st.integers(0, 3),
    others=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    axis=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_patterns_keep_the_best_of_each_block(
    pattern: tuple[int, int], blocks: int, others: list[int], axis: int, seed: int
) -> None:
    keep, of = pattern
    axis %= len(others) + 1
    shape = [*others[:axis], blocks * of, *others[axis:]]
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    mask = pattern_mask(scores, keep, of, axis=axis)
    assert mask.shape == scores.shape
    for part, kept in zip(
        scores.movedim(axis, -1).reshape(-1, of), mask.movedim(axis, -1).reshape(-1, of), strict=True
    ):
        assert kept.sum() == keep
        assert set(part[kept].tolist()) == set(sorted(part.tolist())[-keep:])


def test_patterns_refuse_an_axis_that_is_no_multiple() -> None:
    with pytest.raises(ValueError, match="`axis` 1 must hold a multiple of 4 weights; got 6"):
        pattern_mask(torch.zeros(2, 6), 2, 4)


def test_two_of_four_along_the_input() -> None:
    layer = nn.Linear(64, 32)
    pruner = Pruner(layer, what="2:4")
    pruner.step()
    nonzero = layer.weight.detach().unflatten(1, (-1, 4)).count_nonzero(2)
    assert (nonzero == 2).all()


LAYERS = [
    nn.Linear(4, 6),
    nn.Conv1d(4, 6, 3),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv3d(4, 6, 1),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, 3, groups=2),
    nn.ConvTranspose3d(4, 6, 1),
    nn.Embedding(8, 4),
    nn.MultiheadAttention(4, 2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_rows_are_the_weights_of_an_output(layer: nn.Module) -> None:
    for weight in prunable_weights(layer).values():
        rows = weight.rows(weight.parameter)
        assert torch.equal(weight.from_rows(rows), weight.parameter)
    if isinstance(layer, nn.Embedding | nn.MultiheadAttention):
        return
    # An output is 0, but for its bias, exactly if its row is.
    weight = prunable_weights(layer)["weight"]
    spatial = [5] * (weight.parameter.dim() - 2)
    inputs = torch.randn(2, 4, *spatial)
    for output in range(6):
        with torch.no_grad():
            layer.bias.zero_()
            layer.weight.copy_(torch.randn(layer.weight.shape))
            rows = weight.rows(layer.weight).clone()
            rows[output] = 0
            layer.weight.copy_(weight.from_rows(rows))
        silent = layer(inputs).abs().transpose(0, 1).flatten(1).sum(1) == 0
        assert silent.nonzero().flatten().tolist() == [output]


@pytest.mark.parametrize("what", ["weights", "2:4"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_half_of_every_kind_of_layer_is_pruned(layer: nn.Module, what: str) -> None:
    model = nn.Sequential(deepcopy(layer), nn.LayerNorm(4))
    if isinstance(layer, nn.Conv2d) and what == "2:4":  # two inputs in each of its groups
        with pytest.raises(ValueError, match=r"whose input axis is a multiple of 4; got \{'0.weight': 2\}"):
            Pruner(model, what=what)
        return
    weights = prunable_weights(model)
    for weight in weights.values():
        nn.init.ones_(weight.parameter)
    pruner = Pruner(model, what=what, schedule=0.5)
    pruner.step()
    zeros = sum(int((weight.parameter == 0).sum()) for weight in weights.values())
    assert zeros == round(0.5 * sum(weight.parameter.numel() for weight in weights.values()))
    assert (model[1].weight == 1).all()


def test_state_of_other_shapes_is_left() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], amsgrad=True)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    mask = torch.tensor([[True, False, True], [False, True, True]])
    Eraser(mask).erase_with_state(weight, optimizer)
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert torch.equal(optimizer.state[weight][name] != 0, mask)
    assert optimizer.state[weight]["step"] == 1


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e5m2]
)
def test_pruned_elements_are_exactly_zero_whatever_stood_there(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0, 0.0], [float("nan"), float("-inf"), -0.0]]).to(dtype)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    eraser = Eraser(mask)
    for each in (values.clone(), values.t().contiguous().t()):  # and non-contiguous
        eraser.erase(each)
        bits = each.contiguous().view(torch.uint8)
        assert each[0, 0].item() == 1.5
        assert bits.count_nonzero() == values[0, :1].view(torch.uint8).count_nonzero()


def test_tied_weights_are_there_once_and_skipped_together() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "mix": nn.Linear(4, 4), "head": nn.Linear(4, 8)})
    model["head"].weight = model["embed"].weight
    assert list(prunable_weights(model)) == ["embed.weight", "mix.weight"]
    assert list(prunable_weights(model, skip="head")) == ["mix.weight"]
    assert list(prunable_weights(model, include="head")) == ["head.weight"]
    pruner = Pruner(model, schedule=0.5)
    pruner.step()
    assert (model["head"].weight == 0).sum() + (model["mix"].weight == 0).sum() == 24


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(ValueError, match="`model` must have weights to prune"):
        prunable_weights(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="matches none"):
        prunable_weights(nn.Sequential(nn.Linear(2, 2)), skip="nothing")
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`weight` must be a parameter to be pruned"):
        prunable_weights(layer)
