"""What this package offers. It imports no torch: it is read whenever components are listed."""

from __future__ import annotations

from athena_core import Component, hookimpl


@hookimpl
def athena_components() -> list[Component]:
    return [
        Component(
            "optimizer",
            "signum",
            "athena_signum:Signum",
            "Steps of one size in every element, by the sign of momentum",
            paper="arXiv:1802.04434",
        )
    ]
