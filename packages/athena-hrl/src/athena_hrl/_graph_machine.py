"""A machine as data: a graph of action, call, choice and stop states."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from athena_hrl._graph_run import GraphRun
from athena_hrl._ham import Machine
from athena_hrl._ham_steps import Act, Choose, Step

_FIELDS = {  # required, optional
    "action": ({"action", "next"}, set()),
    "call": ({"machine", "next"}, {"args"}),
    "choice": ({"label", "options"}, set()),
    "stop": (set(), {"result"}),
}
_REFERENCES = "feature", "parameter", "result"


def _data(value: Any) -> Any:
    """A copy as JSON gives it back: dictionaries, and lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _data(one) for key, one in value.items()}
    return [_data(one) for one in value] if isinstance(value, list | tuple) else value


class GraphMachine:
    """A machine as a graph of states, which saves, copies and compares as data.

    Each state is a dictionary. ``next`` is the name of a state, or a branch (below).

    - ``{"kind": "action", "action": value, "next": ...}`` acts.
    - ``{"kind": "call", "machine": name, "args": [value, ...], "next": ...}`` calls a machine. The name of
      the state is the label of the call.
    - ``{"kind": "choice", "label": label, "options": [[value, next], ...]}`` leaves open where to go.
    - ``{"kind": "stop", "result": value}`` returns.
    - A branch, ``{"on": value, "cases": [[value, name], ...], "otherwise": name}``, goes where the values are
      equal.

    A value is a primitive, or refers to one: ``{"feature": name}`` is an attribute or item of what machines
    see, the whole of it for None; ``{"parameter": name}`` an argument; ``{"result": None}``, in the branch
    after a call, what the call returned.

    Args:
        name: by which its choices are known.
        states: by name.
        start: the first state, or a branch.
        parameters: names of the arguments.
        machines: that it calls, by name; generator functions or graphs. Itself it knows.

    Raises ValueError for states that do not fit together.

    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10.
    Departs from it: transitions are deterministic; machines have arguments and results.

    >>> from athena_hrl import HAM, CallStack
    >>> walk = GraphMachine(
    ...     "walk",
    ...     {
    ...         "which": {"kind": "choice", "label": "way", "options": [[0, "north"], [1, "south"]]},
    ...         "north": {"kind": "action", "action": 0, "next": "check"},
    ...         "south": {"kind": "action", "action": 1, "next": "check"},
    ...         "check": {"kind": "stop"},
    ...     },
    ...     start="which",
    ... )
    >>> stack = CallStack(HAM(walk))
    >>> stack.begin(0)
    >>> stack.run()
    Choose(label='way', options=(0, 1))
    >>> GraphMachine.from_dict(walk.to_dict()) == walk
    True
    """

    def __init__(
        self,
        name: str,
        states: Mapping[str, Mapping[str, Any]],
        *,
        start: str | Mapping[str, Any],
        parameters: Sequence[str] = (),
        machines: Mapping[str, Any] | None = None,
    ) -> None:
        self.__name__ = self.name = name
        self.states: dict[str, dict[str, Any]] = _data(states)
        self.start: str | dict[str, Any] = _data(start)
        self.parameters = tuple(parameters)
        self.machines = dict(machines or {})
        self._check()
        self.fixed: dict[str, Step] = {}  # actions and choices that refer to nothing
        for key, state in self.states.items():
            if state["kind"] == "action" and type(state["action"]) is not dict:
                self.fixed[key] = Act(state["action"])
            if state["kind"] == "choice" and dict not in [type(value) for value, _ in state["options"]]:
                self.fixed[key] = Choose(state["label"], tuple([value for value, _ in state["options"]]))

    def __call__(self, machine: Machine, *args: Any) -> GraphRun:
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}() takes the arguments {self.parameters}; got {args}.")
        return GraphRun(self, machine, dict(zip(self.parameters, args, strict=True)))

    def machine(self, name: str) -> Any:
        """A machine that it calls."""
        return self if name == self.name else self.machines[name]

    def to_dict(self) -> dict[str, Any]:
        """Primitives, for JSON too. Of functions that it calls, only the names."""
        return copy.deepcopy(
            {
                "name": self.name,
                "parameters": list(self.parameters),
                "start": self.start,
                "states": self.states,
                "machines": {
                    name: machine.to_dict() if isinstance(machine, GraphMachine) else None
                    for name, machine in self.machines.items()
                },
            }
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, machines: Mapping[str, Any] | None = None) -> GraphMachine:
        """A machine of `to_dict`.

        Args:
            data: what `to_dict` gave, also by way of JSON.
            machines: the functions that it calls, by name.

        Raises ValueError for a field too few or too many, an unknown machine, or states that do not fit.
        """
        fields = {"name", "parameters", "start", "states", "machines"}
        if set(data) != fields:
            raise ValueError(f"`data` must have the fields {sorted(fields)}; got {sorted(data)}.")
        given = dict(machines or {})
        for name, inner in data["machines"].items():
            if inner is not None:
                given[name] = cls.from_dict(inner, machines=machines)
            elif name not in given:
                raise ValueError(f"`machines` must hold the function {name!r}; got {sorted(given)}. Pass it.")
        called = {name: given[name] for name in data["machines"]}
        return cls(
            data["name"],
            data["states"],
            start=data["start"],
            parameters=data["parameters"],
            machines=called,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphMachine) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"GraphMachine({self.name!r}, {len(self.states)} states)"

    def _check(self) -> None:
        for key, state in self.states.items():
            where = f"state {key!r} of the machine {self.name!r}"
            kind = state.get("kind")
            if kind not in _FIELDS:
                raise ValueError(f"`kind` of {where} must be one of {sorted(_FIELDS)}; got {kind!r}.")
            required, optional = _FIELDS[kind]
            fields = set(state) - {"kind"}
            if not required <= fields <= required | optional:
                raise ValueError(
                    f"{where} must have the fields {sorted(required)}, and may have {sorted(optional)}; got "
                    f"{sorted(fields)}."
                )
            self._check_state(state, where)
        self._check_next(self.start, f"`start` of the machine {self.name!r}")

    def _check_state(self, state: Mapping[str, Any], where: str) -> None:
        if "next" in state:
            self._check_next(state["next"], where, after_call=state["kind"] == "call")
        if "machine" in state and state["machine"] not in {self.name, *self.machines}:
            raise ValueError(
                f"`machine` of {where} must be one of `machines` or itself; got {state['machine']!r}."
            )
        for value in (*state.get("args", ()), state.get("action"), state.get("result")):
            self._check_value(value, where)
        if state["kind"] == "choice":
            if not state["options"] or type(state["label"]) is not str:
                raise ValueError(f"{where} must have a label and at least one option.")
            for value, following in state["options"]:
                self._check_value(value, where)
                self._check_next(following, where)

    def _check_next(self, following: Any, where: str, *, after_call: bool = False) -> None:
        if isinstance(following, Mapping):
            if set(following) != {"on", "cases", "otherwise"}:
                raise ValueError(
                    f"a branch of {where} must have on, cases, otherwise; got {sorted(following)}."
                )
            for value, target in (*following["cases"], (following["on"], following["otherwise"])):
                self._check_value(value, where, after_call=after_call)
                self._check_next(target, where)
        elif following not in self.states:
            raise ValueError(f"{where} leads to {following!r}, which is none of {sorted(self.states)}.")

    def _check_value(self, value: Any, where: str, *, after_call: bool = False) -> None:
        if value is None or type(value) in (bool, int, float, str):
            return
        reference = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
        if reference not in _REFERENCES or (reference == "result" and not after_call):
            raise ValueError(
                f"a value of {where} must be a primitive or refer to a feature, a parameter or, in the "
                f"branch after a call, its result; got {value!r}."
            )
        if reference == "parameter" and value["parameter"] not in self.parameters:
            raise ValueError(f"{where} refers to {value['parameter']!r}, which is none of {self.parameters}.")
