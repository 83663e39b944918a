"""Weights in pieces: the layers against those of torch, and models placed where allocations are small."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from fake_devices import limit
from torch import nn
from torch.func import functional_call

from athena_core import PlacementError, SplitEmbedding, SplitLinear, place, tensor_sizes
from athena_core._split import split_rows


@pytest.fixture(autouse=True)
def _seeded(seed):
    pass


def cut(module, rows):
    """The module with its weight in pieces of so many rows."""
    return split_rows(module, [nn.Parameter(piece.clone()) for piece in module.weight.detach().split(rows)])


def gradient(module):
    weights = module.pieces if hasattr(module, "pieces") else [module.weight]
    return torch.cat([weight.grad for weight in weights])


def assert_same(whole, split, given):
    for module in (whole, split):
        module.zero_grad()
    expected, output = whole(given), split(given)
    slopes = torch.randn_like(expected)
    expected.backward(slopes)
    output.backward(slopes)
    assert (output.shape, output.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient(split), gradient(whole))


@pytest.mark.parametrize("rows", [1, 3, 4, 10])
@pytest.mark.parametrize("padding_idx", [None, 0, 2, 3, -1])
@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([[0, 2, 3], [5, 6, 9]]),  # at the pieces' ends
        torch.tensor([3, 3, 3, 3], dtype=torch.int32),
        torch.tensor(7),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.arange(20).remainder(10).view(4, 5).T,
    ],
)
def test_embedding_equals_torchs(rows, padding_idx, ids):
    whole = nn.Embedding(10, 4, padding_idx=padding_idx, dtype=torch.float64)
    assert_same(whole, cut(whole, rows), ids)


def test_an_id_outside_the_rows_is_an_error_as_in_torch():
    split = cut(nn.Embedding(10, 4), 4)
    for wrong in (-1, 10, 12, 99):
        with pytest.raises(IndexError):
            split(torch.tensor([0, wrong]))


def test_rows_that_are_not_asked_for_may_be_nan():
    split = cut(nn.Embedding(6, 2), 2)
    with torch.no_grad():
        for piece in split.pieces:
            piece[0] = torch.nan
    output = split(torch.tensor([1, 3, 5]))
    assert output.isfinite().all()
    output.sum().backward()
    assert torch.equal(gradient(split), torch.tensor([0.0, 1.0]).repeat(3)[:, None].expand(6, 2))


@pytest.mark.parametrize("rows", [1, 3, 10])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 5, 3)])
def test_linear_equals_torchs(rows, bias, shape):
    whole = nn.Linear(3, 10, bias=bias, dtype=torch.float64)
    split = cut(whole, rows)
    assert split.bias is whole.bias
    x = torch.randn(shape, dtype=torch.float64)
    assert_same(whole, split, x)
    assert_same(whole, split, torch.randn((*shape, 2), dtype=torch.float64).select(-1, 0))


@pytest.mark.parametrize("module", [nn.Embedding(10, 4), nn.Linear(4, 10), nn.Linear(4, 10, bias=False)])
def test_the_state_dict_is_that_of_the_whole(module):
    split = cut(module, 4)
    state = split.state_dict()
    assert list(state) == list(module.state_dict())
    for key, tensor in module.state_dict().items():
        assert torch.equal(state[key], tensor)
        assert not state[key].requires_grad
    other = copy.deepcopy(module)
    nn.init.zeros_(other.weight)
    other.load_state_dict(state)
    assert torch.equal(other.weight, module.weight)
    for assign in (False, True):
        fresh = cut(
            type(module)(*((10, 4) if isinstance(module, nn.Embedding) else (4, 10, "bias" in state))), 3
        )
        fresh.load_state_dict(module.state_dict(), assign=assign)
        assert torch.equal(torch.cat(fresh.pieces), module.weight)
        assert len(fresh.pieces) == 4
        assert all(isinstance(piece, nn.Parameter) for piece in fresh.pieces)
    assert split.state_dict(keep_vars=True)["weight"].requires_grad


def test_what_a_state_dict_lacks_or_has_too_much_is_named_as_for_the_whole():
    split = cut(nn.Linear(4, 10), 4)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight"') as caught:
        split.load_state_dict({"bias": torch.zeros(10)})
    assert "weight_0" not in str(caught.value)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        split.load_state_dict({**split.state_dict(), "extra": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"weight has the shape \(9, 4\); the pieces here have \(10, 4\)"):
        split.load_state_dict({"weight": torch.zeros(9, 4), "bias": torch.zeros(10)})
    assert split.load_state_dict({}, strict=False).missing_keys == ["weight", "bias"]


def test_the_missing_weight_says_where_it_is():
    split = cut(nn.Linear(4, 10), 4)
    assert not hasattr(split, "weight")
    with pytest.raises(AttributeError, match=r"`weight` of this SplitLinear lies in 3 pieces"):
        _ = split.weight
    with pytest.raises(AttributeError, match="nothing"):
        _ = split.nothing


@pytest.mark.parametrize("shapes", [[], [(3,)], [(3, 2), (3, 4)]])
def test_pieces_that_fit_no_weight(shapes):
    with pytest.raises(ValueError, match="`pieces` must be matrices of one width"):
        SplitLinear([nn.Parameter(torch.zeros(shape)) for shape in shapes])


@pytest.mark.parametrize("module", [nn.Embedding(10, 4), nn.Linear(4, 10)])
def test_copies_transforms_compilers_and_autocast(module):
    split = cut(module, 4)
    given = torch.tensor([1, 9]) if isinstance(module, nn.Embedding) else torch.ones(2, 4)
    assert torch.equal(copy.deepcopy(split)(given), module(given))
    assert repr(split).count("n_pieces=3")
    zeros = {name: torch.zeros_like(parameter) for name, parameter in split.named_parameters()}
    assert torch.equal(functional_call(split, zeros, (given,)), torch.zeros_like(module(given)))
    compiled = torch.compile(split, backend="eager", fullgraph=True)
    assert torch.equal(compiled(given), module(given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert split(given).dtype == module(given).dtype


class Model(nn.Module):
    """An embedding and a head, tied or not, and the embedding again under another name."""

    def __init__(self, tied=True):
        super().__init__()
        self.embedding = nn.Embedding(40, 4, padding_idx=3)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 40)
        self.again = self.embedding
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.body(self.embedding(ids)) + self.again(ids))


@pytest.mark.parametrize("tied", [False, True])
def test_a_placed_model_computes_and_trains_as_the_whole_one(monkeypatch, tied):
    """40 rows of 32 bytes; 13 of them fit into 416 bytes: 4 pieces of 10."""
    whole = Model(tied).double()
    split = copy.deepcopy(whole)
    limit(monkeypatch, max_alloc=416)
    assert place(split, "cpu") is split
    assert isinstance(split.embedding, SplitEmbedding)
    assert isinstance(split.head, SplitLinear)
    assert split.again is split.embedding
    assert isinstance(split.body[0], nn.Linear)
    assert [len(piece) for piece in split.embedding.pieces] == [10] * 4
    ties = [a is b for a, b in zip(split.embedding.pieces, split.head.pieces, strict=True)]
    assert ties == [tied] * 4
    assert list(split.state_dict()) == list(whole.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), 0.1) for model in (whole, split)]
    for _ in range(3):
        ids = torch.randint(40, (5, 7))
        losses = [model(ids).square().mean() for model in (whole, split)]
        torch.testing.assert_close(*losses)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for key, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[key], tensor)
    held = [*split.parameters(), *(p.grad for p in split.parameters())]
    held += [s for state in optimizers[1].state.values() for s in state.values()]
    assert max(tensor.untyped_storage().nbytes() for tensor in held) <= 416


def test_tied_pieces_are_saved_once(monkeypatch):
    whole = Model()
    split = copy.deepcopy(whole)
    limit(monkeypatch, max_alloc=208)
    place(split, "cpu")

    def saved(model):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return len(file.getvalue())

    assert saved(split) < saved(whole) + 200
    state = split.state_dict()
    assert state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    before = state["head.weight"].clone()
    with torch.no_grad():
        split.head.pieces[0].add_(1)
    assert torch.equal(state["head.weight"], before)
    assert torch.equal(split.state_dict()["embedding.weight"][:10], before[:10] + 1)


def test_a_state_is_saved_into_the_dict_of_an_earlier_one(monkeypatch):
    model = Model()
    limit(monkeypatch, max_alloc=208)
    place(model, "cpu")
    state = model.state_dict()
    before = state["embedding.weight"].clone()
    with torch.no_grad():
        for piece in model.head.pieces:
            piece.add_(1)
    assert model.state_dict(destination=state) is state
    assert torch.equal(state["embedding.weight"], before + 1)
    assert torch.equal(state["head.weight"], before + 1)


def test_gradients_training_mode_and_frozen_weights_come_along(monkeypatch):
    model = Model(tied=False).eval()
    model.head.weight.requires_grad_(False)
    model(torch.arange(9)).sum().backward()
    before = model.embedding.weight.grad.clone()
    limit(monkeypatch, max_alloc=208)
    place(model, "cpu")
    assert torch.equal(gradient(model.embedding), before)
    assert not model.head.training
    assert not any(piece.requires_grad for piece in model.head.pieces)
    assert model.head.pieces[0].grad is None


def test_a_layer_alone_is_returned_split_and_placed_again(monkeypatch):
    limit(monkeypatch, max_alloc=100)
    linear = nn.Linear(4, 10)
    placed = place({"head": linear}, "cpu")["head"]
    assert isinstance(placed, SplitLinear)
    assert place(placed, "cpu") is placed
    assert {size.name for size in tensor_sizes(placed)} == {"weight_0", "weight_1", "bias"}
    limit(monkeypatch, max_alloc=60)
    with pytest.raises(PlacementError, match=r"`weight_0` \(5 x 4, float32, 80 B\): 80 B in one piece"):
        place(placed, "cpu")


class Scaled(nn.Linear):
    pass


def hooked():
    module = nn.Linear(4, 40)
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Embedding(40, 4, sparse=True),
        lambda: nn.Embedding(40, 4, max_norm=1.0),
        lambda: nn.Embedding(40, 4, scale_grad_by_freq=True),
        lambda: Scaled(4, 40),
        lambda: nn.Bilinear(2, 2, 40),
        lambda: nn.Conv1d(4, 40, 1),
        lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 40)),
        hooked,
    ],
)
def test_what_cannot_be_split_is_refused_with_its_name_and_size(monkeypatch, make):
    limit(monkeypatch, max_alloc=200)
    model = nn.ModuleDict({"layer": make()})
    with pytest.raises(PlacementError, match=r"`layer\..*640 B\): 640 B in one piece; .* is 200 B\. Split"):
        place(model, "cpu")


def test_a_weight_that_another_module_holds_too_is_not_split(monkeypatch):
    limit(monkeypatch, max_alloc=200)
    model = nn.ModuleDict({"a": nn.Embedding(40, 4), "b": Scaled(4, 40, bias=False)})
    model["b"].weight = model["a"].weight
    with pytest.raises(PlacementError, match=r"`a\.weight` \(40 x 4, float32, 640 B\)"):
        place(model, "cpu")


def test_a_row_over_the_limit_is_refused(monkeypatch):
    limit(monkeypatch, max_alloc=15)
    with pytest.raises(PlacementError, match=r"`weight` .*: 16 B in one row; the largest allocation"):
        place(nn.Embedding(40, 4), "cpu")


def test_a_subclass_that_computes_as_its_parent_is_split(monkeypatch):
    class Own(nn.Embedding):
        computes_as = nn.Embedding

    limit(monkeypatch, max_alloc=200)
    assert isinstance(place(Own(40, 4), "cpu"), SplitEmbedding)
