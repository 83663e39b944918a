"""What athena-multitask offers: balancers of gradients, weightings of losses, and recipes."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "balancer": [],
    "task-weighting": [],
    "recipe": [],
}
# name, interface, summary; its laws are in `_NAME_laws`
KINDS: list[tuple[str, str, str]] = [
    ("balancer", "athena_multitask:Balancer", "One direction from the gradients of several tasks"),
    ("task-weighting", "athena_multitask:TaskWeighting", "One loss from the losses of several tasks"),
]


@hookimpl
def athena_kinds() -> list[Kind]:
    return kinds_of("athena_multitask", KINDS)


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES)
