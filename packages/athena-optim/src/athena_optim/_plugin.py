"""What athena-optim offers: kinds of optimizers, schedules and parameter groups, and their components."""

from __future__ import annotations

from athena_core import Component, Kind, components_of, hookimpl

# name, target, summary, paper
OPTIMIZERS = [
    ("adamw", "athena_optim:AdamW", "Adam, decoupled decay, the fused step, clipping", "arXiv:1711.05101"),
    ("lion", "athena_optim:Lion", "Sign of an interpolated momentum", "arXiv:2302.06675"),
    ("muon", "athena_optim:Muon", "Orthogonalised momentum; AdamW beside it", "arXiv:2502.16982"),
    ("schedule-free-adamw", "athena_optim:ScheduleFreeAdamW", "Averaging for a schedule", "arXiv:2405.15682"),
    ("lamb", "athena_optim:Lamb", "Adam's direction, scaled to each layer's norm", "arXiv:1904.00962"),
]
WRAPPERS = [
    ("centralized-gradients", "athena_optim:CentralizedGradients", "Gradients of mean 0", "arXiv:2004.01461"),
    ("lookahead", "athena_optim:Lookahead", "k steps forward, a part of them back", "arXiv:1907.08610"),
    ("sam", "athena_optim:SAM", "The gradient where the loss is highest nearby", "arXiv:2010.01412"),
]
SCHEDULES = [
    ("one-cycle", "athena_optim:one_cycle", "Up, then far down; momentum the other way", "arXiv:1708.07120"),
    ("warmup-constant", "athena_optim:warmup_constant", "Warm-up, then constant", "arXiv:1706.02677"),
    ("warmup-cosine", "athena_optim:warmup_cosine", "Warm-up, then half a cosine down", "arXiv:1608.03983"),
    ("warmup-inverse-sqrt", "athena_optim:warmup_inverse_sqrt", "Warm-up, then t^(-1/2)", "arXiv:1706.03762"),
    ("warmup-linear", "athena_optim:warmup_linear", "Warm-up, then a line down", "arXiv:1810.04805"),
    ("warmup-polynomial", "athena_optim:warmup_polynomial", "Warm-up, then a power", "arXiv:1606.00915"),
    ("wsd", "athena_optim:wsd", "Warm-up, stable, decay", "arXiv:2404.06395"),
]
GROUPS = [
    ("decay-matrices", "athena_optim:param_groups", "Decay on two or more axes, none on others", ""),
    ("muon-groups", "athena_optim:muon_groups", "Hidden matrices apart from embeddings, head, vectors", ""),
]
RECIPES = [
    ("optimizers", "athena_optim._recipe_optimizers:Optimizers", "Compares optimizers as batches grow", ""),
]
TABLES = {
    "optimizer": OPTIMIZERS,
    "optimizer-wrapper": WRAPPERS,
    "schedule": SCHEDULES,
    "param-groups": GROUPS,
    "recipe": RECIPES,
}
# name, interface, summary, what the functions of its laws are named after
KINDS = [
    ("optimizer", "torch.optim:Optimizer", "Updates parameters; takes them, or groups, first", "optimizer"),
    (
        "optimizer-wrapper",
        "torch.optim:Optimizer",
        "Changes how one steps; takes the optimizer first",
        "wrapper",
    ),
    ("schedule", "torch.optim.lr_scheduler:LRScheduler", "Sets rates; takes the optimizer first", "schedule"),
    ("param-groups", "builtins:list", "Splits a model's parameters into groups; takes it first", "group"),
]
LAWS = {"optimizer-wrapper": "athena_optim._wrapper_laws"}
PLOTS = {"schedule": "athena_optim._plot:plot_schedule"}
NEEDS = {"recipe": ("matplotlib>=3.9",)}  # the pictures; scikit-learn is for one of its data sets alone


@hookimpl
def athena_kinds() -> list[Kind]:
    kinds = []
    for name, interface, summary, noun in KINDS:
        laws = LAWS.get(name, "athena_optim._laws")
        example, checks = f"{laws}:example_{noun}", f"{laws}:{noun}_checks"
        kinds.append(Kind(name, interface, summary, example, checks, PLOTS.get(name, "")))
    return kinds


@hookimpl
def athena_components() -> list[Component]:
    return components_of(TABLES, NEEDS)
