"""What every multi-task model is: predictions by task, and parameters told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from athena_multitask._task_rows import TaskRows


class MultiTask(nn.Module, ABC):
    r"""A model of several tasks: features for each task, then its head.

    .. math:: \hat y_t = h_t(z_t(x))

    A plain module; those who write one give `features` and, where a task has more of its own than its head,
    `task_modules`. A parameter is *shared* if predictions of more than one task may depend on it, whichever
    module holds it: also one that two heads have in common.

    Args:
        heads: the last module of each task, by name.

    Shape: rows are the first axis of all inputs, features and predictions, ``(B, ...)``.

    Raises ValueError for no head, a name that a module cannot have, or in use for an unknown task.

    >>> import torch
    >>> class Doubled(MultiTask):
    ...     def features(self, x, tasks, rows):
    ...         return self.by_task(2 * x, tasks, rows)
    >>> model = Doubled({"a": nn.Identity(), "b": nn.Flatten(0)})
    >>> model(torch.ones(2, 1), tasks=["b"])
    {'b': tensor([2., 2.])}
    """

    def __init__(self, heads: Mapping[str, nn.Module] | nn.ModuleDict) -> None:
        super().__init__()
        self.heads = by_name(heads, "heads")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the heads."""
        return tuple(self.heads)

    def forward(
        self, x: Any, tasks: Iterable[str] | None = None, *, task_ids: Tensor | None = None
    ) -> dict[str, Any]:
        """Predictions by task.

        Args:
            x: what the encoder takes.
            tasks: the tasks to predict for; by default all. The others' own parameters get no gradient.
            task_ids: the place in ``tasks`` of the model that each row belongs to, ``(B,)``: each head then
                sees its rows alone, and tasks without rows are left out. Choose targets by `rows`.
        """
        chosen = self.tasks if tasks is None else self._checked(tasks)
        rows = None if task_ids is None else TaskRows(task_ids, self.tasks, chosen)
        names = chosen if rows is None else rows.names
        if not names:
            return {}
        features = self.features(x, names, rows)
        return {name: self.heads[name](features[name]) for name in names}

    @abstractmethod
    def features(self, x: Any, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Any]:
        """What the heads of these tasks take, of all rows, or of each task's if ``rows`` are given."""

    def task_modules(self, name: str) -> list[nn.Module]:
        """Modules on which the predictions of this task alone depend."""
        return [self.heads[name]]

    def rows(self, task_ids: Tensor) -> dict[str, Tensor]:
        """Where in a batch the rows of each task are that has some, ``(rows,)``."""
        return TaskRows(task_ids, self.tasks).indices

    def task_parameters(self, name: str) -> list[nn.Parameter]:
        """Parameters on which the predictions of this task alone depend."""
        (name,) = self._checked([name])
        return [parameter for parameter, owners in self._owners().items() if owners == {name}]

    def shared_parameters(self) -> list[nn.Parameter]:
        """All other parameters: what to balance."""
        owned = {frozenset([name]) for name in self.tasks}
        return [parameter for parameter, owners in self._owners().items() if owners not in owned]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: of what is shared, under ``"task"`` None, then of each task."""
        shared: list[dict[str, Any]] = [{"params": self.shared_parameters(), "task": None}]
        own = [{"params": self.task_parameters(name), "task": name} for name in self.tasks]
        return [group for group in shared + own if group["params"]]

    @staticmethod
    def by_task(value: Any, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Any]:
        """The same for each task, or each task's rows of it."""
        return dict.fromkeys(tasks, value) if rows is None else rows.split(value)

    def _checked(self, tasks: Iterable[str]) -> tuple[str, ...]:
        names = (tasks,) if isinstance(tasks, str) else tuple(dict.fromkeys(tasks))
        if isinstance(tasks, str) or not names:
            raise ValueError(f"`tasks` must be names of tasks; got {tasks!r}. Give {[self.tasks[0]]}.")
        for name in names:
            if name not in self.heads:
                raise ValueError(f"`tasks` must be of the model's; got {name!r}. {_hint(name, self.tasks)}")
        return names

    def _owners(self) -> dict[nn.Parameter, frozenset[str | None]]:
        """The tasks whose own modules hold each parameter, and None if another module does."""
        tasks: dict[nn.Module, set[str | None]] = {}
        for name in self.tasks:
            for module in self.task_modules(name):
                tasks.setdefault(module, set()).add(name)
        owners: dict[nn.Parameter, set[str | None]] = {}
        walk: list[tuple[nn.Module, set[str | None]]] = [(self, {None})]
        while walk:
            module, inherited = walk.pop()
            # a head inside another task's belongs to both
            own = tasks[module] | (inherited - {None}) if module in tasks else inherited
            for parameter in module._parameters.values():
                if parameter is not None:
                    owners.setdefault(parameter, set()).update(own)
            walk.extend((child, own) for child in reversed(list(module.children())))
        return {parameter: frozenset(found) for parameter, found in owners.items()}


def by_name(
    modules: Mapping[str, nn.Module] | nn.ModuleDict, argument: str, tasks: Iterable[str] = ()
) -> nn.ModuleDict:
    """The modules by the task's name; with ``tasks``, in their order.

    Raises ValueError for none, a name that no module can have, or for other names than ``tasks``.

    >>> list(by_name({"b": nn.Identity(), "a": nn.ReLU()}, "gates", ["a", "b"]))
    ['a', 'b']
    """
    names = tuple(tasks) or tuple(modules)
    if not names:
        raise ValueError(f"`{argument}` must hold a module for each task; got none. Give one by its name.")
    if set(names) != set(modules):
        raise ValueError(
            f"`{argument}` must be of the tasks {list(names)}; got {list(modules)}. Give one a task."
        )
    empty = nn.ModuleDict()
    for name in names:
        if not isinstance(name, str) or not name or "." in name or hasattr(empty, name):
            raise ValueError(
                f"`{argument}` must have names without dots that are no attribute of `nn.ModuleDict`; "
                f"got {name!r}. Put a word before it."
            )
    return nn.ModuleDict({name: modules[name] for name in names})


def check_task_order(found: Sequence[str], tasks: Sequence[str]) -> None:
    """Raises ValueError for a checkpoint of other tasks, or of another order, where weights depend on it.

    >>> check_task_order(["a", "b"], ("a", "b"))
    """
    if list(found) != list(tasks):
        raise ValueError(
            f"the checkpoint must be of the tasks {list(tasks)}, in this order; got {list(found)}. "
            "Make the model with these, in the checkpoint's order."
        )


def _hint(name: str, allowed: Sequence[str]) -> str:
    close = get_close_matches(str(name), allowed, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Its tasks: {', '.join(allowed)}."
