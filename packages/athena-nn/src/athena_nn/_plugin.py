"""What athena-nn offers: the kind of positions, its components, and the recipe `lm`."""

from __future__ import annotations

from athena_core import Component, Kind, hookimpl


@hookimpl
def athena_kinds() -> list[Kind]:
    return [
        Kind(
            "positions",
            "athena_nn:Positions",
            "Tells a transformer where tokens stand: in embeddings, queries and keys, or scores",
            example="athena_nn._laws:example_positions",
            checks="athena_nn._laws:positions_checks",
        )
    ]


@hookimpl
def athena_components() -> list[Component]:
    return [
        Component(
            "positions",
            "rotary",
            "athena_nn:RotaryPositions",
            "Rotates queries and keys, so that scores depend on distance alone",
            paper="arXiv:2104.09864",
        ),
        Component(
            "positions",
            "none",
            "athena_nn:NoPositions",
            "Order is left to the causal mask",
            paper="arXiv:2305.19466",
        ),
        Component(
            "recipe",
            "lm",
            "athena_nn._recipe_lm:LM",
            "Trains a byte-level language model on a text; beside it, what xz needs",
            # athena-optim: parameter groups, the default optimizer and schedule; matplotlib: the curve
            requires=("athena-optim>=0.1,<0.2", "matplotlib>=3.9"),
        ),
    ]
