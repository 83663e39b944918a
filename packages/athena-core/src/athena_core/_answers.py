"""One plugin's answers to the hooks, asked on its own and validated whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pluggy

from athena_core._component import Component, Kernel, Kind
from athena_core._spec import PROJECT, AthenaSpec


@dataclass
class Answers:
    """What one plugin offers; of a plugin that failed on the way, what it had offered until then."""

    kinds: list[Kind] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)

    def names(self) -> list[str]:
        """Name the kinds and components, as errors call them; unique within a distribution."""
        return [f"kind {kind.name}" for kind in self.kinds] + [
            f"{one.kind}/{one.name}" for one in self.components
        ]

    def claims(self) -> list[str]:
        """Name what the kernels are for; unique among all plugins."""
        return [f"the kernel of {kernel.op} on {kernel.device}" for kernel in self.kernels]


def ask(plugin: object, answers: Answers) -> pluggy.HookRelay:
    """Call the plugin's hooks, and nobody else's, into ``answers``; return its hooks.

    Raises whatever the plugin raises; pluggy's PluginValidationError for a hook or a hook's argument
    that does not exist; TypeError for an answer of another type; ValueError for one given twice.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(AthenaSpec)
    manager.register(plugin)
    manager.check_pending()  # hooks of unknown names; `register` lets them pass
    hook = manager.hook
    _collect(hook.athena_kinds, Kind, answers.kinds)
    _collect(hook.athena_components, Component, answers.components)
    _collect(hook.athena_kernels, Kernel, answers.kernels)
    seen: set[str] = set()
    for name in answers.names() + answers.claims():
        if name in seen:
            raise ValueError(f"{name} is offered twice by the same plugin.")
        seen.add(name)
    return hook


def refuse_claimed(answers: Answers, other: Answers, owner: str, same_distribution: bool) -> None:
    """Raise ValueError for what ``other``, of the distribution ``owner``, has and no two plugins may."""
    taken = set(other.claims() + (other.names() if same_distribution else []))
    for name in answers.names() + answers.claims():
        if name in taken:
            raise ValueError(f"{name} is offered already by `{owner}`.")


def _collect(hook: pluggy.HookCaller, of: type, into: list[Any]) -> None:
    results = hook()
    if len(results) < len(hook.get_hookimpls()):  # pluggy leaves out an answer that is None
        results = [None]
    for result in results:
        if not isinstance(result, Iterable):
            raise TypeError(f"{hook.name} must return an iterable of {of.__name__}; got {result!r}.")
        for item in result:
            if not isinstance(item, of):
                raise TypeError(f"{hook.name} must return an iterable of {of.__name__}; it holds {item!r}.")
            into.append(item)
