"""MTAN: one encoder, and attention of each task over its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from athena_multitask._multi_task import MultiTask, by_name
from athena_multitask._task_attention import TaskAttention
from athena_multitask._task_rows import TaskRows


class MTAN(MultiTask):
    r"""Multi-task attention network: tasks choose among the features of each stage of one encoder.

    .. math:: u^j = f^j(p^{j-1}), \quad p^j = g^j(u^j), \quad
        \hat a_t^j = \sigma(m_t^j([u^j; l_t^j(\hat a_t^{j-1})])) \odot p^j, \quad \hat y_t = h_t(\hat a_t^J)

    Attention and heads are the tasks' own, the stages shared. If the first part of a stage pools, so must the
    link of its attention.

    Args:
        stages: the encoder, each stage in two parts :math:`(f^j, g^j)`; ``nn.Identity()`` is a part too.
        attention: for each task, by name, a `TaskAttention` a stage; all but the first with a link.
        heads: a module for each task, by name.

    Shape: input ``(B, ...)``, features ``(B, C, ...)``.

    Raises ValueError for no stage, attention of other tasks or not for each stage, a link in the first or
    none in another; else see `MultiTask`.

    Source: Liu et al. 2019, arXiv:1803.10704, equations 1 and 2. Departs from it: only the encoder has
    attention; the paper's decoder is one more encoder here, or part of the heads.

    >>> import torch
    >>> from athena_multitask import TaskAttention, mask_network
    >>> stages = [(nn.Linear(4, 6), nn.ReLU()), (nn.Linear(6, 6), nn.ReLU())]
    >>> attention = {
    ...     name: [TaskAttention(mask_network(6, 6)), TaskAttention(mask_network(8, 6), nn.Linear(6, 2))]
    ...     for name in ("a", "b")
    ... }
    >>> model = MTAN(stages, attention=attention, heads={"a": nn.Linear(6, 1), "b": nn.Linear(6, 2)})
    >>> model(torch.ones(5, 4))["b"].shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        stages: Iterable[tuple[nn.Module, nn.Module]],
        *,
        attention: Mapping[str, Iterable[TaskAttention]],
        heads: Mapping[str, nn.Module] | nn.ModuleDict,
    ) -> None:
        super().__init__(heads)
        self.stages: Any = nn.ModuleList(nn.ModuleList(parts) for parts in stages)
        lists = {name: nn.ModuleList(modules) for name, modules in attention.items()}
        self.attention: Any = by_name(lists, "attention", self.tasks)
        if not self.stages:
            raise ValueError("`stages` must hold a pair of modules; got none. Split the encoder into some.")
        for name, modules in lists.items():
            _check_attention(name, [module.link is not None for module in modules], len(self.stages))

    def features(self, x: Tensor, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Tensor]:
        """The last stage as each task masks it, of all rows, or of each task's."""
        masked: dict[str, Any] = dict.fromkeys(tasks)
        p = x
        for place, (first, second) in enumerate(self.stages):
            u = first(p)
            p = second(u)
            us, ps = self.by_task(u, tasks, rows), self.by_task(p, tasks, rows)
            masked = {name: self.attention[name][place](us[name], ps[name], masked[name]) for name in tasks}
        return masked

    def task_modules(self, name: str) -> list[nn.Module]:
        """The task's head and attention."""
        return [self.heads[name], self.attention[name]]


def _check_attention(name: str, linked: Sequence[bool], stages: int) -> None:
    if list(linked) != [place > 0 for place in range(stages)]:
        raise ValueError(
            f"`attention[{name!r}]` must hold one module for each of {stages} stages, all but the first with "
            f"a link; got links {list(linked)}. Give one without a link, then {stages - 1} with."
        )
