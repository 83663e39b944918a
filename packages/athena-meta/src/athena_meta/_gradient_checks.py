"""What gradient learners refuse, each with one line that tells the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from athena_core import NotFinite
from athena_meta._batch_norm import batch_norms
from athena_meta._episodes import Episodes
from athena_meta._whole import whole

if TYPE_CHECKING:
    from athena_meta._tasks import Tasks


def checked_network(network: nn.Module, *, transductive: bool | None) -> None:
    """Raises ValueError for lazy parameters, embeddings that write into their weights, running statistics of
    instance norm, and batch norm whose statistics were not chosen; TypeError for no module."""
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"`network` must be a torch.nn.Module, whose parameters adapt; got {type(network).__name__}. "
            "Put the function into the forward of one."
        )
    if isinstance(network, nn.DataParallel):
        raise ValueError(
            "`network` must take other parameters than its own, which nn.DataParallel cannot; got one. Pass "
            "its `module`."
        )
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"`network` must know the shapes of its parameters; got the lazy {', '.join(lazy)}. "
            "Run it on one batch first."
        )
    renormed = [name for name, module in network.named_modules() if getattr(module, "max_norm", None)]
    if renormed:
        raise ValueError(
            "`network` must leave its parameters alone in a forward pass; got embeddings with `max_norm`, "
            f"which overwrite them: {', '.join(renormed)}. Pass max_norm=None."
        )
    tracking = [
        name or "all"
        for name, module in network.named_modules()
        if isinstance(module, _InstanceNorm) and module.track_running_stats
    ]
    if tracking:
        raise ValueError(
            "`network` must normalise by what it sees; got instance norms with running statistics, which "
            f"adaptation never writes: {', '.join(tracking)}. Pass track_running_stats=False."
        )
    norms = batch_norms(network)
    if any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
        raise ValueError(
            "`network` must normalise each task by itself; got SyncBatchNorm. Use BatchNorm, which is right "
            "with several processes too: a task lives in one of them."
        )
    if norms and transductive is None:
        raise ValueError(
            "`transductive` must be True or False for a network with batch norm; got None. False normalises "
            "queries by the support set, so that each is predicted by itself; True, as most published "
            "results, by the query set, which knows more."
        )


def checked_adapted(parameters: Mapping[str, Tensor], patterns: tuple[str, ...]) -> None:
    """Raises ValueError if there is nothing to adapt."""
    if not parameters:
        raise ValueError(
            f"`adapted` must match a parameter of the network that requires a gradient; got {patterns!r}. "
            "Names are those of network.named_parameters()."
        )


def checked_steps(name: str, steps: int) -> int:
    """A number of steps. Raises ValueError for a negative one, TypeError for a fraction."""
    steps = whole(name, steps)
    if steps < 0:
        raise ValueError(f"`{name}` must be at least 0; got {steps}.")
    return steps


def refuse_compiled(network: nn.Module, *, order: int) -> None:
    """Raises ValueError for a compiled network at second order, of which torch.compile has no derivative."""
    if hasattr(network, "_torchdynamo_orig_callable"):
        raise ValueError(
            "`network` must take other parameters than its own, which that of torch.compile(network) cannot; "
            "got one. Compile it in place, by network.compile(), with first_order=True."
        )
    compiled = [name or "all" for name, module in network.named_modules() if module._compiled_call_impl]
    if order == 2 and compiled:
        raise ValueError(
            "`network` must not be compiled at second order, which torch.compile lacks (pytorch#91469); got "
            f"it with {', '.join(compiled)} compiled. Pass first_order=True or the network as it was."
        )


def refuse_other_types(episodes: Episodes) -> None:
    """Raises TypeError for what is no episodes, or not of tensors."""
    if not (isinstance(episodes, Episodes) and all(isinstance(part, Tensor) for part in episodes[:4])):
        raise TypeError(
            f"`episodes` must be Episodes of tensors; got {type(episodes).__name__}. Make it "
            "Episodes(support_x, support_y, query_x, query_y), with torch.as_tensor for arrays."
        )


def checked_episodes(episodes: Episodes) -> Episodes:
    """Episodes with labels as ranks. Raises ValueError for no task, empty sets and parts that disagree,
    TypeError for what is no episodes."""
    refuse_other_types(episodes)
    tasks = episodes.checked().tasks
    n_support, n_query = episodes.support_x.shape[1], episodes.query_x.shape[1]
    if not (tasks and n_support and n_query):
        raise ValueError(
            "`episodes` must have at least one task, with support and queries; got "
            f"{tasks} tasks of {n_support} and {n_query} examples. Leave empty ones out."
        )
    numbered = not (episodes.support_y.is_floating_point() or episodes.support_y.is_complex())
    return episodes.dense() if numbered and episodes.support_y.ndim == 2 else episodes


def refuse_divergence(tasks: Tasks, losses: Tensor) -> None:
    """Raises NotFinite for a loss that is not, naming the first task and after how many steps it was."""
    if bool(losses.isfinite().all()):
        return
    bad = losses.detach().reshape(-1).isfinite().logical_not().nonzero()
    task = int(bad[0])
    story = torch.stack([part.reshape(-1) for part in (*tasks.trace, losses.detach())])[:, task]
    step = int(story.isfinite().logical_not().nonzero()[0])
    remedy = "Lower `inner_lr`"
    if step == 0:
        remedy = "Look at its support set and at the learner's parameters"
    elif step == len(tasks.trace):
        remedy += ", unless its query set is the cause"
    raise NotFinite(
        f"the loss must be finite; got {story[step].item()} after step {step} of task {tasks.first + task}. "
        f"{remedy}."
    )
