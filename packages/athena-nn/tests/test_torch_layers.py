"""Attention and encoder layers beside torch's own, with copied weights and converted masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from athena_nn import Encoder, MultiHeadAttention, from_torch_masks

WIDTH, HEADS, BATCH, TIME, KEYS = 24, 4, 3, 7, 5


def attention_pair(dtype: torch.dtype, *, bias: bool, kv_dim: int | None) -> tuple[nn.Module, nn.Module]:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, kdim=kv_dim, vdim=kv_dim, batch_first=True)
    ours = MultiHeadAttention(WIDTH, HEADS, bias=bias, kv_dim=kv_dim)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    state = {f"out.{kind}": parameter for kind, parameter in theirs.out_proj.named_parameters()}
    if kv_dim is None:
        state["qkv.weight"] = theirs.in_proj_weight
        if bias:
            state["qkv.bias"] = theirs.in_proj_bias
    else:
        state["q.weight"] = theirs.q_proj_weight
        state["kv.weight"] = torch.cat([theirs.k_proj_weight, theirs.v_proj_weight])
        if bias:
            state["q.bias"], state["kv.bias"] = theirs.in_proj_bias.split((WIDTH, 2 * WIDTH))
    ours.load_state_dict(state)
    return ours.to(dtype), theirs.to(dtype)


def masks(kind: str, queries: int, keys: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of `nn.MultiheadAttention`: boolean True says what to ignore. No row ignores everything."""
    ignored = torch.rand(BATCH * HEADS, queries, keys) < 0.3
    ignored[..., 0] = False
    padding = torch.zeros(BATCH, keys, dtype=torch.bool)
    padding[1, -2:] = padding[2, -1:] = True
    added = torch.randn(queries, keys).to(dtype)
    return {
        "none": {},
        "boolean": {"attn_mask": ignored[0]},
        "boolean of each head": {"attn_mask": ignored},
        "added": {"attn_mask": added},
        "padding": {"key_padding_mask": padding},
        "boolean and padding": {"attn_mask": ignored[0], "key_padding_mask": padding},
        "added and padding": {
            "attn_mask": added,
            # torch wants both of one type
            "key_padding_mask": torch.zeros(BATCH, keys, dtype=dtype).masked_fill(padding, float("-inf")),
        },
    }[kind]


# in bfloat16 both round after each of four products, at places of their own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "kind",
    [
        "none",
        "boolean",
        "boolean of each head",
        "added",
        "padding",
        "boolean and padding",
        "added and padding",
    ],
)
@pytest.mark.parametrize("kv_dim", [None, 10], ids=["self", "cross"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_attention_is_torchs(bias, kv_dim, kind, training, dtype, tolerance):
    """Pitfall: True means ignore there, and attend here and in `scaled_dot_product_attention`."""
    ours, theirs = (one.train(training) for one in attention_pair(dtype, bias=bias, kv_dim=kv_dim))
    x = torch.randn(BATCH, TIME, WIDTH).to(dtype)
    memory = None if kv_dim is None else torch.randn(BATCH, KEYS, kv_dim).to(dtype)
    seen = x if memory is None else memory
    given = masks(kind, TIME, seen.shape[1], dtype)
    found = ours(x, memory, mask=from_torch_masks(**given, num_heads=HEADS))
    expected, _ = theirs(x, seen, seen, need_weights=False, **given)
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["norm last", "norm first"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_is_torchs(activation, norm_first, training, padded):
    """Three layers; in torch, the path of `eval()` is another than that of training. Here they agree."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 32, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    last = nn.LayerNorm(WIDTH) if norm_first else None
    theirs = nn.TransformerEncoder(layer, 3, last, enable_nested_tensor=False).train(training)
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    ours = Encoder(
        50, WIDTH, num_layers=3, num_heads=HEADS, ff_dim=32, activation=activation, norm="layer",
        norm_first=norm_first, bias=True,
    ).train(training)  # fmt: skip
    state = {"embedding.weight": ours.embedding.weight}
    parts = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "feed_forward.up.",
        "linear2.": "feed_forward.down.",
        "norm1.": "attention_norm.",
        "norm2.": "feed_forward_norm.",
    }
    for name, parameter in theirs.named_parameters():
        for their, our in parts.items():
            name = name.replace(f".{their}", f".{our}")
        state[name.replace("layers.", "blocks.")] = parameter
    ours.load_state_dict(state)
    tokens = torch.randint(50, (BATCH, TIME))
    padding = torch.ones(BATCH, TIME, dtype=torch.bool)
    if padded:
        padding[1, -3:] = padding[2, -5:] = False
    found = ours(tokens, padding=padding if padded else None)
    expected = theirs(ours.embedding(tokens), src_key_padding_mask=~padding if padded else None)
    torch.testing.assert_close(found[padding], expected[padding], rtol=1e-4, atol=1e-4)
