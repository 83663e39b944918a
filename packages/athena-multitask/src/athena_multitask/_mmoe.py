"""MMoE: experts that all tasks share, and a gate a task that mixes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from athena_multitask._mixed_experts import expert_outputs, mixed_experts
from athena_multitask._multi_task import MultiTask, by_name
from athena_multitask._task_rows import TaskRows


class MMoE(MultiTask):
    r"""Multi-gate mixture of experts: each task mixes the same experts, by a gate of its own.

    .. math:: \hat y_t = h_t\Big(\sum_{i=1}^n \mathrm{softmax}(g_t(x))_i \, f_i(x)\Big)

    In the paper a gate is a linear map of the input without bias. Gates and heads are the tasks' own.

    Args:
        experts: modules that give outputs of one shape.
        gates: a module for each task, by name, from the input to a number an expert, ``(B, experts)``.
        heads: a module for each task, by name (the paper's towers).

    Shape: input ``(B, ...)``, experts' outputs ``(B, ...)``.

    Raises ValueError for no expert, names of gates that are not those of heads, and in use for gates or
    experts of other shapes; else see `MultiTask`.

    Source: Ma et al. 2018, Modeling task relationships in multi-task learning with multi-gate
    mixture-of-experts, KDD, section 4.2. Departs from it: no.

    >>> import torch
    >>> tasks = ["depth", "segment"]
    >>> model = MMoE(
    ...     [nn.Linear(4, 8) for _ in range(3)],
    ...     gates={name: nn.Linear(4, 3, bias=False) for name in tasks},
    ...     heads={name: nn.Linear(8, 1) for name in tasks},
    ... )
    >>> model(torch.ones(2, 4))["depth"].shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        experts: Iterable[nn.Module],
        *,
        gates: Mapping[str, nn.Module] | nn.ModuleDict,
        heads: Mapping[str, nn.Module] | nn.ModuleDict,
    ) -> None:
        super().__init__(heads)
        self.experts = nn.ModuleList(experts)
        if not self.experts:
            raise ValueError("`experts` must hold a module; got none. Give at least one.")
        self.gates = by_name(gates, "gates", self.tasks)

    def features(self, x: Tensor, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Tensor]:
        """The mixture for each task, of all rows, or of each task's."""
        outputs = self.by_task(expert_outputs(self.experts, x), tasks, rows)
        inputs = self.by_task(x, tasks, rows)
        return {name: mixed_experts(outputs[name], self.gates[name](inputs[name])) for name in tasks}

    def task_modules(self, name: str) -> list[nn.Module]:
        """The task's head and gate."""
        return [self.heads[name], self.gates[name]]
