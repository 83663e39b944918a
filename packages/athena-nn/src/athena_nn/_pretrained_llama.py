"""Llama 2 and 3, Mistral and Qwen2: one architecture, three sets of options."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from athena_nn._activations import SwiGLU
from athena_nn._decoder import Decoder
from athena_nn._pretrained_family import (
    HEAD,
    Config,
    Family,
    is_tied,
    linear_parts,
    named,
    norms,
)
from athena_nn._pretrained_rope import rope_from_config, rope_misfits, rope_to_config
from athena_nn._rms_norm import RMSNorm
from athena_nn._rotary import RotaryPositions

FULL, SLIDING = "full_attention", "sliding_attention"
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}


class Biases(NamedTuple):
    """Which projections have them."""

    qkv: bool
    out: bool
    feed_forward: bool


NO_BIASES, QWEN2_BIASES = Biases(False, False, False), Biases(True, False, False)


def build(config: Config) -> Decoder:
    """The model that config.json describes. Raises ValueError for what is missing or not supported."""
    config.refuse("hidden_act", unless="silu")
    width, heads = config.required("hidden_size", int), config.required("num_attention_heads", int)
    head_dim = config.optional("head_dim", int) or width // heads
    biases = _biases(config)
    model = Decoder(
        config.required("vocab_size", int),
        width,
        num_layers=config.required("num_hidden_layers", int),
        num_heads=heads,
        ff_dim=config.required("intermediate_size", int),
        max_length=config.required("max_position_embeddings", int),
        positions=rope_from_config(config, head_dim),
        tie_embeddings=config.default("tie_word_embeddings", False),
        num_kv_heads=config.optional("num_key_value_heads", int),
        head_dim=head_dim,
        activation="swiglu",
        norm=partial(RMSNorm, eps=config.default("rms_norm_eps", 1e-6)),
        attention_dropout=config.default("attention_dropout", 0.0),
        bias=biases.out or biases.feed_forward,
        qkv_bias=biases.qkv,
    )
    for block, window in zip(model.layers(), _windows(config), strict=True):
        block.attention.window = window
        if not biases.out:
            block.attention.out.register_parameter("bias", None)
        if not biases.feed_forward:
            block.feed_forward.up.register_parameter("bias", None)
            block.feed_forward.down.register_parameter("bias", None)
    return model


def _biases(config: Config) -> Biases:
    if config.model_type == "qwen2":
        return QWEN2_BIASES
    if config.model_type == "mistral":
        return NO_BIASES
    of_attention = config.default("attention_bias", False)
    return Biases(of_attention, of_attention, config.default("mlp_bias", False))


def _windows(config: Config) -> list[int | None]:
    """How far each layer sees."""
    layers = config.required("num_hidden_layers", int)
    if config.model_type == "llama" or (
        config.model_type == "qwen2" and not config.default("use_sliding_window", False)
    ):
        return [None] * layers
    window = config.optional("sliding_window", int)
    if "sliding_window" not in config.values:
        window = 4096  # null means none, but to say nothing means this
    if config.model_type == "mistral":
        return [window] * layers
    first = config.default("max_window_layers", 28.0)  # and it may be 0
    kinds = config.values.get("layer_types") or [FULL if i < first else SLIDING for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in (FULL, SLIDING) for k in kinds):
        raise ValueError(
            f"config.json: `layer_types` must name {FULL} or {SLIDING} for each of {layers} layers; "
            f"got {kinds}."
        )
    return [window if kind == SLIDING else None for kind in kinds]


def tensors(model: Decoder) -> dict[str, Tensor]:
    """Each tensor of a checkpoint, as a view of the parameter that holds it."""
    found = dict(named(model.embedding, "model.embed_tokens"))
    for i, block in enumerate(model.layers()):
        layer = f"model.layers.{i}"
        attention, feed_forward = block.attention, block.feed_forward
        queries, keys = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
        qkv = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
        gate_up = [f"{layer}.mlp.{part}_proj" for part in ("gate", "up")]
        ff_dim = feed_forward.down.in_features
        found |= named(block.attention_norm, f"{layer}.input_layernorm")
        found |= linear_parts(attention.qkv, qkv, [queries, keys, keys])
        found |= named(attention.out, f"{layer}.self_attn.o_proj")
        found |= named(block.feed_forward_norm, f"{layer}.post_attention_layernorm")
        found |= linear_parts(feed_forward.up, gate_up, [ff_dim, ff_dim])
        found |= named(feed_forward.down, f"{layer}.mlp.down_proj")
    found |= named(model.norm, "model.norm")
    return found if is_tied(model) else found | {HEAD: model.head.weight.detach()}


def misfits(model: Decoder) -> list[str]:
    """What a model has that none of the three can express."""
    assert isinstance(model.positions, RotaryPositions)
    rms_norms = [norm for norm in norms(model) if isinstance(norm, RMSNorm)]
    activations = [block.feed_forward.activation for block in model.layers()]
    attentions = [block.attention for block in model.layers()]
    has = {
        "norms other than RMSNorm of one `eps`": len(rms_norms) < len(norms(model))
        or len({norm.eps for norm in rms_norms}) > 1,
        "activations other than swiglu": not all(isinstance(one, SwiGLU) for one in activations),
        "heads that do not divide the width": model.embed_dim % attentions[0].num_heads != 0,
        "an attention scale": any(one.scale not in (None, one.head_dim**-0.5) for one in attentions),
        "biases and windows that none of them combines": _model_type(model) is None,
    }
    return [*rope_misfits(model.positions), *(words for words, found in has.items() if found)]


def describe(model: Decoder) -> dict[str, Any]:
    """config.json of a model."""
    assert isinstance(model.positions, RotaryPositions)
    block, norm, model_type = model.layers()[0], model.norm, _model_type(model)
    assert isinstance(norm, RMSNorm)
    assert model_type is not None
    attention = block.attention
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": model.vocabulary,
        "hidden_size": model.embed_dim,
        "intermediate_size": block.feed_forward.down.in_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": norm.eps,
        "attention_dropout": attention.dropout,
        "tie_word_embeddings": is_tied(model),
        **rope_to_config(model.positions),
        **_options(model, model_type),
    }


def _options(model: Decoder, model_type: str) -> dict[str, Any]:
    """What each of the three has of its own."""
    windows = _windows_of(model)
    if model_type == "mistral":
        return {"sliding_window": windows[0]}
    if model_type == "qwen2":
        return {
            "use_sliding_window": any(windows),
            "sliding_window": max((window for window in windows if window), default=None),
            "layer_types": [SLIDING if window else FULL for window in windows],
        }
    (biases,) = _biases_of(model)
    return {"attention_bias": biases.qkv, "mlp_bias": biases.feed_forward}


def _model_type(model: Decoder) -> str | None:
    """The one of the three that combines these biases and windows."""
    biases, windows = _biases_of(model), set(_windows_of(model))
    if len(biases) > 1 or len(windows - {None}) > 1:
        return None
    (of_all,) = biases
    if of_all == QWEN2_BIASES:
        return "qwen2"
    if of_all == NO_BIASES and None not in windows:
        return "mistral"
    return "llama" if windows == {None} and of_all.qkv == of_all.out else None


def _biases_of(model: Decoder) -> set[Biases]:
    linears = ((b.attention.qkv, b.attention.out, b.feed_forward.up) for b in model.layers())
    return {Biases(*(linear.bias is not None for linear in three)) for three in linears}


def _windows_of(model: Decoder) -> list[int | None]:
    return [block.attention.window for block in model.layers()]


LLAMA = Family(
    model_types=tuple(ARCHITECTURES),
    positions=RotaryPositions,
    prefix="model.",
    depth="num_hidden_layers",
    build=build,
    tensors=tensors,
    misfits=misfits,
    describe=describe,
)
