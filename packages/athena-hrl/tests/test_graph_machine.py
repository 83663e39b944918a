"""Machines that are data."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
from ham_corridor import WALK, corridor, graph_root, walk
from ham_corridor import root as root_function

from athena_hrl import HAM, Act, Call, CallStack, Choose, GraphMachine, HAMQLearning, act, call

ROOT = {
    "way": {"kind": "choice", "label": "way", "options": [[0, "left"], [1, "right"]]},
    "left": {"kind": "call", "machine": "walk", "args": [0], "next": "after"},
    "right": {"kind": "call", "machine": "walk", "args": [1], "next": "after"},
    "after": {"kind": "stop"},
}


def test_a_graph_learns_as_the_same_generator_does() -> None:
    """Values are those of the generators; keys too, but for the labels of calls, which a graph always has."""
    options = {"gamma": 0.8, "epsilon": 0.4, "seed": 2}
    graph = HAMQLearning(corridor(slip=0.2), HAM(graph_root()), **options).learn(3000)
    plain = HAMQLearning(corridor(slip=0.2), HAM(root_function), **options).learn(3000)
    assert graph.q == plain.q


def test_the_state_of_a_call_is_its_label() -> None:
    stack = CallStack(HAM(graph_root()))
    stack.begin(2)
    stack.run()
    stack.choose(1)
    assert stack.run() == Act(1)
    assert stack.frames[-1].key == (("", "root", ()), ("right", "walk", (1,)))
    assert stack.frames[0].step == Call(stack.ham.root.machines["walk"], (1,), "right")


def test_data_survives_json() -> None:
    graph = graph_root()
    again = GraphMachine.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert again == graph
    assert hash(again) == hash(graph)
    assert again.to_dict() == graph.to_dict()
    assert copy.deepcopy(graph) == graph != GraphMachine("walk", WALK, start="first", parameters=["way"])


def test_tuples_in_states_are_lists() -> None:
    def made(pair: type) -> GraphMachine:
        states = {
            "a": {"kind": "choice", "label": "l", "options": pair([pair([0, "b"])])},
            "b": {"kind": "stop"},
        }
        return GraphMachine(
            "walk", states, start={"on": 0, "cases": pair([pair([1, "b"])]), "otherwise": "a"}
        )

    assert made(tuple) == made(list) == GraphMachine.from_dict(json.loads(json.dumps(made(tuple).to_dict())))


def test_data_is_apart_from_its_source() -> None:
    states = copy.deepcopy(WALK)
    graph = GraphMachine("walk", states, start="first", parameters=["way"])
    states["back"]["action"] = 0
    graph.to_dict()["states"]["back"]["action"] = 0
    assert graph.states["back"]["action"] == 1


def test_functions_that_a_graph_calls_are_given_when_it_loads() -> None:
    graph = GraphMachine("graph", ROOT, start="way", machines={"walk": walk})
    data = json.loads(json.dumps(graph.to_dict()))
    assert data["machines"] == {"walk": None}
    assert GraphMachine.from_dict(data, machines={"walk": walk, "other": len}) == graph
    with pytest.raises(ValueError, match="`machines` must hold the function 'walk'"):
        GraphMachine.from_dict(data)


def test_a_graph_may_call_itself() -> None:
    states = {
        "more": {"kind": "choice", "label": "more", "options": [[False, "stop"], [True, "again"]]},
        "again": {"kind": "call", "machine": "nest", "next": "act"},
        "act": {"kind": "action", "action": 1, "next": "stop"},
        "stop": {"kind": "stop"},
    }
    stack = CallStack(HAM(GraphMachine("nest", states, start="more")))
    stack.begin(0)
    for index in (1, 1, 0):
        stack.run()
        assert stack.point.label == "more"
        stack.choose(index)
    for _ in range(2):
        assert stack.run() == Act(1)
        stack.observe(0)
    assert isinstance(stack.run(), Choose)
    assert len(stack.frames) == 1


@pytest.mark.parametrize(
    ("feature", "state"),
    [("wall", {"wall": 2}), ("wall", SimpleNamespace(wall=2)), (1, (7, 2)), (None, 2), (1, {1: 2})],
)
def test_features_are_attributes_items_or_all(feature: Any, state: Any) -> None:
    graph = GraphMachine(
        "looks",
        {
            "yes": {"kind": "action", "action": {"feature": feature}, "next": "yes"},
            "no": {"kind": "stop"},
        },
        start={"on": {"feature": feature}, "cases": [[1, "no"], [2, "yes"]], "otherwise": "no"},
    )
    stack = CallStack(HAM(graph, state=lambda number: state))
    stack.begin(0)
    assert stack.run() == Act(2)


def test_branches_compare_with_parameters() -> None:
    graph = GraphMachine(
        "until",
        {
            "on": {
                "kind": "action",
                "action": 1,
                "next": {
                    "on": {"feature": None},
                    "cases": [[{"parameter": "goal"}, "there"]],
                    "otherwise": "on",
                },
            },
            "there": {"kind": "action", "action": 0, "next": "on"},
        },
        start="on",
        parameters=["goal"],
    )
    stack = CallStack(HAM(graph, 3))
    stack.begin(0)
    found = []
    for cell in (1, 2, 3, 4):
        found.append(stack.run().action)
        stack.observe(cell)
    assert found == [1, 1, 1, 0]


def test_wrong_arguments_raise() -> None:
    stack = CallStack(HAM(GraphMachine("walk", WALK, start="first", parameters=["way"])))
    with pytest.raises(TypeError, match=r"walk\(\) takes the arguments \('way',\); got \(\)"):
        stack.begin(0)


STOP: dict[str, Any] = {"kind": "stop"}
ACT: dict[str, Any] = {"kind": "action", "action": 0, "next": "end"}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "`kind` of state 'a' of the machine 'bad' must be one of"),
        ({"kind": "loop"}, "got 'loop'"),
        ({"kind": "action", "action": 0}, r"must have the fields \['action', 'next'\]"),
        ({**ACT, "label": "x"}, "may have"),
        ({**ACT, "next": "nowhere"}, "leads to 'nowhere', which is none of"),
        ({**ACT, "action": [1]}, "must be a primitive or refer"),
        ({**ACT, "action": {"feature": 1, "parameter": 2}}, "must be a primitive or refer"),
        ({**ACT, "action": {}}, "must be a primitive or refer"),
        ({**ACT, "action": {"parameter": "goal"}}, r"refers to 'goal', which is none of \(\)"),
        ({**ACT, "action": {"result": None}}, "in the branch after a call"),
        ({**ACT, "next": {"on": 1}}, "must have on, cases, otherwise"),
        ({**ACT, "next": {"on": {"result": None}, "cases": [], "otherwise": "end"}}, "after a call"),
        ({**ACT, "next": {"on": 1, "cases": [[1, "x"]], "otherwise": "end"}}, "leads to 'x'"),
        ({"kind": "call", "machine": "other", "next": "end"}, "must be one of `machines` or itself"),
        ({"kind": "call", "machine": "bad", "args": [{"parameter": "x"}], "next": "end"}, "refers to 'x'"),
        ({"kind": "choice", "label": "x", "options": []}, "at least one option"),
        ({"kind": "choice", "label": 3, "options": [[0, "end"]]}, "must have a label"),
        ({"kind": "choice", "label": "x", "options": [[0, "nowhere"]]}, "leads to 'nowhere'"),
        ({"kind": "choice", "label": "x", "options": [[{1, 2}, "end"]]}, "must be a primitive"),
    ],
)
def test_states_that_do_not_fit_raise(state: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphMachine("bad", {"a": state, "end": STOP}, start="a")


def test_what_is_no_data_of_a_graph_raises() -> None:
    data = GraphMachine("graph", {"end": STOP}, start="end").to_dict()
    with pytest.raises(ValueError, match="must have the fields"):
        GraphMachine.from_dict({**data, "code": "x"})
    with pytest.raises(ValueError, match="must have the fields"):
        GraphMachine.from_dict({"name": "graph"})
    with pytest.raises(ValueError, match="`start` of the machine 'graph' leads to 'x'"):
        GraphMachine.from_dict({**data, "start": "x"})


def test_generators_call_graphs_and_get_results() -> None:
    def outer(machine):
        wall = yield call(GraphMachine("walk", WALK, start="first", parameters=["way"]), 0)
        yield act("wall" if wall else "none")

    stack = CallStack(HAM(outer))
    stack.begin(2)
    found = []
    for cell in (1, 0, 1, 1):
        found.append(stack.run().action)
        stack.observe(cell)
    assert found == [0, 0, 1, "wall"]
