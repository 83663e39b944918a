"""What athena-multitask offers: balancers of gradients, weightings of losses, and recipes."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl, kinds_of

# name, target, summary, paper
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "balancer": [
        ("aligned-mtl", "athena_multitask:AlignedMTL", "Singular values made equal", "arXiv:2305.19000"),
        ("cagrad", "athena_multitask:CAGrad", "Most for the worst, near the mean", "arXiv:2110.14048"),
        ("graddrop", "athena_multitask:GradDrop", "One sign a coordinate, drawn", "arXiv:2010.06808"),
        ("gradvac", "athena_multitask:GradVac", "Turned to expected cosines", "arXiv:2010.05874"),
        ("imtl-g", "athena_multitask:IMTLG", "Equal projections on all gradients", "ICLR 2021"),
        ("mgda", "athena_multitask:MGDA", "The shortest convex combination", "arXiv:1810.04650"),
        ("nash-mtl", "athena_multitask:NashMTL", "What tasks agree on as they bargain", "arXiv:2202.01017"),
        ("pcgrad", "athena_multitask:PCGrad", "Without what conflicts", "arXiv:2001.06782"),
        ("upgrad", "athena_multitask:UPGrad", "Each projected to harm no task", "arXiv:2406.16232"),
    ],
    "task-weighting": [
        ("dwa", "athena_multitask:DWA", "By the pace of the last two epochs", "arXiv:1803.10704"),
        ("famo", "athena_multitask:FAMO", "By losses before and after a step", "arXiv:2306.03792"),
        ("gradnorm", "athena_multitask:GradNorm", "By norms of gradients and pace", "arXiv:1711.02257"),
        ("random", "athena_multitask:RandomWeighting", "Drawn anew in each step", "arXiv:2111.10603"),
        ("scale-invariant", "athena_multitask:ScaleInvariant", "Logarithms of losses", "arXiv:2202.01017"),
        ("static", "athena_multitask:StaticWeighting", "Weights that are given", ""),
        ("uncertainty", "athena_multitask:UncertaintyWeighting", "Learned variances", "arXiv:1705.07115"),
    ],
    "recipe": [
        ("meta-world", "athena_multitask:MetaWorldRecipe", "SAC on Meta-World's tasks", "arXiv:1910.10897"),
        ("multitask-digits", "athena_multitask:MultitaskDigits", "All methods on three tasks of digits", ""),
        ("multitask-toy", "athena_multitask:MultitaskToy", "All methods on two losses", "arXiv:2202.01017"),
        ("progressive", "athena_multitask:ProgressiveRecipe", "Tasks one after another", "arXiv:1606.04671"),
    ],
}
NEEDS = {
    "recipe": ("matplotlib>=3.9", "scikit-learn>=1.5"),
    "recipe/meta-world": ("matplotlib>=3.9", "metaworld>=3.1.1", "stable-baselines3>=2.7"),
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
    return components_of(TABLES, NEEDS)
