"""The decoder: its parts, its start, its padding and memory, its errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from athena_nn import Decoder, Encoder, LearnedPositions, NoPositions, RMSNorm, RotaryPositions, packed_mask

SIZES = {"num_layers": 3, "num_heads": 4, "ff_dim": 48, "max_length": 12}


def make(**options) -> Decoder:
    return Decoder(50, 32, **{**SIZES, "positions": RotaryPositions(8), **options})


def test_decoder_is_its_parts():
    model = make(embedding_scale=3.0, embedding_norm=True)
    tokens = torch.randint(50, (2, 7))
    x = model.embedding_norm(model.embedding(tokens) * 3)
    for block in model.blocks:
        block.attention.positions = model.positions
        x = block(x)
        block.attention.positions = None
    logits = model(tokens)
    assert logits.shape == (2, 7, 50)
    torch.testing.assert_close(logits, model.norm(x) @ model.embedding.weight.T)
    torch.testing.assert_close(model.hidden(tokens), model.norm(x))
    assert isinstance(make(norm_first=False).norm, nn.Identity)


def test_embeddings_are_tied_or_not():
    tied, untied = make(), make(tie_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == 50 * 32


def test_weights_start_as_in_gpt2():
    model = Decoder(300, 128, num_layers=8, num_heads=4, ff_dim=256, bias=True, memory_dim=128)
    block = model.blocks[5]
    for weight, std in (
        (model.embedding.weight, 0.02),
        (block.attention.qkv.weight, 0.02),
        (block.feed_forward.up.weight, 0.02),
        (block.attention.out.weight, 0.02 / math.sqrt(16)),
        (block.cross_attention.out.weight, 0.02 / math.sqrt(16)),
        (block.feed_forward.down.weight, 0.02 / math.sqrt(16)),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert block.attention.qkv.bias.abs().max() == 0
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, RMSNorm))
    model = Decoder(300, 128, num_layers=2, num_heads=4, ff_dim=256)
    loss = model.loss(torch.randint(300, (4, 8)), torch.randint(300, (4, 8)))
    assert loss.item() == pytest.approx(math.log(300), abs=0.3)


def test_loss_is_the_cross_entropy_of_the_logits():
    model = make()
    tokens, targets = torch.randint(50, (2, 2, 7))
    targets[0, 3:] = -100
    expected = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    loss = model.loss(tokens, targets)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_loss_counts_no_padding():
    model = make()
    tokens, targets = torch.randint(50, (2, 2, 7))
    real = torch.tensor([[True] * 7, [False] * 3 + [True] * 4])
    expected = model.loss(tokens, targets.masked_fill(~real, -100), padding=real)
    torch.testing.assert_close(model.loss(tokens, targets, padding=real), expected)
    alone = model.loss(tokens[1:, 3:], targets[1:, 3:])
    both = (7 * model.loss(tokens[:1], targets[:1]) + 4 * alone) / 11
    torch.testing.assert_close(expected, both)


def test_loss_takes_no_padding_as_forward_does():
    model = make()
    tokens, targets = torch.randint(50, (2, 2, 7))
    assert torch.equal(model.loss(tokens, targets, padding=None), model.loss(tokens, targets))


def test_weights_can_be_drawn_after_the_meta_device():
    with torch.device("meta"):
        model = make(norm="layer", bias=True, positions=LearnedPositions(12, 32), qk_norm="rms")
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    model.head.weight = model.embedding.weight
    model.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    torch.manual_seed(3)
    model.reset_parameters()
    torch.manual_seed(3)
    other = make(norm="layer", bias=True, positions=LearnedPositions(12, 32), qk_norm="rms")
    torch.manual_seed(3)
    other.reset_parameters()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_later_tokens_change_nothing_earlier():
    model = make()
    tokens = torch.randint(50, (2, 9))
    whole = model(tokens)
    for length in (1, 4, 8):
        torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_hides_what_it_covers(side):
    """In training as in evaluation, whatever ids stand there; test_cache draws many more."""
    model = make(dropout=0.0)
    tokens = torch.randint(50, (1, 9))
    hole = {"left": range(4), "right": range(5, 9), "middle": (2, 3, 6)}[side]
    real = torch.ones(1, 9, dtype=torch.bool)
    real[0, list(hole)] = False
    padded = tokens.masked_fill(~real, -100)
    for training in (True, False):
        model.train(training)
        alone = model(tokens[real][None])[0]
        torch.testing.assert_close(model(padded, padding=real)[real], alone, rtol=1e-5, atol=1e-5)
    at = torch.arange(9)[None] * 2
    alone = model(tokens[real][None], positions=at[real][None])[0]
    for given in (at, at[0]):
        y = model(padded, padding=real, positions=given)
        torch.testing.assert_close(y[real], alone, rtol=1e-5, atol=1e-5)


def test_packed_sequences_equal_each_alone():
    model = make()
    tokens, segments = torch.randint(50, (1, 9)), torch.tensor([[0] * 4 + [1] * 5])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    packed = model(tokens, mask=packed_mask(segments), positions=positions)
    alone = torch.cat((model(tokens[:, :4]), model(tokens[:, 4:])), dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_positions_are_an_argument():
    model = make()
    tokens = torch.randint(50, (2, 6))
    shifted = model(tokens, positions=torch.arange(6) + 40)
    torch.testing.assert_close(shifted, model(tokens), rtol=1e-4, atol=1e-5)
    rows = torch.stack((torch.arange(6), torch.arange(6) * 2))
    torch.testing.assert_close(
        model(tokens, positions=rows)[1], model(tokens, positions=torch.arange(6) * 2)[1]
    )


def test_one_part_of_positions_serves_all_blocks():
    model = make(positions=LearnedPositions(12, 32))
    assert [name for name in model.state_dict() if "positions" in name] == ["positions.weight"]
    assert isinstance(make(positions=None).positions, NoPositions)
    own = make()
    own.blocks[0].attention.positions = NoPositions()  # a block's own come first
    tokens = torch.randint(50, (1, 6))
    assert not torch.allclose(own(tokens), make(positions=None)(tokens))


def test_longest_sequence_is_that_of_the_positions_too():
    assert make(max_length=None).max_length is None
    assert make(max_length=None, positions=LearnedPositions(9, 32)).max_length == 9
    assert make(max_length=7, positions=LearnedPositions(9, 32)).max_length == 7
    model = make()
    cache = model.new_cache(1)
    with torch.no_grad():
        model(torch.zeros(1, 10, dtype=torch.long), cache=cache)
        with pytest.raises(ValueError, match="at most `max_length` = 12 a row; got 13"):
            model(torch.zeros(1, 3, dtype=torch.long), cache=cache)


@torch.no_grad()
def test_a_memory_is_attended_to():
    encoder = Encoder(20, 24, num_layers=1, num_heads=4, ff_dim=16)
    model = make(memory_dim=24)
    tokens, memory = torch.randint(50, (2, 5)), encoder(torch.randint(20, (2, 7)))
    padding = torch.tensor([[True] * 7, [True] * 2 + [False] * 5])
    logits = model(tokens, memory=memory, memory_padding=padding)
    alone = model(tokens[1:], memory=memory[1:, :2])
    torch.testing.assert_close(logits[1:], alone, rtol=1e-5, atol=1e-5)
    cache = model.new_cache(2, memory=memory, memory_padding=padding)
    parts = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 2), (2, 3), (3, 5))]
    torch.testing.assert_close(torch.cat(parts, 1), logits, rtol=1e-5, atol=1e-5)
    rows = torch.tensor([1, 1, 0])
    cache.reorder(rows)
    after = model(tokens[rows, :1], cache=cache)
    whole = model(
        torch.cat((tokens, tokens[:, :1]), 1)[rows], memory=memory[rows], memory_padding=padding[rows]
    )
    torch.testing.assert_close(after, whole[:, -1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", [None, RotaryPositions(8)])
def test_it_learns_to_copy(positions):
    """A sequence of two tokens in turn is learned in a few steps, forward and backward."""
    model = make(positions=positions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.tensor([[3, 8] * 5, [8, 3] * 5])
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_checkpointing_changes_no_gradient():
    """Dropout draws the same in both passes; the blocks keep only their inputs."""
    tokens = torch.randint(50, (2, 9))
    model, plain = make(dropout=0.2, checkpoint=True), make(dropout=0.2)
    plain.load_state_dict(model.state_dict())
    gradients, saved = [], []
    for one in (model, plain):
        torch.manual_seed(1)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, n=sizes: n.append(t.numel()) or t, lambda t: t
        ):
            loss = one.loss(tokens, tokens)
        gradients.append(torch.autograd.grad(loss, list(one.parameters())))
        saved.append(sum(sizes))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert saved[0] < saved[1] / 2


def test_stochastic_depth_grows_with_depth():
    rates = [block.drop_path.p for block in make(drop_path=0.2).layers()]
    assert rates == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    assert make(num_layers=1, drop_path=0.2).layers()[0].drop_path.p == 0.2


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch says so of its own CPU kernel
def test_gradients_of_each_row_under_vmap():
    model = make()
    parameters = dict(model.named_parameters())
    tokens = torch.randint(50, (3, 1, 6))

    def loss(parameters, row):
        return torch.func.functional_call(model, parameters, (row,), tie_weights=True).logsumexp(-1).sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, tokens)
    alone = torch.func.grad(loss)(parameters, tokens[1])
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name][1], gradient, rtol=1e-3, atol=1e-4)


def test_autocast_keeps_float32_parameters_and_gradients():
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(*torch.randint(50, (2, 2, 6)))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_no_parameter_is_made_in_forward():
    """So that FSDP2 finds all of them when it wraps the model."""
    model = make(memory_dim=32, qk_norm="rms")
    before = [name for name, _ in model.named_parameters()]
    model(torch.zeros(1, 3, dtype=torch.long), memory=torch.randn(1, 2, 32))
    assert [name for name, _ in model.named_parameters()] == before
    assert not list(model.named_buffers())


@pytest.mark.parametrize("name", ["vocabulary", "num_layers", "max_length"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
        Decoder(**{"vocabulary": 5, "embed_dim": 32, **SIZES, name: 0})


def test_positions_for_other_heads_are_refused():
    with pytest.raises(ValueError, match="`positions` must fit heads of width 8; got one for 4"):
        make(positions=RotaryPositions(4))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[1, 50]]), r"`tokens` must lie in \[0, 50\); got 50"),
        (torch.tensor([[-1, 5]]), "got -1"),
        (torch.zeros(1, 13, dtype=torch.long), "at most `max_length` = 12 a row; got 13"),
        (torch.zeros(3, dtype=torch.long), r"shape \(batch, time\); got \(3,\)"),
        (torch.zeros(1, 3), "`tokens` must be int64 or int32 ids; got torch.float32"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        make()(tokens)


def test_wrong_uses_are_refused():
    tokens, real = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    memory = torch.randn(2, 3, 32)
    with pytest.raises(ValueError, match="`padding` and `mask` exclude each other"):
        make()(tokens, padding=real, mask=real)
    with pytest.raises(ValueError, match=r"`padding` must be boolean.*\(2, 4\); got torch.int64 of shape"):
        make()(tokens, padding=real.long())
    with pytest.raises(ValueError, match=r"of shape \(2, 4\); got torch.bool of shape \(2, 3\)"):
        make()(tokens, padding=real[:, :3])
    with pytest.raises(ValueError, match="`memory` needs a decoder built with `memory_dim`"):
        make()(tokens, memory=memory)
    looking = make(memory_dim=32)
    with pytest.raises(ValueError, match="`memory` is missing"):
        looking(tokens)
    cache = looking.new_cache(2, memory=memory)
    for given in ({"memory": memory}, {"memory_padding": real[:, :3]}):
        with pytest.raises(ValueError, match="`memory` and its padding are in the `cache` already"):
            looking(tokens, cache=cache, **given)
    for call in (make().new_cache, lambda batch, **given: make()(tokens[:batch], **given)):
        with pytest.raises(ValueError, match="`memory_padding` is given without a `memory`"):
            call(2, memory_padding=real)
    with pytest.raises(ValueError, match=r"`memory_padding` must be boolean.*of shape \(2, 3\); got"):
        looking(tokens, memory=memory, memory_padding=real)
    with pytest.raises(ValueError, match=r"`memory` must have shape \(batch, keys, width\); got \(2, 32\)"):
        looking(tokens, memory=memory[:, 0])
    with pytest.raises(ValueError, match=r"of shape \(4,\) or \(2, 4\); got torch.int64 of shape \(3,\)"):
        make()(tokens, padding=real, positions=torch.arange(3))


def test_no_rows_and_the_longest_row():
    assert make()(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4, 50)
    assert make()(torch.zeros(1, 12, dtype=torch.long)).shape == (1, 12, 50)
