"""The block: its formulas, norm first and last, and its dropouts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_nn import DropPath, KVCache, LayerNorm, RMSNorm, RotaryPositions, TransformerBlock, padding_mask


def test_norm_first_is_its_formula():
    block = TransformerBlock(
        16, 4, ff_dim=24, num_kv_heads=2, bias=True, causal=True, positions=RotaryPositions(4)
    )
    x, positions = torch.randn(2, 5, 16), torch.arange(5) + 3
    h = x + block.attention(block.attention_norm(x), positions=positions)
    expected = h + block.feed_forward(block.feed_forward_norm(h))
    torch.testing.assert_close(block(x, positions=positions), expected)
    assert block.attention.causal
    assert not TransformerBlock(16, 4, ff_dim=24).attention.causal


def test_norm_last_is_its_formula():
    block = TransformerBlock(16, 4, ff_dim=24, norm_first=False, norm="layer")
    x = torch.randn(2, 5, 16)
    h = block.attention_norm(x + block.attention(x))
    torch.testing.assert_close(block(x), block.feed_forward_norm(h + block.feed_forward(h)))


@pytest.mark.parametrize("norm_first", [True, False])
def test_cross_attention_stands_between(norm_first):
    block = TransformerBlock(16, 4, ff_dim=24, memory_dim=6, norm_first=norm_first)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 6)
    mask = padding_mask(torch.tensor([[True] * 7, [True] * 3 + [False] * 4]))
    if norm_first:
        h = x + block.attention(block.attention_norm(x))
        h = h + block.cross_attention(block.cross_norm(h), memory, mask=mask)
        expected = h + block.feed_forward(block.feed_forward_norm(h))
    else:
        h = block.attention_norm(x + block.attention(x))
        h = block.cross_norm(h + block.cross_attention(h, memory, mask=mask))
        expected = block.feed_forward_norm(h + block.feed_forward(h))
    torch.testing.assert_close(block(x, memory, memory_mask=mask), expected)
    with pytest.raises(ValueError, match="`memory` is missing"):
        block(x)
    with pytest.raises(ValueError, match="`memory_mask` is given without a `memory`"):
        TransformerBlock(16, 4, ff_dim=24)(x, memory_mask=mask)
    with pytest.raises(ValueError, match="`cache` must have 1 layers; got one of 2"):
        TransformerBlock(16, 4, ff_dim=24, causal=True)(
            x, cache=KVCache(num_layers=2, batch=2, num_kv_heads=4, head_dim=4)
        )
    with pytest.raises(ValueError, match="`memory` needs a block built with `memory_dim`"):
        TransformerBlock(16, 4, ff_dim=24)(x, memory)


def test_parts_by_name_by_callable_and_by_module():
    block = TransformerBlock(16, 4, ff_dim=24, norm="rms", activation="geglu", qk_norm="layer")
    assert isinstance(block.attention_norm, RMSNorm)
    assert isinstance(block.attention.q_norm, LayerNorm)
    assert block.feed_forward.up.out_features == 48
    block = TransformerBlock(16, 4, ff_dim=24, norm=nn.LayerNorm, activation=nn.Tanh())
    assert isinstance(block.feed_forward_norm, nn.LayerNorm)
    assert block.feed_forward.up.out_features == 24
    assert block(torch.randn(1, 2, 16)).shape == (1, 2, 16)


def test_biases():
    block = TransformerBlock(16, 4, ff_dim=24, bias=False, qkv_bias=True)
    assert block.attention.qkv.bias is not None
    assert block.attention.out.bias is None
    assert block.feed_forward.up.bias is None


@pytest.mark.parametrize("where", ["dropout", "attention_dropout", "ff_dropout", "drop_path"])
def test_each_dropout_acts_in_training_alone(where):
    others = {"attention_dropout": 0.0, "ff_dropout": 0.0}
    block = TransformerBlock(16, 4, ff_dim=24, **{**others, where: 0.5})
    x = torch.randn(4, 6, 16)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    kept = TransformerBlock(16, 4, ff_dim=24)
    kept.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), kept(x))


def test_dropout_is_that_of_all_three_by_default():
    block = TransformerBlock(16, 4, ff_dim=24, dropout=0.3)
    assert block.attention.dropout == block.feed_forward.dropout.p == block.residual_dropout.p == 0.3


def test_stochastic_depth_leaves_out_whole_rows_and_keeps_the_mean():
    layer = DropPath(0.25)
    x = torch.randn(4000, 3)
    y = layer(x)
    left_out = (y == 0).all(dim=1)
    assert left_out.float().mean().item() == pytest.approx(0.25, abs=0.03)  # four standard errors
    torch.testing.assert_close(y[~left_out], x[~left_out] / 0.75)
    assert torch.equal(layer.eval()(x), x)
    with pytest.raises(ValueError, match=r"`p` must lie in \[0, 1\); got 1"):
        DropPath(1.0)


@pytest.mark.parametrize("norm_first", [True, False])
def test_gradcheck(norm_first):
    block = TransformerBlock(
        8, 2, ff_dim=8, memory_dim=4, norm_first=norm_first, causal=True, activation="geglu", norm="layer"
    ).double()
    x = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x, memory))
