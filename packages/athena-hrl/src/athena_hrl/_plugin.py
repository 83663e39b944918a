"""What athena-hrl offers: strategies of hindsight, and recipes."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "goal-strategy": [
        ("episode", "athena_hrl:EpisodeGoals", "Any state of the same episode", "arXiv:1707.01495"),
        ("final", "athena_hrl:FinalGoals", "The last state of the same episode", "arXiv:1707.01495"),
        ("future", "athena_hrl:FutureGoals", "A later state of the same episode", "arXiv:1707.01495"),
        ("prioritised", "athena_hrl:PrioritisedGoals", "A later state, by its errors", "IEEE Access 9, 2021"),
        ("random", "athena_hrl:RandomGoals", "Any state that is stored", "arXiv:1707.01495"),
    ],
    "recipe": [
        ("four-rooms", "athena_hrl:FourRoomsRecipe", "Option-critic when the goal moves", "arXiv:1609.05140"),
        ("bit-flip", "athena_hrl:BitFlipRecipe", "Bit-flip with hindsight and without", "arXiv:1707.01495"),
        ("point-maze", "athena_hrl:PointMazeRecipe", "HIRO against SAC round a wall", "arXiv:1805.08296"),
        ("taxi", "athena_hrl:TaxiRecipe", "Taxi flat, by options, machines and MAXQ", "arXiv:cs/9905014"),
    ],
}
SB3 = ("matplotlib>=3.9", "stable-baselines3>=2.9")
NEEDS = {"recipe": ("matplotlib>=3.9",), "recipe/bit-flip": SB3, "recipe/point-maze": SB3}
# name, interface, summary; its laws are in `_NAME_laws`
KINDS: list[tuple[str, str, str]] = [
    ("goal-strategy", "athena_hrl:GoalStrategy", "Which achieved goals take the place of desired ones"),
]


@hookimpl
def athena_kinds() -> list[Kind]:
    return kinds_of("athena_hrl", KINDS)


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES, NEEDS)
