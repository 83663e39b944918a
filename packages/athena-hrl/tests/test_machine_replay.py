"""Pitfall 24: machines save, copy and pickle, and a replay that diverges raises."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from ham_corridor import flat, root, walk
from hypothesis import given
from hypothesis import strategies as st

from athena_core import load_checkpoint, save_checkpoint
from athena_hrl import (
    HAM,
    CallStack,
    Choose,
    GraphMachine,
    MachineListener,
    ReplayDiverged,
    act,
    call,
    choose,
)

GRAPH = GraphMachine(
    "graph",
    {
        "way": {"kind": "choice", "label": "way", "options": [[0, "left"], [1, "right"]]},
        "left": {"kind": "call", "machine": "walk", "args": [0], "next": "wall"},
        "right": {"kind": "call", "machine": "walk", "args": [1], "next": "wall"},
        "wall": {"kind": "action", "action": {"feature": None}, "next": "end"},
        "end": {"kind": "stop", "result": 4},
    },
    start="way",
    machines={"walk": walk},
)


def over_graph(machine):
    while True:
        times = yield call(GRAPH)
        for _ in range(times):
            if machine.state % 2:
                yield act(machine.state)
            yield choose("turn", ("left", GRAPH))


def play(stack: CallStack, steps: int, *, seed: int) -> list[Any]:
    """What machines ask for under random answers, the last not answered."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        step = stack.run()
        found.append((step, stack.state, stack.frames[-1].key))
        if isinstance(step, Choose):
            stack.choose(int(random.integers(len(step.options))))
        else:
            stack.observe(int(random.integers(6)))
    return found


def by_checkpoint(stack: CallStack, tmp_path) -> CallStack:
    save_checkpoint(tmp_path / "stack.pt", stack.state_dict())
    other = CallStack(stack.ham)
    other.load_state_dict(load_checkpoint(tmp_path / "stack.pt"))
    return other


WAYS = {
    "checkpoint": by_checkpoint,
    "deepcopy": lambda stack, tmp_path: copy.deepcopy(stack),
    "copy": lambda stack, tmp_path: copy.copy(stack),
    "pickle": lambda stack, tmp_path: pickle.loads(pickle.dumps(stack)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ham", [HAM(root), HAM(GRAPH), HAM(over_graph)], ids=str)
def test_pitfall_24_a_copy_goes_on_as_the_original(ham: HAM, way: str, tmp_path) -> None:
    for steps in (0, 1, 2, 3, 5, 8, 21, 40):
        stack = CallStack(ham)
        stack.begin(3)
        play(stack, steps, seed=0)
        for answered in (True, False):
            if not answered:
                stack.run()
            other = WAYS[way](stack, tmp_path)
            before = str(stack)
            assert play(other, 50, seed=1) == play(copy.deepcopy(stack), 50, seed=1)
            assert str(stack) == before


@given(seed=st.integers(0, 10_000), steps=st.integers(0, 60))
def test_pitfall_24_any_moment_replays(seed: int, steps: int) -> None:
    stack = CallStack(HAM(over_graph))
    stack.begin(2)
    play(stack, steps, seed=seed)
    other = CallStack(stack.ham)
    other.load_state_dict(stack.state_dict())
    assert other.state_dict() == stack.state_dict()
    assert play(other, 30, seed=seed + 1) == play(stack, 30, seed=seed + 1)


def test_an_empty_stack_saves() -> None:
    other = copy.deepcopy(CallStack(HAM(root)))
    assert other.frames == []
    other.begin(2)
    assert other.run() == Choose("way", range(2))


def test_pitfall_24_observations_of_arrays_and_dictionaries_replay(tmp_path) -> None:
    def looking(machine):
        while True:
            bright = float(machine.state["picture"].sum()) > machine.state["level"][0]
            yield act(np.array([bright, 0.5]))

    def seen(number: int) -> Any:
        return {"picture": np.full((2, 3), number, np.uint8)[:, ::2], "level": (np.float32(9), None)}

    stack = CallStack(HAM(looking))
    stack.begin(seen(1))
    for number in (1, 2, 3):
        stack.run()
        stack.observe(seen(number))
    other = by_checkpoint(stack, tmp_path)
    assert other.run().action.tolist() == stack.run().action.tolist() == [1.0, 0.5]
    assert other.state["picture"].dtype == np.uint8


def test_saved_observations_are_apart_from_the_environment() -> None:
    buffer = np.zeros(2)
    stack = CallStack(HAM(flat))
    stack.begin(buffer)
    stack.run()
    state = stack.state_dict()
    buffer[:] = 7
    assert state["observations"][0].tolist() == [0, 0]


def nondeterministic(machine):
    yield act(next(COUNTER))
    yield act(0)


COUNTER = iter(range(100))


def test_pitfall_24_a_machine_that_is_not_deterministic_raises() -> None:
    stack = CallStack(HAM(nondeterministic))
    stack.begin(0)
    stack.run()
    with pytest.raises(
        ReplayDiverged, match=r"\['act', 0\] at its step 1 of 1; it did Act\(action=1\)"
    ) as caught:
        copy.deepcopy(stack)
    assert "nondeterministic(), before its first step" in caught.value.__notes__[0]
    assert stack.run() == (0,)  # the original is as it was


MODE = {"now": "calls"}


def moody(machine):
    if MODE["now"] == "calls":
        yield call(walk, 1)
    elif MODE["now"] == "calls with else":
        yield call(walk, 0)
    elif MODE["now"] == "labels":
        yield call(walk, 1, label="a")
    elif MODE["now"] == "acts":
        yield act(1)
    elif MODE["now"] == "chooses":
        yield choose("which", (1,))
    elif MODE["now"] == "calls nothing":
        yield call(3)
    elif MODE["now"] == "fails":
        raise KeyError("now")


@pytest.mark.parametrize(
    "mode", ["calls with else", "calls nothing", "labels", "acts", "chooses", "stops", "fails"]
)
def test_pitfall_24_a_replay_that_diverges_raises(mode: str) -> None:
    MODE["now"] = "calls"
    stack = CallStack(HAM(moody))
    stack.begin(0)
    stack.run()
    state = stack.state_dict()
    MODE["now"] = mode
    other = CallStack(HAM(moody))
    with pytest.raises(KeyError if mode == "fails" else ReplayDiverged) as caught:
        other.load_state_dict(state)
    assert "moody()" in caught.value.__notes__[0]
    assert other.frames == []


def test_other_programs_diverge() -> None:
    stack = CallStack(HAM(walk, 1))
    stack.begin(0)
    stack.run()
    state = stack.state_dict()
    with pytest.raises(ReplayDiverged):
        CallStack(HAM(walk, 0)).load_state_dict(state)
    with pytest.raises(ReplayDiverged):
        CallStack(HAM(root)).load_state_dict(state)
    as_graph = GraphMachine("walk", GRAPH.states, start="way", parameters=["way"], machines={"walk": walk})
    with pytest.raises(ReplayDiverged, match="a generator"):
        CallStack(HAM(as_graph, 1)).load_state_dict(state)


def test_options_are_part_of_a_replay() -> None:
    def few(machine):
        yield choose("which", options)

    options = (1, few)
    stack = CallStack(HAM(few))
    stack.begin(0)
    stack.run()
    state = stack.state_dict()
    options = (1, few, 3)
    with pytest.raises(ReplayDiverged):
        CallStack(HAM(few)).load_state_dict(state)


def test_results_that_are_no_data_cannot_be_saved() -> None:
    def giving(machine):
        return object()
        yield

    def asking(machine):
        found = yield call(giving)
        yield act(0 if found else 1)

    stack = CallStack(HAM(asking))
    stack.begin(0)
    stack.run()
    with pytest.raises(TypeError, match="what a machine called by 'asking' returned must be of primitives"):
        stack.state_dict()


def test_a_state_is_plain_data() -> None:
    stack = CallStack(HAM(over_graph))
    stack.begin(3)
    play(stack, 20, seed=3)
    json.dumps(stack.state_dict())


def test_recordings_keep_the_open_calls_of_the_episode_alone() -> None:
    stack = CallStack(HAM(root))
    stack.begin(3)
    play(stack, 5000, seed=0)  # the root returned often in this one episode
    assert len(stack.state_dict()["observations"]) <= 8
    stack.begin(3)
    assert len(stack.state_dict()["observations"]) == 1


def test_graphs_are_saved_by_their_state_however_long_they_run() -> None:
    endless = GraphMachine("endless", {"on": {"kind": "action", "action": 1, "next": "on"}}, start="on")
    stack = CallStack(HAM(endless))
    stack.begin(0)
    for cell in range(1000):
        stack.run()
        stack.observe(cell)
    stack.run()
    [frame] = stack.state_dict()["frames"]
    assert frame == {"machine": "endless", "args": (), "label": "", "node": "on", "step": ["act", 1]}


def test_graphs_with_features_of_any_kind_replay(tmp_path) -> None:
    inner = GraphMachine(
        "inner",
        {
            "pick": {
                "kind": "choice",
                "label": "pick",
                "options": [[{"feature": "levels"}, "do"], [1, "do"]],
            },
            "do": {"kind": "action", "action": {"feature": "levels"}, "next": "pick"},
        },
        start="pick",
        parameters=["machine", "level"],
    )
    outer = GraphMachine(
        "outer",
        {
            "go": {
                "kind": "call",
                "machine": "inner",
                "args": [{"parameter": "machine"}, {"feature": "first"}],
                "next": "go",
            }
        },
        start="go",
        parameters=["machine"],
        machines={"inner": inner},
    )
    stack = CallStack(HAM(outer, flat))
    stack.begin({"levels": np.ones(2), "first": 5})
    for number in range(2):
        for _ in range(2):
            other = by_checkpoint(stack, tmp_path)
            assert repr(other.run()) == repr(stack.run())
            assert other.frames[-1].args == stack.frames[-1].args == (flat, 5)
            assert other.frames[-1].key == stack.frames[-1].key
            if isinstance(stack.run(), Choose):
                stack.choose(0)
            else:
                stack.observe({"levels": np.full(2, number), "first": 6})


def test_graphs_of_other_states_diverge() -> None:
    def graph(name: str, label: str) -> GraphMachine:
        states = {name: {"kind": "choice", "label": label, "options": [[0, name]]}}
        return GraphMachine("graph", states, start=name)

    stack = CallStack(HAM(graph("a", "x")))
    stack.begin(0)
    stack.run()
    state = stack.state_dict()
    for other in (graph("b", "x"), graph("a", "y")):
        with pytest.raises(ReplayDiverged):
            CallStack(HAM(other)).load_state_dict(state)


def test_the_listener_is_copied_with_the_stack() -> None:
    class Counter(MachineListener):
        calls = 0

        def called(self, frame) -> None:
            self.calls += 1

    stack = CallStack(HAM(root), Counter())
    stack.begin(0)
    other = copy.deepcopy(stack)
    assert other.listener is not stack.listener
    assert other.listener.calls == 1  # a replay is no call


def test_a_root_of_other_arguments_is_told_before_it_runs() -> None:
    stack = CallStack(HAM(walk, 0))
    stack.begin(2)
    with pytest.raises(ReplayDiverged, match=r"the call of walk\(0,\)"):
        CallStack(HAM(walk, 1)).load_state_dict(stack.state_dict())


def test_tensors_in_observations_are_refused_with_a_remedy() -> None:
    stack = CallStack(HAM(flat))
    stack.begin(torch.zeros(2))
    stack.run()
    with pytest.raises(TypeError, match="an observation must be of primitives and arrays"):
        stack.state_dict()
