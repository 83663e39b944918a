"""One run of a machine that is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from athena_hrl._ham_steps import Act, Call, Choose, Step

if TYPE_CHECKING:
    from athena_hrl._graph_machine import GraphMachine
    from athena_hrl._ham import Machine


class GraphRun:
    """A run of a `GraphMachine`: what it needs of a generator, and the machine state as data.

    Attributes:
        node: the machine state; None before the first.
    """

    __slots__ = ("args", "graph", "machine", "node")

    def __init__(self, graph: GraphMachine, machine: Machine, args: Mapping[str, Any]) -> None:
        self.graph, self.machine, self.args = graph, machine, args
        self.node: str | None = None

    def send(self, value: Any) -> Step:
        """Go on with the number of an option or with a result. Raises StopIteration in a stop state."""
        if self.node is None:
            branch = self.graph.start
        else:
            state = self.graph.states[self.node]
            branch = state["options"][value][1] if state["kind"] == "choice" else state["next"]
        self.node = branch if isinstance(branch, str) else self._case(branch, value)
        return self.ask()

    def ask(self) -> Step:
        """What the machine asks for in its state."""
        assert self.node is not None
        return self.graph.fixed.get(self.node) or self._step(self.graph.states[self.node])

    def call_args(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of a call that were saved as values; those of its own are at hand."""
        assert self.node is not None
        written = self.graph.states[self.node].get("args", ())
        own = [type(one) is dict and "parameter" in one for one in written]
        return tuple(
            self._value(one) if known else value
            for one, known, value in zip(written, own, values, strict=True)
        )

    def close(self) -> None:
        """Nothing to do: there are no blocks to leave."""

    def _case(self, branch: Mapping[str, Any], result: Any) -> str:
        found = self._value(branch["on"], result)
        for value, following in branch["cases"]:
            if found == self._value(value, result):
                return following
        return branch["otherwise"]

    def _step(self, state: Mapping[str, Any]) -> Step:
        kind = state["kind"]
        if kind == "action":
            return Act(self._value(state["action"]))
        if kind == "choice":
            return Choose(state["label"], tuple([self._value(option) for option, _ in state["options"]]))
        if kind == "call":
            machine = self.graph.machine(state["machine"])
            args = tuple([self._value(value) for value in state.get("args", ())])
            return Call(machine, args, self.node or "")
        raise StopIteration(self._value(state.get("result")))

    def _value(self, value: Any, result: Any = None) -> Any:
        """A value, or what it refers to."""
        if type(value) is not dict:
            return value
        if "parameter" in value:
            return self.args[value["parameter"]]
        if "result" in value:
            return result
        name, seen = value["feature"], self.machine.state
        if name is None:
            return seen
        return getattr(seen, name) if type(name) is str and not isinstance(seen, Mapping) else seen[name]
