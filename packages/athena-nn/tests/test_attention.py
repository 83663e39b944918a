"""Attention against a plain loop over heads and tokens, and in all its uses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from athena_nn import (
    AlibiPositions,
    KVCache,
    LearnedPositions,
    MultiHeadAttention,
    NoPositions,
    RotaryPositions,
    ShawPositions,
    attention_reference,
    causal_mask,
    packed_mask,
    packed_positions,
    padding_mask,
)
from athena_nn._attend import attend
from athena_nn._context import Context

POSITIONS = {
    "none": lambda: None,
    "rotary": lambda: RotaryPositions(4),
    "alibi": lambda: AlibiPositions(4),
    "shaw": lambda: ShawPositions(4),
}


def plain_attention(
    module: MultiHeadAttention, x: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """A softmax a query and head, in the words of the formula; ``mask`` broadcasts to all four axes."""
    batch, time, _ = x.shape
    n_heads, n_kv_heads, width = module.num_heads, module.num_kv_heads, module.head_dim
    positions = torch.arange(time) if positions is None else positions
    part = NoPositions() if module.positions is None else module.positions
    rows = module.qkv(x).view(batch, time, -1, width)
    q, k, v = (part.transpose(1, 2) for part in rows.split((n_heads, n_kv_heads, n_kv_heads), dim=2))
    phases = part.phases(positions, x.dtype)
    if phases is not None:
        q, k = part.rotate(q, phases), part.rotate(k, phases)
    added = torch.zeros(batch, n_heads, time, time, dtype=x.dtype)
    bias, scores = part.bias(positions, positions), part.scores(q / width**0.5, positions, positions)
    for term in (bias, scores):
        added = added if term is None else added + term
    if mask is not None:
        added = added.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else added + mask
    out = torch.zeros(batch, n_heads, time, width, dtype=x.dtype)
    for head in range(n_heads):
        shared = head * n_kv_heads // n_heads
        for t in range(time):
            first = 0 if module.window is None else max(0, t + 1 - module.window)
            last = t + 1 if module.causal else time if module.window is None else min(time, t + module.window)
            weights = torch.zeros(batch, n_heads, 1, time, dtype=x.dtype)
            own = (k[:, shared, first:last] @ q[:, head, t, :, None]).squeeze(-1) / width**0.5
            weights[:, head, 0, first:last] = (own + added[:, head, t, first:last]).softmax(-1)
            out[:, head, t] = (weights[:, head] @ v[:, shared]).squeeze(1)
            if part.weighs_values:
                out[:, head, t] += part.values(weights, positions[..., t : t + 1], positions)[:, head, 0]
    return module.out(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"causal": True, "window": 3}, {"window": 2}], ids=str
)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_equals_plain_attention_forward_and_backward(num_kv_heads, options, positions):
    """Grouped heads are neighbours (pitfall 6); in train and eval, dropout 0."""
    module = MultiHeadAttention(
        16, 4, num_kv_heads=num_kv_heads, bias=True, positions=POSITIONS[positions](), **options
    )
    x = torch.randn(2, 7, 16, requires_grad=True)
    expected = plain_attention(module, x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    for training in (True, False):
        y = module.train(training)(x)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["boolean", "a row", "a head", "added", "padding", "packed"])
def test_masks_beside_causality(kind, causal, positions):
    module = MultiHeadAttention(16, 4, num_kv_heads=2, causal=causal, positions=POSITIONS[positions]())
    itself = torch.eye(6, dtype=torch.bool)  # no row is empty
    segments = torch.tensor([[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 4, 4]])
    mask = {
        "boolean": (torch.rand(6, 6) > 0.5) | itself,
        "a row": (torch.rand(2, 6, 6) > 0.5) | itself,
        "a head": (torch.rand(2, 4, 6, 6) > 0.5) | itself,
        "added": torch.randn(1, 4, 6, 6),
        "padding": padding_mask(torch.tensor([[True] * 4 + [False] * 2, [True] * 6])),
        "packed": packed_mask(segments),
    }[kind]
    where = packed_positions(segments) if kind == "packed" else None
    x = torch.randn(2, 6, 16)
    whole = mask[:, None] if mask.ndim == 3 else mask
    expected = plain_attention(module, x, where, whole)
    torch.testing.assert_close(module(x, mask=mask, positions=where), expected, rtol=1e-5, atol=1e-5)


def test_packed_sequences_equal_each_alone():
    module = MultiHeadAttention(16, 4, causal=True, positions=RotaryPositions(4))
    x, segments = torch.randn(1, 9, 16), torch.tensor([[0] * 4 + [1] * 5])
    y = module(x, mask=packed_mask(segments), positions=packed_positions(segments))
    torch.testing.assert_close(y, torch.cat((module(x[:, :4]), module(x[:, 4:])), dim=1))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_query_that_may_attend_to_nothing_gets_zeros(dtype, queries, positions):
    """Pitfall 2, for boolean masks and those that add minus infinity, with finite gradients."""
    module = MultiHeadAttention(16, 4, num_kv_heads=2, positions=POSITIONS[positions]()).to(dtype)
    seen = torch.ones(queries, queries, dtype=torch.bool)
    seen[-1] = False
    for mask in (seen, torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))):
        x = torch.randn(2, queries, 16, dtype=dtype, requires_grad=True)
        y = module(x, mask=mask)
        assert y[:, -1].abs().max() == 0
        (grad,) = torch.autograd.grad(y.square().sum(), x)
        assert grad.isfinite().all()
        for parameter in torch.autograd.grad(module(x, mask=mask).square().sum(), module.qkv.weight):
            assert parameter.isfinite().all()


def test_the_lowest_finite_number_is_not_minus_infinity():
    """Pitfall 2: where a mask adds it everywhere, a query gets the mean of the values, padding included."""
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    lowest = torch.full((5, 5), torch.finfo(torch.float32).min)
    for y in (
        attend(q, k, v, mask=lowest[None, None], causal=False, scale=None, dropout=0.0),
        attention_reference(q, k, v, mask=lowest),
    ):
        torch.testing.assert_close(y, v.mean(dim=2, keepdim=True).expand_as(y))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["none", "alibi"])
def test_added_masks_of_any_dtype_beside_queries_of_any(dtype, mask_dtype, positions):
    """torch's CPU kernel misreads a float32 mask beside float64 queries from 16 keys on."""
    module = MultiHeadAttention(16, 4, num_kv_heads=2, causal=True, positions=POSITIONS[positions]())
    x, mask = torch.randn(2, 40, 16), torch.randn(40, 40).to(mask_dtype)
    mask[3] = float("-inf")
    expected = plain_attention(module.double(), x.double(), mask=mask.double().tril())
    expected[:, 3] = 0
    y = module.to(dtype)(x.to(dtype), mask=mask)
    assert y[:, 3].abs().max() == 0
    # bfloat16 rounds numbers near 1 to 8 bits, some masks among them to their own
    close = 1e-9 if dtype == mask_dtype == torch.float64 else 1e-5
    close = 5e-2 if torch.bfloat16 in (dtype, mask_dtype) else 1e-2 if dtype == torch.float16 else close
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=close)


def test_gradcheck_where_the_fused_kernel_takes_several_blocks():
    module = MultiHeadAttention(4, 2, causal=True, positions=AlibiPositions(2)).double()
    x = torch.randn(1, 20, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_fast_call_equals_the_reference(heads, queries):
    """Also where query heads become the queries of their shared key-value head."""
    q = torch.randn(2, 4, queries, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 6, 8, dtype=torch.float64)
    masks = [None, torch.rand(1, heads, queries, 6) > 0.4, torch.randn(2, heads, queries, 6).double()]
    for mask in masks:
        y = attend(q, k, v, mask=mask, causal=False, scale=0.3, dropout=0.0)
        torch.testing.assert_close(
            y, attention_reference(q, k, v, mask=mask, scale=0.3), rtol=1e-12, atol=1e-12
        )


def test_cross_attention_sees_a_memory_of_another_width():
    module = MultiHeadAttention(16, 4, num_kv_heads=2, kv_dim=10, bias=True, scale=1.0)
    x, memory = torch.randn(2, 3, 16), torch.randn(2, 5, 10)
    padding = torch.tensor([[True] * 5, [True, True, False, False, False]])
    q = module.q(x).view(2, 3, 4, 4).transpose(1, 2)
    k, v = module.kv(memory).view(2, 5, 2, 2, 4).permute(2, 0, 3, 1, 4)
    for mask in (None, padding_mask(padding)):
        y = attention_reference(q, k, v, mask=mask, scale=1.0)
        expected = module.out(y.transpose(1, 2).flatten(2))
        torch.testing.assert_close(module(x, memory, mask=mask), expected, rtol=1e-5, atol=1e-5)
    alone = module(x[1:], memory[1:, :2])
    torch.testing.assert_close(module(x, memory, mask=padding_mask(padding))[1:], alone, rtol=1e-5, atol=1e-5)


def test_query_and_key_norms_act_on_each_head():
    module = MultiHeadAttention(
        16, 4, num_kv_heads=2, qk_norm="rms", causal=True, positions=RotaryPositions(4)
    )
    with torch.no_grad():
        module.q_norm.weight.uniform_(0.5, 2)
        module.k_norm.weight.uniform_(0.5, 2)
    x = torch.randn(2, 5, 16)
    q, k, v = module.qkv(x).view(2, 5, 8, 4).transpose(1, 2).split((4, 2, 2), dim=1)
    phases = module.positions.phases(torch.arange(5), x.dtype)
    q, k = (part / part.square().mean(-1, keepdim=True).add(1e-6).sqrt() for part in (q, k))
    q, k = (
        module.positions.rotate(part * norm.weight, phases)
        for part, norm in ((q, module.q_norm), (k, module.k_norm))
    )
    y = attention_reference(q, k, v, mask=causal_mask(5))
    torch.testing.assert_close(module(x), module.out(y.transpose(1, 2).flatten(2)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(3 * x)[:, :1], 3 * module(x)[:, :1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_goes_on_from_a_cache_of_its_own():
    module = MultiHeadAttention(16, 4, num_kv_heads=2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 9, 16)
    cache = KVCache(num_layers=1, batch=2, num_kv_heads=2, head_dim=4)
    parts = [module(x[:, a:b], cache=cache) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x), rtol=1e-5, atol=1e-5)


def test_bfloat16_and_float64_follow_float32():
    module = MultiHeadAttention(16, 4, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 6, 16)
    exact = module(x)
    torch.testing.assert_close(module.double()(x.double()), exact.double(), rtol=1e-5, atol=1e-5)
    # four roundings to 8 bits of numbers below 1
    torch.testing.assert_close(module.bfloat16()(x.bfloat16()).float(), exact, rtol=0, atol=2e-2)


@pytest.mark.parametrize("positions", POSITIONS)
def test_gradcheck(positions):
    module = MultiHeadAttention(
        16, 4, num_kv_heads=2, causal=True, window=2, positions=POSITIONS[positions]()
    ).double()
    x = torch.randn(1, 3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_without_order_attention_is_permutation_equivariant():
    module = MultiHeadAttention(8, 2)
    x, order = torch.randn(1, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-5, atol=1e-6)


def test_positions_are_an_argument():
    module = MultiHeadAttention(8, 2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 5, 8)
    shifted = module(x, positions=torch.arange(5) + 100)
    torch.testing.assert_close(shifted, module(x), rtol=1e-4, atol=1e-5)
    stretched = module(x, positions=torch.arange(5) * 3)
    assert not torch.allclose(stretched, module(x), atol=1e-4)
    expected = plain_attention(module, x, torch.arange(5) * 3)
    torch.testing.assert_close(stretched, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 1, 8), (0, 4, 8), (2, 0, 8)])
def test_one_token_no_token_and_no_row(shape):
    module = MultiHeadAttention(8, 2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(shape)
    assert module(x).shape == shape
    if shape[1] == 1:  # a single token sees itself
        torch.testing.assert_close(module(x), module.out(module.qkv(x).split(8, dim=-1)[2]))


@pytest.mark.parametrize("positions", ["none", "shaw"])
def test_dropout_acts_in_training_alone(positions):
    """Pitfall 10: `scaled_dot_product_attention` itself ignores `eval()`."""
    module = MultiHeadAttention(16, 4, dropout=0.5, positions=POSITIONS[positions]())
    x = torch.randn(2, 6, 16)
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
        ({"embed_dim": 8, "num_heads": 2, "head_dim": 0}, "`head_dim` must be at least 1"),
        (
            {"embed_dim": 8, "num_heads": 4, "num_kv_heads": 3},
            "`num_kv_heads` must divide `num_heads` = 4; got 3",
        ),
        ({"embed_dim": 8, "num_heads": 4, "num_kv_heads": 0}, "`num_kv_heads`"),
        ({"embed_dim": 8, "num_heads": 2, "dropout": 1.0}, r"`dropout` must lie in \[0, 1\)"),
        ({"embed_dim": 8, "num_heads": 2, "window": 0}, "`window` must be a whole number, at least 1"),
        ({"embed_dim": 8, "num_heads": 2, "window": 2.5}, "`window` must be a whole number"),
        ({"embed_dim": 8, "num_heads": 2, "positions": RotaryPositions(8)}, "width 4; got one for 8"),
        ({"embed_dim": 8, "num_heads": 2, "positions": AlibiPositions(4)}, "fit 2 heads; got one for 4"),
        ({"embed_dim": 8, "num_heads": 2, "positions": LearnedPositions(4, 8)}, "acts on embeddings"),
        ({"embed_dim": 8, "num_heads": 2, "kv_dim": 8, "causal": True}, "belong to self-attention"),
        ({"embed_dim": 8, "num_heads": 2, "kv_dim": 8, "window": 2}, "belong to self-attention"),
        (
            {"embed_dim": 8, "num_heads": 2, "kv_dim": 8, "positions": NoPositions()},
            "belong to self-attention",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**options)


@pytest.mark.parametrize("positions", ["rotary", RotaryPositions])
def test_positions_that_are_not_built_are_refused(positions):
    with pytest.raises(TypeError, match="`positions` must be a built part"):
        MultiHeadAttention(8, 2, positions=positions)


def test_wrong_uses_are_refused():
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 3, 6)
    itself, cross = MultiHeadAttention(8, 2), MultiHeadAttention(8, 2, kv_dim=6)
    cache = KVCache(num_layers=1, batch=2, num_kv_heads=2, head_dim=4)
    with pytest.raises(ValueError, match="`memory` needs an attention that was built with `kv_dim`"):
        itself(x, memory)
    with pytest.raises(ValueError, match="`memory` is missing"):
        cross(x)
    with pytest.raises(ValueError, match="`positions` and `cache` belong to self-attention"):
        cross(x, memory, cache=cache)
    with pytest.raises(ValueError, match="`positions` and `cache` exclude each other"):
        MultiHeadAttention(8, 2, causal=True)(x, positions=torch.arange(3), cache=cache)
    with pytest.raises(ValueError, match=r"of shape \(3,\) or \(2, 3\); got torch.int64 of shape \(4,\)"):
        itself(x, positions=torch.arange(4))
    with pytest.raises(ValueError, match=r"`positions` must be int64 or int32 .* got torch.float32"):
        itself(x, positions=torch.arange(3.0))
    with pytest.raises(ValueError, match="`cache` needs causal attention"):
        itself(x, cache=cache)
    with pytest.raises(ValueError, match="`layer` needs the `context` of a model's pass; got 1"):
        itself(x, layer=1)
    context = Context(2, 3, x.device)
    with pytest.raises(ValueError, match="are in the `context` already"):
        itself(x, mask=torch.ones(3, 3, dtype=torch.bool), context=context)
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 3\); got \(2, 4\)"):
        itself(x, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`x` must have shape \(batch, time, 8\); got \(2, 3, 6\)"):
        itself(memory)
    with pytest.raises(ValueError, match=r"`memory` must have shape \(batch, keys, 6\); got \(2, 3, 8\)"):
        cross(x, x)
    with pytest.raises(ValueError, match="`memory` must have 2 rows, as `x`; got 1"):
        cross(x, memory[:1])
