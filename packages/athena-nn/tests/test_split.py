"""A decoder whose vocabulary lies in pieces: its loss, gradients, logits and cache are the whole one's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from athena_core import DeviceCaps, SplitEmbedding, SplitLinear, place
from athena_nn import Decoder, RotaryPositions, generate, linear_cross_entropy, save_pretrained
from athena_nn import _cross_entropy as limits
from athena_nn._split_cross_entropy import split_cross_entropy


def make(tied, dtype=torch.float64, **options):
    sizes = {"num_layers": 2, "num_heads": 4, "ff_dim": 24, "positions": RotaryPositions(4)}
    return Decoder(151, 16, **sizes, tie_embeddings=tied, **options).to(dtype)


def split(model, monkeypatch, rows):
    """A copy placed where so many rows of the vocabulary may be allocated at once."""
    bytes_a_row = 16 * model.embedding.weight.itemsize
    caps = DeviceCaps(max_alloc=rows * bytes_a_row)
    monkeypatch.setattr("athena_core._backends.CPU.caps", lambda self, index=0: caps)
    placed = place(copy.deepcopy(model), "cpu")
    assert isinstance(placed.embedding, SplitEmbedding)
    assert isinstance(placed.head, SplitLinear)
    return placed


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_loss_and_all_gradients(monkeypatch, tied, checkpoint):
    whole = make(tied, checkpoint=checkpoint)
    parts = split(whole, monkeypatch, 64)
    tokens = torch.randint(151, (3, 9))
    tokens[0, :4] = torch.tensor([0, 50, 51, 150])
    targets = tokens.roll(-1, 1)
    targets[1, 3:] = -100
    padding = torch.ones(3, 9, dtype=torch.bool)
    padding[2, :5] = False
    for model in (whole, parts):
        model.loss(tokens, targets, padding=padding).backward()
    torch.testing.assert_close(parts.loss(tokens, targets), whole.loss(tokens, targets))
    torch.testing.assert_close(parts(tokens), whole(tokens))
    found = {name: p.grad for name, p in parts.named_parameters()}
    for name, parameter in whole.named_parameters():
        grads = [found[name]] if name in found else [found[f"{name}_{i}"] for i in range(3)]
        torch.testing.assert_close(torch.cat(grads), parameter.grad)


def test_generating_is_the_same_and_a_checkpoint_fits_both(monkeypatch):
    whole = make(tied=True, dtype=torch.float32).eval()
    parts = split(whole, monkeypatch, 64)
    tokens = torch.randint(151, (2, 5))
    pairs = [generate(model, tokens, max_new_tokens=6) for model in (whole, parts)]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    other = make(tied=True, dtype=torch.float32).eval()
    other.load_state_dict(parts.state_dict())
    assert torch.equal(other(tokens), whole(tokens))
    parts.load_state_dict(make(tied=True, dtype=torch.float32).state_dict())
    assert not torch.equal(parts(tokens), whole(tokens))


def test_what_needs_the_whole_matrix_says_so(monkeypatch, tmp_path):
    parts = split(make(tied=True, max_length=9), monkeypatch, 64)
    with pytest.raises(ValueError, match=r"got a vocabulary in pieces \(load its state dict into a model"):
        save_pretrained(parts, tmp_path)
    with pytest.raises(AttributeError, match=r"`weight` of this SplitEmbedding lies in 3 pieces"):
        parts.reset_parameters()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "logits"), [(512, 2**23), (3, 1)])
def test_the_loss_equals_the_whole_ones(monkeypatch, dtype, rows, logits):
    """In one chunk and in many, with all, some and none of the rows ignored; empty too."""
    monkeypatch.setattr(limits, "_ROWS", rows)
    monkeypatch.setattr(limits, "_LOGITS", logits)
    for length in (10, 1, 0):
        for ignored in (0, length // 2, length):
            hidden = torch.randn(length, 8, dtype=dtype, requires_grad=True)
            weight = torch.randn(33, 8, dtype=dtype, requires_grad=True)
            targets = torch.randint(33, (length,))
            targets[:ignored] = -7
            ours = split_cross_entropy(hidden, weight.split(12), targets, ignore_index=-7)
            found = torch.autograd.grad(2 * ours, (hidden, weight))
            expected = linear_cross_entropy(hidden, weight, targets, ignore_index=-7)
            torch.testing.assert_close(ours, expected, equal_nan=True)
            expected = torch.autograd.grad(2 * expected, (hidden, weight))
            narrow = (
                {"rtol": 2e-2, "atol": 2e-3} if dtype == torch.bfloat16 else {}
            )  # each piece's sum rounds
            torch.testing.assert_close(found, expected, **narrow)


def test_second_derivatives_transforms_autocast_and_compilers():
    hidden, weight = torch.randn(6, 8, dtype=torch.float64), torch.randn(9, 8, dtype=torch.float64)
    targets = torch.randint(9, (6,))
    pieces = [piece.clone().requires_grad_() for piece in weight.split(4)]
    hidden.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda h, *p: split_cross_entropy(h, p, targets), (hidden, *pieces))
    gradient = torch.func.grad(lambda h: split_cross_entropy(h, pieces, targets))(hidden)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(split_cross_entropy(hidden, pieces, targets), hidden)[0]
    )
    compiled = torch.compile(split_cross_entropy, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(hidden, pieces, targets), pieces),
        torch.autograd.grad(F.cross_entropy(hidden @ torch.cat(pieces).T, targets), pieces),
    )
    narrow = [piece.detach().float().requires_grad_() for piece in pieces]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = split_cross_entropy(hidden.float(), narrow, targets)
        expected = linear_cross_entropy(hidden.float(), torch.cat(narrow), targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, narrow), torch.autograd.grad(expected, narrow), rtol=2**-7, atol=2**-9
    )


def test_refusals():
    hidden, pieces = torch.randn(2, 4), torch.randn(5, 4).split(3)
    with pytest.raises(ValueError, match=r"`targets` must lie in \[0, 5\)"):
        split_cross_entropy(hidden, pieces, torch.tensor([1, 5]))
    with pytest.raises(ValueError, match="must have one dtype"):
        split_cross_entropy(hidden.double(), pieces, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"`targets` must have the shape"):
        split_cross_entropy(hidden, pieces, torch.tensor([1]))
