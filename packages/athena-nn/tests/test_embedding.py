"""The embedding op and layer against torch's, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athena_nn import Decoder, Embedding, LearnedPositions, embedding
from athena_nn._embedding import _samples


def rows_one_by_one(weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    rows = [weight[i] for i in ids.flatten().tolist()]
    return torch.stack(rows).view(*ids.shape, -1) if rows else weight.new_zeros(*ids.shape, weight.shape[1])


def test_equals_rows_on_all_samples(dtype):
    for weight, ids, padding_idx in _samples("cpu", dtype, torch.Generator().manual_seed(0)):
        weight.requires_grad_()
        y = embedding(weight, ids, padding_idx)
        assert torch.equal(y, rows_one_by_one(weight, ids))
        slopes = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, weight, slopes)
        (expected,) = torch.autograd.grad(F.embedding(ids, weight, padding_idx), weight, slopes)
        assert torch.equal(found, expected)
        if padding_idx is not None:
            assert found[padding_idx].count_nonzero() == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 1},
        {"padding_idx": -2},
        {"max_norm": 0.5},
        {"scale_grad_by_freq": True},
        {"sparse": True},
    ],
)
def test_the_layer_is_torchs(options):
    ours = Embedding(7, 4, **options)
    theirs = nn.Embedding(7, 4, **options)
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor([[1, 5, 5], [0, 6, 5]])
    slopes = torch.randn(2, 3, 4)
    for layer in (ours, theirs):
        layer(ids).backward(slopes)
    assert torch.equal(ours(ids), theirs(ids))
    assert torch.equal(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())
    assert str(ours) == str(theirs)


def test_hooks_and_parametrizations_of_the_layer_work():
    layer, seen = Embedding(3, 2), []
    layer.register_forward_hook(lambda module, args, y: seen.append(y) or 2 * y)
    ids = torch.tensor([2, 0])
    assert torch.equal(layer(ids), 2 * layer.weight[ids])
    assert len(seen) == 1

    class Negated(nn.Module):
        def forward(self, weight):
            return -weight

    plain = layer.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(layer, "weight", Negated())
    assert torch.equal(layer(ids), -2 * plain[ids])


def test_the_models_use_it():
    model = Decoder(
        11, 8, num_layers=1, num_heads=2, ff_dim=16, positions=LearnedPositions(5, 8), max_length=5
    )
    assert type(model.embedding) is Embedding
    graph = torch.export.export(model, (torch.zeros(2, 3, dtype=torch.int64),)).graph
    assert sum("athena_nn.embedding" in str(node.target) for node in graph.nodes) == 2


def test_compiled_it_is_the_same():
    weight, ids = torch.randn(5, 3, requires_grad=True), torch.tensor([[4, 4], [1, 0]])
    compiled = torch.compile(embedding, backend="aot_eager", fullgraph=True)
    for padding_idx in (None, 4):
        y, expected = compiled(weight, ids, padding_idx), embedding(weight, ids, padding_idx)
        assert torch.equal(y, expected)
        slopes = torch.randn(2, 2, 3)
        assert torch.equal(
            *(torch.autograd.grad(one, weight, slopes)[0] for one in (y, expected)),
        )


def test_what_torch_refuses_is_refused():
    weight = torch.zeros(3, 2)
    with pytest.raises(IndexError, match="out of range"):
        embedding(weight, torch.tensor([3]))
    with pytest.raises(AssertionError, match="within num_embeddings"):
        embedding(weight, torch.tensor([0]), 3)
    with pytest.raises(RuntimeError, match="Long, Int"):
        embedding(weight, torch.tensor([0.0]))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's forward mode
def test_transforms():
    weight, ids = torch.randn(4, 3), torch.tensor([3, 1, 3])
    tables = torch.stack([weight, 2 * weight])
    assert torch.equal(torch.vmap(embedding, (0, None))(tables, ids), tables[:, ids])
    tangent = torch.func.jvp(lambda one: embedding(one, ids), (weight,), (weight,))[1]
    assert torch.equal(tangent, weight[ids])
    assert torch.autograd.gradcheck(lambda one: embedding(one, ids), weight.double().requires_grad_())
