"""Saved calls: graph machines as data, generators by what was sent to them and what they saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from athena_hrl._graph_run import GraphRun
from athena_hrl._ham_steps import Act, Call, Choose, Step
from athena_hrl._machine_names import PRIMITIVES, named, option_name

if TYPE_CHECKING:
    from athena_hrl._call_stack import CallStack, Frame


class ReplayDiverged(RuntimeError):  # noqa: N818  # what happened, as StopIteration
    """A machine that was run again on what it had seen and been told asked for something else.

    Machines must be deterministic, and a saved state needs the machines that it was saved with.

    >>> issubclass(ReplayDiverged, RuntimeError)
    True
    """


def saved_stack(stack: CallStack) -> dict[str, Any]:
    """The open calls as primitives and arrays."""
    observations: list[Any] = []
    places: dict[int, int] = {}

    def place(observation: Any) -> int:
        if id(observation) not in places:
            places[id(observation)] = len(observations)
            observations.append(saved_value(observation, "an observation"))
        return places[id(observation)]

    frames = [_saved_frame(frame, place) for frame in stack.frames]
    current = place(stack.observation) if stack.frames else None
    return {
        "frames": frames,
        "observations": observations,
        "current": current,
        "sent": stack._sent,
        "answered": stack._answered,
        "idle": stack._idle,
    }


def _saved_frame(frame: Frame, place: Any) -> dict[str, Any]:
    saved: dict[str, Any] = {"machine": frame.name, "args": named(frame.args), "label": frame.label}
    if isinstance(frame.run, GraphRun):
        return {**saved, "node": frame.run.node, "step": step_data(frame.step)}
    results = f"what a machine called by {frame.name!r} returned"
    log = [[saved_value(sent, results), place(seen), step_data(step)] for sent, seen, step in frame.log or ()]
    return {**saved, "log": log}


def restore_stack(stack: CallStack, state: Mapping[str, Any]) -> None:
    """Make fresh calls, and run them through what was recorded."""
    stack.end()
    try:
        _restore(stack, state)
    except BaseException as error:
        stack._blame(error)
        raise


def _restore(stack: CallStack, state: Mapping[str, Any]) -> None:
    observations = [restored_value(one) for one in state["observations"]]
    step: Any = Call(stack.ham.root, stack.ham.args)
    for saved in state["frames"]:
        if type(step) is not Call:
            raise _diverged(f"{saved['machine']!r} to be called", step)
        frame = stack._frame(step, stack.frames[-1].key if stack.frames else ())
        stack.frames.append(frame)
        found = {"machine": frame.name, "args": named(frame.args), "label": frame.label}
        if not same(found, {key: saved[key] for key in found}):
            raise _diverged(f"the call of {saved['machine']}{tuple(saved['args'])}", step)
        if ("node" in saved) != isinstance(frame.run, GraphRun):
            raise _diverged("a graph" if "node" in saved else "a generator", frame.run)
        step = _resume_graph(frame, saved) if "node" in saved else _replay(stack, frame, saved, observations)
    if state["frames"]:
        stack.observe(observations[state["current"]])
        _ask_graph(stack.frames[-1], state["frames"][-1])
    stack._sent, stack._answered, stack._idle = state["sent"], state["answered"], state["idle"]


def _resume_graph(frame: Frame, saved: Mapping[str, Any]) -> Step | None:
    """Put a graph where it was, with the call or action that it waits for."""
    run = frame.run
    run.node = saved["node"]
    if run.node is not None:
        if run.node not in run.graph.states:
            raise _diverged(f"a state {run.node!r}", sorted(run.graph.states))
        kind, first, *rest = saved["step"]
        if kind == "call":
            frame.step = Call(run.graph.machine(first), run.call_args(rest[0]), rest[1])
        elif kind == "act":
            frame.step = Act(restored_value(first))
    return frame.step


def _ask_graph(frame: Frame, saved: Mapping[str, Any]) -> None:
    """An open choice is in the state that is seen now, so that a graph can be asked for it again."""
    if saved.get("step") is not None and saved["step"][0] == "choose":
        frame.step = frame.run.ask()
        if not same(step_data(frame.step), saved["step"]):
            raise _diverged(str(saved["step"]), frame.step)


def _replay(stack: CallStack, frame: Frame, saved: Mapping[str, Any], observations: list[Any]) -> Step | None:
    decode, count = stack.ham.state, len(saved["log"])
    assert frame.log is not None
    for number, (sent, place, recorded) in enumerate(saved["log"]):
        observation, value = observations[place], restored_value(sent)
        stack._machine.state = observation if decode is None else decode(observation)
        sent = value
        if type(frame.step) is Choose:
            value = frame.step.options[sent]
        try:
            step = frame.send(value)
        except StopIteration:
            step = None
        if step is None or not same(step_data(step), recorded):
            raise _diverged(f"{recorded} at its step {number + 1} of {count}", step)
        frame.step = step
        frame.log.append((sent, observation, step))
    return frame.step


def _diverged(expected: str, found: Any) -> ReplayDiverged:
    return ReplayDiverged(
        f"a replayed machine must do as recorded, {expected}; it did {found!r}. Machines must be "
        "deterministic, and those that the state was saved with."
    )


def step_data(step: Step | None) -> list[Any] | None:
    """A step as primitives and arrays."""
    if type(step) is Act:
        return ["act", saved_value(step.action, "an action")]
    if type(step) is Choose:
        return ["choose", step.label, [option_name(option) for option in step.options]]
    if type(step) is Call:
        return ["call", option_name(step.machine), named(step.args), step.label]
    return None


def same(first: Any, second: Any) -> bool:
    """Whether two saved values are equal, arrays and tensors among them.

    >>> same([1, np.ones(2)], (1, np.ones(2)))
    True
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, np.ndarray | Tensor) or isinstance(second, np.ndarray | Tensor):
        one, other = np.asarray(first), np.asarray(second)
        nan = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        return np.array_equal(one, other, equal_nan=nan)
    return bool(first == second) or (first != first and second != second)


def saved_value(value: Any, what: str) -> Any:
    if type(value) in PRIMITIVES or isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        return [type(value).__name__, [saved_value(one, what) for one in value]]
    if isinstance(value, Mapping):
        return {key: saved_value(one, what) for key, one in value.items()}
    raise TypeError(
        f"{what} must be of primitives and arrays to be saved; got {value!r}. Let machines return numbers, "
        "strings, arrays or tuples of them."
    )


def restored_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, list):
        parts = [restored_value(one) for one in value[1]]
        return parts if value[0] == "list" else tuple(parts)
    if isinstance(value, Mapping):
        return {key: restored_value(one) for key, one in value.items()}
    return value
