"""What several processes tell each other about their tasks and gradients before these are balanced."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from athena_multitask._task_gradients import TaskGradients

Group = ProcessGroup | Literal["world"] | None


def resolve_group(group: Group) -> ProcessGroup | None:
    """The group to average over, or None where a process is alone.

    >>> resolve_group("world") is None
    True
    """
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.group.WORLD if isinstance(group, str) else group


def count_tasks(
    losses: Mapping[str, Tensor],
    known: Mapping[str, Sequence[Tensor]] | None,
    group: ProcessGroup | None,
    device: torch.device,
) -> dict[str, int]:
    """How many processes have each task, of those that any has, in an order that is the same in all.

    Raises ValueError in every process if names or their orders differ.

    >>> count_tasks({"b": torch.ones(())}, {"a": [], "b": []}, None, torch.device("cpu"))
    {'b': 1}
    """
    order = list(losses if known is None else known)
    if group is None:
        return {name: 1 for name in order if name in losses}
    if not _alike("\0".join(order), group, device):
        raise ValueError(
            f"`losses` must be of the same tasks in every process; got {order} in this one. "
            "Where some are missing, give `heads`, alike in all."
        )
    counts = torch.tensor([int(name in losses) for name in order], device=device)
    dist.all_reduce(counts, group=group)
    return {name: count for name, count in zip(order, counts.tolist(), strict=True) if count}


def average(
    found: TaskGradients,
    counts: Mapping[str, int],
    known: Mapping[str, Sequence[Tensor]] | None,
    group: ProcessGroup,
) -> TaskGradients:
    """Rows averaged over the processes that have the task, the others' shares summed over all.

    Raises ValueError, in every process, for a parameter that ``known`` lacks, or other parameters in another.
    """
    matrix, others, failed = found
    dist.all_reduce(matrix, group=group)
    matrix /= torch.tensor(list(counts.values()), dtype=matrix.dtype, device=matrix.device)[:, None]
    flags = failed.int()
    dist.all_reduce(flags, group=group)
    leaves = dict.fromkeys(others)
    if known is not None:
        leaves = dict.fromkeys(parameter for name in counts for parameter in known[name])
    unknown = [tuple(leaf.shape) for leaf in others if leaf not in leaves]
    shapes = [tuple(leaf.shape) for leaf in leaves]
    alike = _alike(f"{shapes} {unknown}", group, matrix.device)
    if unknown:
        raise ValueError(
            "`heads` must hold every parameter that is not shared; got gradients of "
            f"others, of the shapes {unknown}. Add them."
        )
    if not alike:
        raise ValueError(
            "`losses` must depend on the same parameters in every process; got, beside the shared ones, "
            f"those of the shapes {shapes} in this one. Give `heads`, with all of them, alike in all."
        )
    summed = {}
    for leaf in leaves:
        given = others.get(leaf)
        # With the leaf's strides in all: what is summed is memory, and a gradient may have others.
        summed[leaf] = torch.zeros_like(leaf)
        if given is not None:
            summed[leaf] = given.clone() if given.is_sparse else summed[leaf].copy_(given)
        dist.all_reduce(summed[leaf], group=group)
    return TaskGradients(matrix, summed, flags > 0)


def _alike(text: str, group: ProcessGroup, device: torch.device) -> bool:
    """Whether all processes give the same; the answer is the same in all."""
    code = zlib.crc32(text.encode())
    told = torch.tensor([code, -code], device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX, group)
    highest, lowest = told.tolist()
    return highest == -lowest
