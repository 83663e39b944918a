"""What athena-nn offers: kinds of positions, norms and activations, their components, and its recipes."""

from __future__ import annotations

from athena_core import Component, Kind, hookimpl

# name, target, summary, paper
POSITIONS = [
    ("alibi", "athena_nn:AlibiPositions", "Scores fall linearly with distance", "arXiv:2108.12409"),
    ("learned", "athena_nn:LearnedPositions", "A learned vector for each position", "arXiv:1705.03122"),
    ("none", "athena_nn:NoPositions", "Order is left to the causal mask", "arXiv:2305.19466"),
    ("relative-bias", "athena_nn:RelativeBias", "A learned score a bucket of distances", "arXiv:1910.10683"),
    ("rotary", "athena_nn:RotaryPositions", "Rotates queries and keys by position", "arXiv:2104.09864"),
    ("shaw", "athena_nn:ShawPositions", "Learned vectors of clipped distances", "arXiv:1803.02155"),
    ("sinusoidal", "athena_nn:SinusoidalPositions", "Sines added to embeddings", "arXiv:1706.03762"),
]
NORMS = [
    ("layer", "athena_nn:LayerNorm", "Mean 0 and variance 1, gain and bias", "arXiv:1607.06450"),
    ("rms", "athena_nn:RMSNorm", "Root mean square 1, and a gain", "arXiv:1910.07467"),
]
ACTIVATIONS = [
    ("geglu", "athena_nn:GEGLU", "One half, through GELU, gates the other", "arXiv:2002.05202"),
    ("gelu", "torch.nn:GELU", "The input times the normal distribution of it", "arXiv:1606.08415"),
    ("gelu-tanh", "athena_nn:GELUTanh", "GELU by its tanh approximation", "arXiv:1606.08415"),
    ("relu", "torch.nn:ReLU", "The positive part", ""),
    ("silu", "torch.nn:SiLU", "The input times its sigmoid", "arXiv:1606.08415"),
    ("swiglu", "athena_nn:SwiGLU", "One half, through SiLU, gates the other", "arXiv:2002.05202"),
]
RECIPES = [
    ("lm", "athena_nn._recipe_lm:LM", "Trains a byte-level language model; beside it, what xz needs", ""),
    ("seq2seq", "athena_nn._recipe_seq2seq:Seq2Seq", "Learns to reverse and to sort digit strings", ""),
]
TABLES = {"positions": POSITIONS, "norm": NORMS, "activation": ACTIVATIONS, "recipe": RECIPES}
# of recipes; athena-optim: parameter groups, the default optimizer and schedule; matplotlib: pictures
NEEDS = {"recipe": ("athena-optim>=0.1,<0.2", "matplotlib>=3.9")}


@hookimpl
def athena_kinds() -> list[Kind]:
    return [
        Kind(
            "positions",
            "athena_nn:Positions",
            "Tells a transformer where tokens stand: in embeddings, queries and keys, or scores",
            example="athena_nn._laws:example_positions",
            checks="athena_nn._laws:positions_checks",
        ),
        Kind(
            "norm",
            "torch.nn:Module",
            "Normalises the last axis; takes its width first",
            example="athena_nn._part_laws:example_norm",
            checks="athena_nn._part_laws:norm_checks",
        ),
        Kind(
            "activation",
            "torch.nn:Module",
            "Acts inside a feed-forward layer; a gated one halves the last axis",
            example="athena_nn._part_laws:example_activation",
            checks="athena_nn._part_laws:activation_checks",
        ),
    ]


@hookimpl
def athena_components() -> list[Component]:
    return [
        Component(kind, name, target, summary, paper, NEEDS.get(kind, ()))
        for kind, rows in TABLES.items()
        for name, target, summary, paper in rows
    ]
