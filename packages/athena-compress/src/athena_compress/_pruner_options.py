"""The options of a pruner: what fits together, and what they stand for."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from athena_compress._importance import Importance, Scope
from athena_compress._masks import parse_pattern
from athena_compress._named import build
from athena_compress._sparsity_schedule import SparsitySchedule
from athena_compress._sparsity_schedule_constant import ConstantSchedule

UNITS = ("channels", "heads", "neurons")
STRUCTURES = (*UNITS, "layers")


def is_structured(what: tuple[str, ...]) -> bool:
    """Whether it is structure. Raises ValueError for what is neither, or both."""
    units = set(what) <= set(UNITS) and len(set(what)) == len(what) > 0
    if units or what == ("layers",):
        return True
    if len(what) != 1 or (what[0] != "weights" and parse_pattern(what[0]) is None):
        raise ValueError(
            "`what` must be 'weights', n:m such as '2:4', 'layers', or any of 'channels', 'heads' and "
            f"'neurons'; got {what!r}. Give each of them a Pruner of its own."
        )
    return False


def as_schedule(schedule: SparsitySchedule | float | None, what: str) -> SparsitySchedule:
    """The schedule, made of a number, or of nothing for n:m. Raises ValueError where it does not fit."""
    pattern = parse_pattern(what)
    share = None if pattern is None else 1 - pattern[0] / pattern[1]
    if schedule is None:
        if share is None:
            raise ValueError(
                "`schedule` must say which share to prune; got None. Pass a number such as 0.5, or a "
                "schedule such as CubicSchedule(0.5, steps=1000)."
            )
        return ConstantSchedule(share)
    if not isinstance(schedule, SparsitySchedule | float | int):
        raise TypeError(
            f"`schedule` must be a SparsitySchedule or a number; got {schedule!r}. Make one, such as "
            "CubicSchedule(0.5, steps=1000)."
        )
    made = schedule if isinstance(schedule, SparsitySchedule) else ConstantSchedule(schedule)
    if share is not None and abs(made.final - share) > 1e-6:
        raise ValueError(
            f"`schedule` must end at {share:.4g}, as {what} prunes; got {made.final}. Leave it out."
        )
    return made


def as_importance(importance: str | Importance) -> Importance:
    """The importance of this name, or the one given. Raises AthenaError for a name that nobody offers."""
    made = build("importance", importance) if isinstance(importance, str) else importance
    if not isinstance(made, Importance):
        raise TypeError(
            f"`importance` must be a name or an Importance; got {made!r}. Pass an object, not its class."
        )
    return made


def choose_scope(scope: Scope | None, importance: Importance, what: tuple[str, ...]) -> Scope:
    """The scope, as the importance says where it is None. Raises ValueError where it does not fit."""
    structured = what[0] in STRUCTURES
    if scope not in ("global", "local", "row", None):
        raise ValueError(f"`scope` must be 'global', 'local' or 'row'; got {scope!r}. None chooses one.")
    if scope is not None and parse_pattern(what[0]):
        raise ValueError(f"`scope` must be left out for {what[0]!r}; got {scope!r}. Each block is its own.")
    if structured and scope == "row":
        raise ValueError("`scope` must be 'global' or 'local' for structure; got 'row'. Rows are of weights.")
    chosen = importance.scope if scope is None else scope
    return "local" if structured and chosen == "row" else chosen


def check_round_to(round_to: int, what: tuple[str, ...]) -> None:
    """Raises ValueError unless it is a whole number from 1 on, and 1 for what is no channels or neurons."""
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise ValueError(f"`round_to` must be a whole number from 1 on; got {round_to!r}. Try 8.")
    if round_to > 1 and not {"channels", "neurons"} & set(what):
        raise ValueError(
            f"`round_to` must be 1 for {what[0]!r}; got {round_to}. It rounds channels and neurons."
        )


def check_optimizer(optimizer: Optimizer | None, model: nn.Module) -> None:
    """Raises ValueError for an optimizer that trains none of the model's parameters."""
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"`optimizer` must be a torch.optim.Optimizer; got {optimizer!r:.60}.")
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if trained.isdisjoint(id(parameter) for parameter in model.parameters()):
        raise ValueError(
            "`optimizer` must hold parameters of `model`; got one that holds none. A copy of a model has "
            "parameters of its own: make the optimizer of the copy's."
        )
