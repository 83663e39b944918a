"""GPT-2: projections stored transposed, those of queries, keys and values as one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from athena_nn._activations import GELUTanh
from athena_nn._decoder import Decoder
from athena_nn._feed_forward import FeedForward
from athena_nn._layer_norm import LayerNorm
from athena_nn._learned import LearnedPositions
from athena_nn._pretrained_family import HEAD, Config, Family, is_tied, named, norms

# transformers' names of activations, and ours
ACTIVATIONS = {
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


def build(config: Config) -> Decoder:
    """The model that config.json describes. Raises ValueError for what is missing or not supported."""
    config.refuse("scale_attn_by_inverse_layer_idx", unless=False)
    config.refuse("add_cross_attention", unless=False)
    activation = config.default("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json: `activation_function` must be one of {', '.join(ACTIVATIONS)}; got {activation!r}."
        )
    width, dropout = config.required("n_embd", int), config.default("resid_pdrop", 0.1)
    model = Decoder(
        config.required("vocab_size", int),
        width,
        num_layers=config.required("n_layer", int),
        num_heads=config.required("n_head", int),
        ff_dim=config.optional("n_inner", int) or 4 * width,
        positions=LearnedPositions(config.required("n_positions", int), width),
        tie_embeddings=config.default("tie_word_embeddings", True),
        activation=ACTIVATIONS[activation],
        norm=partial(LayerNorm, eps=config.default("layer_norm_epsilon", 1e-5)),
        dropout=dropout,
        attention_dropout=config.default("attn_pdrop", 0.1),
        ff_dropout=0.0,
        bias=True,
        scale=None if config.default("scale_attn_weights", True) else 1.0,
    )
    model.dropout.p = config.default("embd_pdrop", 0.1)
    return model


def tensors(model: Decoder) -> dict[str, Tensor]:
    """Each tensor of a checkpoint, as a view of the parameter that holds it."""
    assert isinstance(model.positions, LearnedPositions)
    found = dict(named(model.embedding, "transformer.wte"))
    found |= named(model.positions, "transformer.wpe")
    for i, block in enumerate(model.layers()):
        layer = f"transformer.h.{i}"
        found |= named(block.attention_norm, f"{layer}.ln_1")
        found |= _transposed(block.attention.qkv, f"{layer}.attn.c_attn")
        found |= _transposed(block.attention.out, f"{layer}.attn.c_proj")
        found |= named(block.feed_forward_norm, f"{layer}.ln_2")
        found |= _transposed(block.feed_forward.up, f"{layer}.mlp.c_fc")
        found |= _transposed(block.feed_forward.down, f"{layer}.mlp.c_proj")
    found |= named(model.norm, "transformer.ln_f")
    return found if is_tied(model) else found | {HEAD: model.head.weight.detach()}


def _transposed(linear: nn.Linear, name: str) -> Iterator[tuple[str, Tensor]]:
    return ((key, tensor.T if tensor.ndim == 2 else tensor) for key, tensor in named(linear, name))


def misfits(model: Decoder) -> list[str]:
    """What a model has that GPT-2 cannot express."""
    blocks, layer_norms = model.layers(), [norm for norm in norms(model) if isinstance(norm, LayerNorm)]
    attention, activations = blocks[0].attention, {_activation(block.feed_forward) for block in blocks}
    by_width = attention.head_dim**-0.5
    scales = {by_width if b.attention.scale is None else b.attention.scale for b in blocks}
    linears = (
        linear
        for block in blocks
        for linear in (
            block.attention.qkv,
            block.attention.out,
            block.feed_forward.up,
            block.feed_forward.down,
        )
    )
    has = {
        "norms other than LayerNorm with bias, of one `eps`": len(layer_norms) < len(norms(model))
        or any(norm.bias is None for norm in layer_norms)
        or len({norm.eps for norm in layer_norms}) > 1,
        "projections without bias": any(linear.bias is None for linear in linears),
        "fewer key-value heads than heads": attention.num_kv_heads != attention.num_heads,
        "heads that do not add up to the width": attention.num_heads * attention.head_dim != model.embed_dim,
        "windows": any(block.attention.window is not None for block in blocks),
        "an attention scale": scales not in ({by_width}, {1.0}),
        "activations other than one of gelu-tanh, gelu, relu and silu": len(activations) > 1
        or None in activations,
        "a `max_length` other than its positions'": model.max_length != model.positions.max_length,
    }
    return [words for words, found in has.items() if found]


def _activation(feed_forward: FeedForward) -> str | None:
    activation = feed_forward.activation
    if isinstance(activation, nn.GELU) and activation.approximate == "tanh":
        return "gelu_new"
    kinds = {GELUTanh: "gelu_new", nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu"}
    return next((name for kind, name in kinds.items() if isinstance(activation, kind)), None)


def describe(model: Decoder) -> dict[str, Any]:
    """config.json of a model."""
    block, norm = model.layers()[0], model.norm
    assert isinstance(norm, LayerNorm)
    attention = block.attention
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocabulary,
        "n_positions": model.max_length,
        "n_embd": model.embed_dim,
        "n_layer": len(model.blocks),
        "n_head": attention.num_heads,
        "n_inner": block.feed_forward.down.in_features,
        "activation_function": _activation(block.feed_forward),
        "layer_norm_epsilon": norm.eps,
        "embd_pdrop": model.dropout.p,
        "resid_pdrop": block.residual_dropout.p,
        "attn_pdrop": attention.dropout,
        "scale_attn_weights": attention.scale != 1,
        "tie_word_embeddings": is_tied(model),
    }


GPT2 = Family(
    model_types=("gpt2",),
    positions=LearnedPositions,
    prefix="transformer.",
    depth="n_layer",
    build=build,
    tensors=tensors,
    misfits=misfits,
    describe=describe,
)
