"""PLE: layers in which what tasks share is told apart from their own, more with each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from athena_multitask._cgc import CGC
from athena_multitask._multi_task import MultiTask
from athena_multitask._task_rows import TaskRows


class PLE(MultiTask):
    r"""Progressive layered extraction: layers of `CGC`, then a head a task.

    .. math:: (z^j_1, \ldots, z^j_T, z^j_s) = \mathrm{CGC}^j(z^{j-1}_1, \ldots, z^{j-1}_T, z^{j-1}_s), \qquad
        z^0_t = z^0_s = x, \qquad \hat y_t = h_t(z^L_t)

    All but the last layer have a shared gate. As this reads the experts of all tasks, those below the last
    layer count as shared: every task's loss reaches them. One layer is the paper's CGC model.

    Args:
        layers: from the input to the heads; each of all tasks.
        heads: a module for each task, by name (the paper's towers).

    Shape: input ``(B, ...)``.

    Raises ValueError for no layer, one of other tasks, a shared gate in the last or none below it; else see
    `MultiTask`.

    Source: Tang et al. 2020, Progressive layered extraction (PLE), RecSys, section 4.2. Departs from it: no.

    >>> import torch
    >>> def layer(width, shared_gate):
    ...     return CGC(
    ...         [nn.Linear(width, 8)],
    ...         task_experts={name: [nn.Linear(width, 8)] for name in ("a", "b")},
    ...         gates={name: nn.Linear(width, 2, bias=False) for name in ("a", "b")},
    ...         shared_gate=shared_gate,
    ...     )
    >>> layers = [layer(4, nn.Linear(4, 3, bias=False)), layer(8, None)]
    >>> model = PLE(layers, heads={"a": nn.Linear(8, 1), "b": nn.Linear(8, 2)})
    >>> model(torch.ones(5, 4))["b"].shape
    torch.Size([5, 2])
    """

    def __init__(self, layers: Iterable[CGC], *, heads: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
        super().__init__(heads)
        self.layers: Any = nn.ModuleList(layers)
        self._check_layers()

    def features(self, x: Tensor, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Tensor]:
        """The last layer's features of each task, of all rows, or of each task's."""
        *below, last = self.layers
        of_tasks, shared = dict.fromkeys(self.tasks, x), x
        for layer in below:
            of_tasks, shared = layer(of_tasks, shared)
        mixed, _ = last({name: of_tasks[name] for name in tasks}, shared)
        return mixed if rows is None else {name: rows.take(name, mixed[name]) for name in tasks}

    def task_modules(self, name: str) -> list[nn.Module]:
        """The task's head, its experts and gate in the last layer, and its gate in the one below."""
        *below, last = self.layers
        # What a gate two or more layers below the last gives is read by experts that the shared gate reads.
        gates = [layer.gates[name] for layer in [*below[-1:], last]]
        return [self.heads[name], last.task_experts[name], *gates]

    def _check_layers(self) -> None:
        if not self.layers:
            raise ValueError("`layers` must hold a `CGC`; got none. Give one without shared gate.")
        for place, layer in enumerate(self.layers):
            if set(layer.task_experts) != set(self.tasks):
                raise ValueError(
                    f"`layers[{place}]` must be of the tasks of `heads`, {list(self.tasks)}; "
                    f"got {list(layer.task_experts)}. Make it with these."
                )
            is_last = place == len(self.layers) - 1
            if (layer.shared_gate is None) != is_last:
                needed = "no shared gate, being the last" if is_last else "a shared gate"
                remedy = "Leave it out." if is_last else "Give one to all layers but the last."
                raise ValueError(f"`layers[{place}]` must have {needed}; got {layer.shared_gate}. {remedy}")
