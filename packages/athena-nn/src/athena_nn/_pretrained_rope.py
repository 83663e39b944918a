"""Rotary positions in config.json, as transformers 4 writes them and as transformers 5 does."""

from __future__ import annotations

import math
from typing import Any

from athena_nn._pretrained_family import Config
from athena_nn._rotary import RotaryPositions
from athena_nn._rotary_scaling import LinearScaling, Llama3Scaling, RotaryScaling, YarnScaling

TYPES = ("default", "linear", "llama3", "yarn")


def rope_from_config(config: Config, head_dim: int) -> RotaryPositions:
    """``rope_parameters``, or ``rope_scaling`` beside ``rope_theta``.

    Raises ValueError for a type that is not supported, for one that turns a part of each head, and for
    several, by kinds of layers.
    """
    given = config.values.get("rope_scaling") or config.values.get("rope_parameters") or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"config.json: rotary positions must be alike in all layers; got {given!r}.")
    outer = ("rope_theta", "partial_rotary_factor", "model_type")
    rope = Config({**{key: config.values.get(key) for key in outer}, **given})
    rope.refuse("partial_rotary_factor", unless=1.0)
    kind = rope.optional("rope_type", str) or rope.default("type", "default")
    if kind not in TYPES:
        raise ValueError(f"config.json: `rope_type` must be one of {', '.join(TYPES)}; got {kind!r}.")
    base = float(rope.default("rope_theta", 10_000.0))
    return RotaryPositions(head_dim, base=base, scaling=_scaling(kind, rope, config))


def _scaling(kind: str, rope: Config, config: Config) -> RotaryScaling | None:
    if kind == "default":
        return None
    factor = rope.required("factor", float)
    if kind == "linear":
        return LinearScaling(factor)
    outer = config.optional("original_max_position_embeddings", int)  # where it is, it wins
    inner = rope.optional("original_max_position_embeddings", int)
    original_length = outer or inner or config.required("max_position_embeddings", int)
    if kind == "llama3":
        return Llama3Scaling(
            factor,
            low_freq_factor=rope.required("low_freq_factor", float),
            high_freq_factor=rope.required("high_freq_factor", float),
            original_length=original_length,
        )
    return YarnScaling(
        factor,
        original_length,
        beta_fast=rope.default("beta_fast", 32.0),
        beta_slow=rope.default("beta_slow", 1.0),
        attention_factor=_attention_factor(rope, factor),
        truncate=rope.default("truncate", True),
    )


def _attention_factor(rope: Config, factor: float) -> float | None:
    """As given, or by two weights of ln(factor), as DeepSeek has them; None is the paper's."""
    given = rope.optional("attention_factor", float)
    upper, lower = rope.optional("mscale", float), rope.optional("mscale_all_dim", float)
    if given is not None or not (upper and lower):
        return given
    return (0.1 * upper * math.log(factor) + 1) / (0.1 * lower * math.log(factor) + 1)


def rope_to_config(positions: RotaryPositions) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling``, which both versions of transformers read."""
    scaling, base = positions.scaling, positions.base
    rope: dict[str, Any] | None = None
    if isinstance(scaling, LinearScaling):
        rope = {"rope_type": "linear", "factor": scaling.factor}
    elif isinstance(scaling, Llama3Scaling):
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    elif isinstance(scaling, YarnScaling):
        rope = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
        if scaling.attention_factor is not None:
            rope["attention_factor"] = scaling.attention_factor
    return {"rope_theta": base, "rope_scaling": rope}


def rope_misfits(positions: RotaryPositions) -> list[str]:
    """What config.json has no words for."""
    misfits = []
    if positions.layout != "half-split":
        misfits.append("interleaved rotary pairs (`change_rotary_layout` changes the projections)")
    if positions.rotary_dim != positions.head_dim:
        misfits.append("heads that turn in part")
    if type(positions.scaling) not in (type(None), LinearScaling, Llama3Scaling, YarnScaling):
        misfits.append(f"rotary frequencies by {type(positions.scaling).__name__}")
    return misfits
