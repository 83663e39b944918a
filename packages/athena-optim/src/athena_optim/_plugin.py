"""What athena-optim offers: kinds of optimizers, schedules and parameter groups, and their components."""

from __future__ import annotations

from athena_core import Component, Kind, hookimpl


@hookimpl
def athena_kinds() -> list[Kind]:
    return [
        Kind(
            "optimizer",
            "torch.optim:Optimizer",
            "Updates parameters from their gradients; takes parameters or groups first",
            example="athena_optim._laws:example_optimizer",
            checks="athena_optim._laws:optimizer_checks",
        ),
        Kind(
            "schedule",
            "torch.optim.lr_scheduler:LRScheduler",
            "Sets an optimizer's learning rates step by step; takes the optimizer first",
            example="athena_optim._laws:example_schedule",
            checks="athena_optim._laws:schedule_checks",
            plot="athena_optim._plot:plot_schedule",
        ),
        Kind(
            "param-groups",
            "builtins:list",
            "Splits a model's parameters into an optimizer's groups; takes the model first",
            example="athena_optim._laws:example_groups",
            checks="athena_optim._laws:group_checks",
        ),
    ]


@hookimpl
def athena_components() -> list[Component]:
    return [
        Component(
            "optimizer",
            "adamw",
            "athena_optim:AdamW",
            "Adam with decoupled weight decay, torch's fused step, optional clipping",
            paper="arXiv:1711.05101",
        ),
        Component(
            "schedule",
            "warmup-cosine",
            "athena_optim:warmup_cosine",
            "Linear warm-up, then half a cosine down",
            paper="arXiv:1608.03983",
        ),
        Component(
            "param-groups",
            "decay-matrices",
            "athena_optim:param_groups",
            "Weight decay on parameters of two or more axes, none on the others",
        ),
    ]
