"""Cross-stitch networks: a column a task, and units that mix what columns give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from athena_multitask._multi_task import MultiTask, by_name, check_task_order
from athena_multitask._task_rows import TaskRows


class CrossStitch(MultiTask):
    r"""A network a task, with cross-stitch units between them after each stage.

    .. math:: \tilde z^j_s = \sum_t \alpha^j_{st} z^j_t, \qquad z^{j+1}_s = f^{j+1}_s(\tilde z^j_s)

    for each channel alike, or with ``channels`` by numbers of its own. With ``alpha_different=0`` and
    ``alpha_same=1`` the start is separate networks. Every task's loss reaches all columns, which thus count
    as shared. The paper starts columns from networks trained for one task each, and learns :math:`\alpha`
    with a rate two or three orders of magnitude above the columns': give ``model.units`` a group of its own.

    Args:
        columns: stages of each task, by its name; the same number for all, of equal output shapes.
        heads: a module for each task, by name.
        alpha_same: first value of :math:`\alpha_{tt}`.
        alpha_different: first value of :math:`\alpha_{st}, s \ne t`.
        channels: channels of each stage's output (axis 1), for a unit a channel; None is one for all.

    Shape: input ``(B, ...)``; units ``(tasks, tasks)``, or ``(tasks, tasks, channels)``.

    Raises ValueError for columns of other tasks or of several lengths, ``channels`` of another length, and in
    use for columns whose outputs differ in shape; else see `MultiTask`.

    Source: Misra et al. 2016, arXiv:1604.03539, equation 1. Departs from it: any number of tasks, for two.

    >>> columns = {name: [nn.Linear(4, 8), nn.Linear(8, 8)] for name in ("a", "b")}
    >>> model = CrossStitch(columns, heads={"a": nn.Linear(8, 1), "b": nn.Linear(8, 2)})
    >>> model.units[0]
    Parameter containing:
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]], requires_grad=True)
    >>> model(torch.ones(5, 4))["b"].shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        columns: Mapping[str, Iterable[nn.Module]],
        *,
        heads: Mapping[str, nn.Module] | nn.ModuleDict,
        alpha_same: float = 0.9,
        alpha_different: float = 0.1,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(heads)
        lists = {name: nn.ModuleList(stages) for name, stages in columns.items()}
        self.columns: Any = by_name(lists, "columns", self.tasks)
        sizes = _checked_sizes({name: len(stages) for name, stages in lists.items()}, channels)
        same = torch.eye(len(self.tasks))
        alpha = alpha_same * same + alpha_different * (1 - same)
        self.units = nn.ParameterList(
            nn.Parameter(alpha.clone() if size is None else alpha[..., None].repeat(1, 1, size))
            for size in sizes
        )

    def features(self, x: Tensor, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Tensor]:
        """The last unit's outputs for each task, of all rows, or of each task's."""
        stitched = [x] * len(self.tasks)
        for place, alpha in enumerate(self.units):
            outputs = [
                self.columns[name][place](features)
                for name, features in zip(self.tasks, stitched, strict=True)
            ]
            if len({output.shape for output in outputs}) > 1:
                shapes = {name: tuple(out.shape) for name, out in zip(self.tasks, outputs, strict=True)}
                raise ValueError(
                    f"stage {place} of all `columns` must give one shape; got {shapes}. Make them alike."
                )
            stitched = cross_stitch(torch.stack(outputs), alpha).unbind()
        last = dict(zip(self.tasks, stitched, strict=True))
        return {name: last[name] if rows is None else rows.take(name, last[name]) for name in tasks}

    def get_extra_state(self) -> dict[str, list[str]]:
        """The names, as units count tasks by their place."""
        return {"tasks": list(self.tasks)}

    def set_extra_state(self, state: dict[str, list[str]]) -> None:
        """Raises ValueError for a checkpoint of other tasks, or of another order."""
        check_task_order(state["tasks"], list(self.tasks))


def cross_stitch(outputs: Tensor, alpha: Tensor) -> Tensor:
    r"""Each task's mixture of all tasks' outputs, :math:`\tilde z_s = \sum_t \alpha_{st} z_t`.

    Shape: outputs ``(tasks, B, channels, ...)``, alpha ``(tasks, tasks)`` or ``(tasks, tasks, channels)``.

    Source: Misra et al. 2016, arXiv:1604.03539, equation 1. Departs from it: any number of tasks, for two.

    >>> outputs = torch.tensor([[[2.0]], [[4.0]]])
    >>> cross_stitch(outputs, torch.tensor([[0.5, 0.5], [0.0, 1.0]])).flatten()
    tensor([3., 4.])
    """
    alpha = alpha.to(outputs.dtype)
    if alpha.ndim == 2:
        return torch.tensordot(alpha, outputs, dims=1)
    return torch.einsum("stc,tbc...->sbc...", alpha, outputs)


def _checked_sizes(lengths: Mapping[str, int], channels: Sequence[int] | None) -> list[int | None]:
    found = set(lengths.values())
    if len(found) > 1 or 0 in found:
        raise ValueError(
            f"`columns` must have as many stages for each task, at least one; got {dict(lengths)}. "
            "Split them at the same places."
        )
    (length,) = found
    if channels is not None and len(channels) != length:
        raise ValueError(
            f"`channels` must be a number for each of {length} stages; got {list(channels)}. "
            "Give each stage's output channels."
        )
    return [None] * length if channels is None else list(channels)
