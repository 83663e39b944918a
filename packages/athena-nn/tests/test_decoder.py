"""Feed-forward, block and decoder: their formulas, their start, their errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from athena_nn import DecoderLM, NoPositions, RMSNorm, RotaryPositions, SwiGLU, TransformerBlock

SIZES = {"num_layers": 3, "num_heads": 4, "ff_dim": 48, "max_length": 12}


def make(**options) -> DecoderLM:
    return DecoderLM(50, 32, **{**SIZES, "positions": RotaryPositions(8), **options})


def test_swiglu_is_its_formula():
    layer = SwiGLU(6, 10, bias=True)
    x = torch.randn(4, 6)
    gate, up = layer.gate_up.weight[:10], layer.gate_up.weight[10:]
    gate_bias, up_bias = layer.gate_up.bias[:10], layer.gate_up.bias[10:]
    g = x @ gate.T + gate_bias
    expected = (g / (1 + torch.exp(-g)) * (x @ up.T + up_bias)) @ layer.down.weight.T + layer.down.bias
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradcheck(layer.double(), (x.double().requires_grad_(),))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_swiglu_refuses_empty_widths(sizes):
    with pytest.raises(ValueError, match="`embed_dim` and `ff_dim` must be at least 1"):
        SwiGLU(*sizes)


def test_block_is_its_formula():
    block = TransformerBlock(
        16, 4, ff_dim=24, num_kv_heads=2, bias=True, causal=True, positions=RotaryPositions(4)
    )
    x, positions = torch.randn(2, 5, 16), torch.arange(5) + 3
    h = x + block.attention(block.attention_norm(x), positions)
    torch.testing.assert_close(block(x, positions), h + block.feed_forward(block.feed_forward_norm(h)))
    assert block.attention.causal
    assert not TransformerBlock(16, 4, ff_dim=24).attention.causal


def test_block_dropout_acts_on_what_each_part_adds():
    block = TransformerBlock(8, 2, ff_dim=8, dropout=0.5)
    x = torch.randn(4, 6, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_decoder_is_its_parts():
    model = make(dropout=0.0)
    tokens = torch.randint(50, (2, 7))
    x = model.embedding(tokens)
    for block in model.blocks:
        x = block(x, torch.arange(7))
    logits = model(tokens)
    assert logits.shape == (2, 7, 50)
    torch.testing.assert_close(logits, model.norm(x) @ model.embedding.weight.T)


def test_embeddings_are_tied_or_not():
    tied, untied = make(), make(tie_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == 50 * 32


def test_weights_start_as_in_gpt2():
    model = DecoderLM(300, 128, num_layers=8, num_heads=4, ff_dim=256, max_length=8, bias=True)
    block = model.blocks[5]
    for weight, std in (
        (model.embedding.weight, 0.02),
        (block.attention.qkv.weight, 0.02),
        (block.feed_forward.gate_up.weight, 0.02),
        (block.attention.out.weight, 0.02 / math.sqrt(16)),
        (block.feed_forward.down.weight, 0.02 / math.sqrt(16)),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert block.attention.qkv.bias.abs().max() == 0
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, RMSNorm))
    loss = nn.functional.cross_entropy(
        model(torch.randint(300, (4, 8))).flatten(0, 1), torch.randint(300, (32,))
    )
    assert loss.item() == pytest.approx(math.log(300), abs=0.3)


def test_later_tokens_change_nothing_earlier():
    model = make()
    tokens = torch.randint(50, (2, 9))
    whole = model(tokens)
    for length in (1, 4, 8):
        torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=1e-4, atol=1e-5)


def test_positions_are_an_argument():
    model = make()
    tokens = torch.randint(50, (2, 6))
    shifted = model(tokens, torch.arange(6) + 40)
    torch.testing.assert_close(shifted, model(tokens), rtol=1e-4, atol=1e-5)
    rows = torch.stack((torch.arange(6), torch.arange(6) * 2))
    torch.testing.assert_close(model(tokens, rows)[1], model(tokens, torch.arange(6) * 2)[1])


def test_one_part_of_positions_serves_all_blocks():
    model = make()
    assert all(block.attention.positions is model.positions for block in model.blocks)
    assert isinstance(make(positions=None).positions, NoPositions)


@pytest.mark.parametrize("positions", [None, RotaryPositions(8)])
def test_it_learns_to_copy(positions):
    """A sequence of two tokens in turn is learned in a few steps, forward and backward."""
    model = make(positions=positions)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.tensor([[3, 8] * 5, [8, 3] * 5])
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_compiles_whole():
    model = make()
    tokens = torch.randint(50, (2, 6))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-4, atol=1e-5)


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
        logits = model(torch.randint(50, (2, 6)))
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", ["vocabulary", "num_layers", "max_length"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
        DecoderLM(**{"vocabulary": 5, "embed_dim": 32, **SIZES, name: 0})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[1, 50]]), r"`tokens` must lie in \[0, 50\); got 50"),
        (torch.tensor([[-1, 5]]), "got -1"),
        (torch.zeros(1, 13, dtype=torch.long), "at most `max_length` = 12 a row; got 13"),
        (torch.zeros(3, dtype=torch.long), r"shape \(batch, time\); got \(3,\)"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        make()(tokens)


def test_no_rows_and_the_longest_row():
    assert make()(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4, 50)
    assert make()(torch.zeros(1, 12, dtype=torch.long)).shape == (1, 12, 50)
