"""Attention against a plain loop over heads and tokens, and against `nn.MultiheadAttention`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from athena_nn import MultiHeadAttention, Positions, RotaryPositions


class Slopes(Positions):
    """A bias that falls linearly with distance, as ALiBi's does: exercises the hook for biases."""

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = (query_positions[:, None] - key_positions[None]).abs().to(torch.float32)
        return -torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None] * distance


def plain_attention(module: MultiHeadAttention, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """A softmax a query and head, in the words of the formula."""
    batch, time, _ = x.shape
    n_heads, n_kv_heads, width = module.num_heads, module.num_kv_heads, module.head_dim
    positions = torch.arange(time) if positions is None else positions
    rows = module.qkv(x).view(batch, time, -1, width)
    q, k, v = (part.transpose(1, 2) for part in rows.split((n_heads, n_kv_heads, n_kv_heads), dim=2))
    q, k = module.positions.rotate(q, k, positions)
    bias = module.positions.bias(positions, positions)
    out = torch.zeros(batch, time, n_heads, width, dtype=x.dtype)
    for head in range(n_heads):
        shared = head * n_kv_heads // n_heads
        for t in range(time):
            seen = t + 1 if module.causal else time
            scores = (k[:, shared, :seen] @ q[:, head, t, :, None]).squeeze(-1) / width**0.5
            if bias is not None:
                scores = scores + bias[head, t, :seen]
            out[:, t, head] = (scores.softmax(-1)[:, None] @ v[:, shared, :seen]).squeeze(1)
    return module.out(out.flatten(2))


@pytest.mark.parametrize("positions", [None, RotaryPositions(4), Slopes()], ids=["none", "rotary", "slopes"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_equals_plain_attention_forward_and_backward(num_kv_heads, causal, positions):
    """Grouped heads are neighbours (pitfall 6); in train and eval, dropout 0."""
    module = MultiHeadAttention(
        16, 4, num_kv_heads=num_kv_heads, bias=True, causal=causal, positions=positions
    )
    x = torch.randn(2, 7, 16, requires_grad=True)
    expected = plain_attention(module, x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    for training in (True, False):
        y = module.train(training)(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_identity_with_torchs_module(causal, bias):
    """Copied weights; torch's boolean masks say what to ignore, the opposite of ours (pitfall 11)."""
    ours, theirs = (
        MultiHeadAttention(12, 3, bias=bias, causal=causal),
        nn.MultiheadAttention(12, 3, bias=bias, batch_first=True),
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
        if bias:
            theirs.in_proj_bias.copy_(ours.qkv.bias)
            theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 5, 12)
    ignored = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=ignored, need_weights=False)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_and_float64_follow_float32():
    module = MultiHeadAttention(16, 4, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 6, 16)
    exact = module(x)
    torch.testing.assert_close(module.double()(x.double()), exact.double(), rtol=1e-5, atol=1e-5)
    # four roundings to 8 bits of numbers below 1
    torch.testing.assert_close(module.bfloat16()(x.bfloat16()).float(), exact, rtol=0, atol=2e-2)


def test_gradcheck():
    module = MultiHeadAttention(8, 2, num_kv_heads=1, causal=True, positions=RotaryPositions(4)).double()
    x = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_causal_attention_sees_no_future():
    module = MultiHeadAttention(8, 2, causal=True)
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(module(x)[:, :4], module(changed)[:, :4])
    assert not torch.allclose(module(x)[:, 4:], module(changed)[:, 4:])


def test_without_order_attention_is_permutation_equivariant():
    module = MultiHeadAttention(8, 2)
    x, order = torch.randn(1, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-5, atol=1e-6)


def test_positions_are_an_argument():
    module = MultiHeadAttention(8, 2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(module(x, torch.arange(5) + 100), module(x), rtol=1e-4, atol=1e-5)
    stretched = module(x, torch.arange(5) * 3)
    assert not torch.allclose(stretched, module(x), atol=1e-4)
    torch.testing.assert_close(
        stretched, plain_attention(module, x, torch.arange(5) * 3), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 1, 8), (0, 4, 8)])
def test_one_token_and_no_row(shape):
    """Pitfall 1 concerns one query among many keys; here a single token sees itself."""
    module = MultiHeadAttention(8, 2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(shape)
    values = module.qkv(x).split(8, dim=-1)[2]
    if shape[1] == 1:
        torch.testing.assert_close(module(x), module.out(values))
    assert module(x).shape == shape


def test_dropout_acts_in_training_alone():
    """Pitfall 10: `scaled_dot_product_attention` itself ignores `eval()`."""
    module = MultiHeadAttention(8, 2, dropout=0.5)
    x = torch.randn(2, 6, 8)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
    torch.testing.assert_close(module(x), plain_attention(module, x), rtol=1e-5, atol=1e-5)


def test_strided_inputs():
    module = MultiHeadAttention(8, 2, causal=True)
    x = torch.randn(5, 2, 16)[..., ::2].transpose(0, 1)
    torch.testing.assert_close(module(x), module(x.contiguous()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 10, "num_heads": 4}, "`num_heads` must divide `embed_dim` = 10; got 4"),
        ({"embed_dim": 8, "num_heads": 0}, "`num_heads`"),
        (
            {"embed_dim": 8, "num_heads": 4, "num_kv_heads": 3},
            "`num_kv_heads` must divide `num_heads` = 4; got 3",
        ),
        ({"embed_dim": 8, "num_heads": 4, "num_kv_heads": 0}, "`num_kv_heads`"),
        ({"embed_dim": 8, "num_heads": 2, "dropout": 1.0}, r"`dropout` must lie in \[0, 1\)"),
        (
            {"embed_dim": 8, "num_heads": 2, "positions": RotaryPositions(8)},
            "heads of width 4 = 8 / 2; got one for 8",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**options)
