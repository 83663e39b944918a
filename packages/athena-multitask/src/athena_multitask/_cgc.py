"""CGC: a layer of experts that all tasks share beside experts of each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from athena_multitask._mixed_experts import expert_outputs, mixed_experts
from athena_multitask._multi_task import by_name, check_task_order


class CGC(nn.Module):
    r"""Customized gate control: a task mixes its own experts and the shared ones, not those of others.

    .. math:: z_t = \sum_i \mathrm{softmax}(g_t(x_t))_i \, S_{t,i}, \qquad
        S_t = [E_{t,1}(x_t), \ldots, E_{t,m_t}(x_t), E_{s,1}(x_s), \ldots, E_{s,m_s}(x_s)]

    with :math:`x_t` the task's features of the layer below and :math:`x_s` the shared ones; in the first
    layer both are the input. With a shared gate, the layer gives shared features to the next one,
    :math:`z_s = \sum_i \mathrm{softmax}(g_s(x_s))_i S_{s,i}`, of all experts: those of each task in the order
    of ``task_experts``, then the shared ones.

    Args:
        shared_experts: modules that all tasks mix.
        task_experts: modules of each task, by its name; a task may have none.
        gates: a module for each task, by name, to a number for each of its experts and each shared one.
        shared_gate: a module that gives a number for each expert; None in the last layer.

    Shape: features ``(B, ...)``, gates' outputs ``(B, experts)``.

    Raises ValueError for no shared expert, other names of gates than of experts; in use for gates or experts
    of other shapes.

    Source: Tang et al. 2020, Progressive layered extraction (PLE), RecSys, section 4.1, and section 4.2 for
    the shared gate. Departs from it: no.

    >>> layer = CGC(
    ...     [nn.Linear(4, 8)],
    ...     task_experts={"a": [nn.Linear(4, 8)], "b": [nn.Linear(4, 8), nn.Linear(4, 8)]},
    ...     gates={"a": nn.Linear(4, 2, bias=False), "b": nn.Linear(4, 3, bias=False)},
    ... )
    >>> x = torch.ones(5, 4)
    >>> of_tasks, shared = layer({"a": x, "b": x}, x)
    >>> of_tasks["b"].shape, shared
    (torch.Size([5, 8]), None)
    """

    def __init__(
        self,
        shared_experts: Iterable[nn.Module],
        *,
        task_experts: Mapping[str, Iterable[nn.Module]],
        gates: Mapping[str, nn.Module],
        shared_gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        lists = {name: nn.ModuleList(experts) for name, experts in task_experts.items()}
        self.task_experts: Any = by_name(lists, "task_experts")
        self.gates = by_name(gates, "gates", lists)
        self.shared_experts = nn.ModuleList(shared_experts)
        self.shared_gate = shared_gate
        if not self.shared_experts:
            raise ValueError(
                "`shared_experts` must hold a module; got none. Give one, or take a model for each task."
            )

    def forward(
        self, of_tasks: Mapping[str, Tensor], shared: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features of the tasks that are given, and the shared ones if there is a shared gate.

        With a shared gate all tasks must be given.
        """
        common = expert_outputs(self.shared_experts, shared)
        own = {
            name: expert_outputs(self.task_experts[name], x)
            for name, x in of_tasks.items()
            if len(self.task_experts[name])
        }
        mixed = {
            name: mixed_experts(_beside([own[name]] if name in own else [], common), self.gates[name](x))
            for name, x in of_tasks.items()
        }
        if self.shared_gate is None:
            return mixed, None
        every = [own[name] for name in self.task_experts if name in own]
        return mixed, mixed_experts(_beside(every, common), self.shared_gate(shared))

    def get_extra_state(self) -> dict[str, list[str]]:
        """The names, as a shared gate counts experts by their place."""
        return {"tasks": list(self.task_experts)}

    def set_extra_state(self, state: dict[str, list[str]]) -> None:
        """Raises ValueError for a checkpoint of other tasks, or of another order."""
        check_task_order(state["tasks"], list(self.task_experts))


def _beside(own: list[Tensor], common: Tensor) -> Tensor:
    return torch.cat([*own, common], dim=1)
