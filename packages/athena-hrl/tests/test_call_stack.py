"""The interpreter of machines."""

from __future__ import annotations

import numpy as np
import pytest
from ham_corridor import corridor, flat, numpy_corridor, root, walk

from athena_hrl import (
    HAM,
    Act,
    CallStack,
    ChoicePoint,
    Choose,
    GraphMachine,
    InducedSMDP,
    MachineListener,
    MachineLoop,
    act,
    call,
    choose,
)


def asked(stack: CallStack, answers: list[object]) -> list[object]:
    """What machines ask for, when answered by choices after `Choose` and observations after `Act`."""
    found = [stack.run()]
    for answer in answers:
        if isinstance(found[-1], Choose):
            stack.choose(answer)
        else:
            stack.observe(answer)
        found.append(stack.run())
    return found


def test_calls_pass_arguments_and_results() -> None:
    stack = CallStack(HAM(root))
    stack.begin(2)
    way = Choose("way", range(2))
    assert asked(stack, [0, 1, 0]) == [way, Act(0), Act(0), Act(1)]
    assert [frame.name for frame in stack.frames] == ["root", "walk"]
    stack.observe(1)
    assert stack.run() == Choose("times", (0, 1, 3))
    assert stack.point == ChoicePoint((("", "root", ()),), "times", (0, 1, 3), 1)
    assert asked(stack, [2, 2, 3, 4]) == [Choose("times", (0, 1, 3)), Act(1), Act(1), Act(1), way]


def test_run_repeats_what_is_not_answered() -> None:
    stack = CallStack(HAM(flat))
    stack.begin(0)
    assert stack.run() is stack.run()
    assert stack.transitions == 1


def test_decoded_state_is_what_machines_see() -> None:
    def machine_of_parity(machine):
        while True:
            yield act(machine.state)

    stack = CallStack(HAM(machine_of_parity, state=lambda cell: "even" if cell % 2 == 0 else "odd"))
    stack.begin(0)
    assert asked(stack, [3, 4]) == [Act("even"), Act("odd"), Act("even")]


def test_root_arguments_and_recursion() -> None:
    def count(machine, number):
        if number:
            below = yield call(count, number - 1)
            return below + 1
        yield act("bottom")
        return 0

    def top(machine, number):
        total = yield call(count, number)
        yield act(total)

    stack = CallStack(HAM(top, 3000))  # frames are a list: deeper than Python's own stack
    stack.begin(0)
    assert asked(stack, [0]) == [Act("bottom"), Act(3000)]


def test_a_root_that_returns_starts_again() -> None:
    stack = CallStack(HAM(flat))
    stack.begin(0)
    assert [type(step) for step in asked(stack, [1, 7, 0, 8])] == [Choose, Act, Choose, Act, Choose]


def test_labels_tell_calls_apart() -> None:
    def twice(machine):
        yield call(flat, label="first")
        yield call(flat, label="second")

    stack = CallStack(HAM(twice))
    stack.begin(0)
    stacks = []
    for _ in range(2):
        stack.run()
        stacks.append(stack.point.stack)
        stack.choose(0)
        stack.run()
        stack.observe(0)
    assert stacks == [(("", "twice", ()), (label, "flat", ())) for label in ("first", "second")]


def test_keys_hold_arguments_and_never_locals() -> None:
    def counting(machine, goal):
        steps = 0
        while True:
            steps += 1
            yield act((yield choose("way", range(2))))

    stack = CallStack(HAM(counting, np.int64(3)))
    stack.begin(0)
    points = set()
    for _ in range(3):
        stack.run()
        points.add(stack.point)
        stack.choose(0)
        stack.run()
        stack.observe(0)
    assert points == {ChoicePoint((("", "counting", (3,)),), "way", range(2), 0)}


def test_pitfall_23_loops_without_an_action_are_found_and_their_stack_printed() -> None:
    def inner(machine, depth):
        while True:
            yield choose("again", (0,))

    def outer(machine):
        yield act(0)
        yield call(inner, 7)

    stack = CallStack(HAM(outer, limit=50))
    stack.begin(0)
    stack.run()
    stack.observe(0)
    with pytest.raises(MachineLoop, match="50 machine transitions without an action") as caught:
        for _ in range(100):
            stack.run()
            stack.choose(0)
    [note] = caught.value.__notes__
    assert note.splitlines()[1:] == ["  outer() at call(inner, 7)", "  inner(7) at choose('again', [0])"]
    assert stack.frames == []


def test_pitfall_23_endless_calls_and_roots_are_loops() -> None:
    def deeper(machine, depth):
        yield call(deeper, depth + 1)

    def idle(machine):
        return
        yield

    for ham in (HAM(deeper, 0, limit=1000), HAM(idle)):
        stack = CallStack(ham)
        stack.begin(0)
        with pytest.raises(MachineLoop) as caught:
            stack.run()
        assert len(caught.value.__notes__[0].splitlines()) <= 22


def test_actions_within_the_limit_are_no_loop() -> None:
    stack = CallStack(HAM(flat, limit=3))  # return, choose, act
    stack.begin(0)
    asked(stack, [0, 0] * 20)


def test_pitfall_22_an_exception_in_a_machine_propagates_with_its_stack() -> None:
    def broken(machine, number):
        yield act(0)
        raise KeyError("lost")

    closed = []

    def outer(machine):
        try:
            yield call(broken, 5)
        finally:
            closed.append(machine.state)

    stack = CallStack(HAM(outer))
    stack.begin(0)
    stack.run()
    stack.observe(3)
    with pytest.raises(KeyError, match="lost") as caught:
        stack.run()
    assert caught.value.__notes__ == [
        "machine stack, the innermost last:\n  outer() at call(broken, 5)\n  broken(5) at act(0)"
    ]
    assert closed == [3]
    with pytest.raises(RuntimeError, match="needs an episode"):
        stack.run()


def test_an_exception_while_unwinding_is_not_swallowed() -> None:
    closed = []

    def inner(machine):
        try:
            yield act(0)
        finally:
            raise ValueError("inner")

    def outer(machine):
        try:
            yield call(inner)
        finally:
            closed.append("outer")

    stack = CallStack(HAM(outer))
    stack.begin(0)
    stack.run()
    with pytest.raises(ValueError, match="inner"):
        stack.end()
    assert closed == ["outer"]


@pytest.mark.parametrize("terminated", [True, False])
def test_pitfall_22_the_end_of_an_episode_unwinds_the_innermost_first(terminated: bool) -> None:
    order = []

    def inner(machine):
        try:
            while True:
                yield act(1)
        finally:
            order.append("inner")

    def outer(machine):
        try:
            yield call(inner)
        finally:
            order.append("outer")

    smdp = InducedSMDP(corridor(limit=None if terminated else 2), HAM(outer), gamma=0.5)
    segment = smdp.reset(seed=0)
    assert order == ["inner", "outer"]
    assert (segment.terminated, segment.truncated) == (terminated, not terminated)
    assert smdp.stack.frames == []


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda: 3, TypeError, "must yield act, choose or call; got 3"),
        (lambda: None, TypeError, "must yield act, choose or call; got None"),
        (lambda: call(3), TypeError, "generator function or a GraphMachine; got 3"),
        (lambda: call(len, "ab"), TypeError, r"takes exactly one argument"),
        (lambda: call(walk), TypeError, "missing 1 required positional argument"),
        (lambda: call(walk, [1]), TypeError, r"arguments of machines must be .* got \[1\]"),
        (lambda: call(lambda machine: 3), TypeError, "has no `yield`"),
        (lambda: choose("empty", ()), ValueError, "must not be empty"),
        (lambda: choose(3, (1,)), TypeError, "`label` must be a string"),
    ],
)
def test_what_is_no_step_raises_with_the_stack(bad, error, message) -> None:
    def asking(machine):
        yield bad()

    stack = CallStack(HAM(asking))
    stack.begin(0)
    with pytest.raises(error, match=message) as caught:
        stack.run()
    assert "asking()" in caught.value.__notes__[0]


def test_two_machines_of_one_name_raise() -> None:
    def make(bit):
        if bit:

            def twin(machine):
                yield act(0)
        else:

            def twin(machine):
                yield act(1)

        return twin

    def both(machine):
        yield call(make(True))
        yield call(make(False))

    stack = CallStack(HAM(both))
    stack.begin(0)
    stack.run()
    stack.observe(0)
    with pytest.raises(ValueError, match="two machines have the name 'twin'"):
        stack.run()


def test_nested_machines_are_the_same_in_each_run() -> None:
    def outer(machine):
        def nested(machine):
            yield act(0)

        yield call(nested)

    stack = CallStack(HAM(outer))
    stack.begin(0)
    assert asked(stack, [0, 0]) == [Act(0)] * 3


def test_an_action_that_the_environment_refuses_is_known_by_its_machine() -> None:
    def careless(machine):
        yield act(7)

    smdp = InducedSMDP(numpy_corridor(slip=0, limit=9), HAM(careless), gamma=0.9)
    with pytest.raises(ValueError, match="actions must lie in") as error:
        smdp.reset(seed=0)
    assert error.value.__notes__ == ["machine stack, the innermost last:\n  careless() at act(7)"]


def test_options_without_an_order_raise() -> None:
    with pytest.raises(TypeError, match=r"`options` of the choice 'way' must have an order"):
        choose("way", {"north", "south"})  # pyright: ignore[reportArgumentType]


def test_wrong_use_raises() -> None:
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        HAM(flat, limit=0)
    with pytest.raises(TypeError, match=r"arguments of machines must be .* got \[1\]"):
        HAM(walk, [1])
    with pytest.raises(TypeError, match="got 7"):
        HAM(7)
    with pytest.raises(TypeError, match="Pass the function and its arguments apart"):
        HAM(flat(None))
    stack = CallStack(HAM(flat))
    with pytest.raises(RuntimeError, match="a choice needs an episode under way"):
        stack.choose(0)
    stack.begin(0)
    stack.run()
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"must lie in \[0, 2\)"):
            stack.choose(index)
    stack.choose(1)
    stack.run()
    with pytest.raises(RuntimeError, match="the machines are at Act"):
        stack.choose(0)


class Recorder(MachineListener):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def called(self, frame) -> None:
        self.heard.append(("called", frame.name, frame.args))

    def acted(self, reward) -> None:
        self.heard.append(("acted", reward))

    def returned(self, frame, result) -> None:
        self.heard.append(("returned", frame.name, result))

    def ended(self, *, terminated, truncated) -> None:
        self.heard.append(("ended", terminated, truncated))


def test_a_listener_hears_all_in_order() -> None:
    recorder = Recorder()
    smdp = InducedSMDP(corridor(), HAM(root), gamma=0.5, listener=recorder)
    smdp.reset(seed=0)
    assert recorder.heard == [("called", "root", ())]
    smdp.choose(1)
    smdp.choose(1)
    assert recorder.heard[1:] == [
        ("called", "walk", (1,)),
        ("acted", -1.375),
        ("acted", -1.5),
        ("returned", "walk", False),
        ("returned", "root", None),
        ("called", "root", ()),
        ("called", "walk", (1,)),
        ("acted", 10.0),
        ("ended", True, False),
    ]


def test_a_listener_hears_of_graphs_too() -> None:
    recorder = Recorder()
    graph = GraphMachine(
        "one", {"a": {"kind": "action", "action": 1, "next": "b"}, "b": {"kind": "stop"}}, start="a"
    )
    InducedSMDP(corridor(), HAM(graph), gamma=0.5, listener=recorder).reset(seed=0)
    assert [heard[0] for heard in recorder.heard] == [
        *["called", "acted", "returned"] * 2,
        "called",
        "acted",
        "ended",
    ]


def test_pitfall_20_rewards_are_discounted_between_consecutive_choices() -> None:
    gamma = 0.5
    smdp = InducedSMDP(corridor(), HAM(root), gamma=gamma)
    smdp.reset(seed=0)
    segment = smdp.choose(0)  # cells 1, 0, and back to 1
    assert segment.reward == -1.125 + gamma * -1 + gamma**2 * -1.125
    assert (segment.duration, segment.discount, segment.total) == (3, 0.125, -3.25)
    assert segment.point.label == "times"
    segment = smdp.choose(0)  # no step at all: the root starts again
    assert (segment.reward, segment.duration, segment.discount) == (0.0, 0, 1.0)
    assert segment.point.label == "way"
    segment = smdp.choose(1)
    assert segment.reward == -1.25 + gamma * -1.375


def test_a_segment_ends_with_the_episode() -> None:
    smdp = InducedSMDP(corridor(), HAM(root), gamma=0.5)
    smdp.reset(seed=0)
    smdp.choose(1)
    segment = smdp.choose(1)
    assert (segment.reward, segment.duration, segment.point) == (10.0, 1, None)
    assert segment.terminated
    assert not segment.truncated


def test_a_truncation_knows_the_next_choice_where_no_action_comes_before() -> None:
    smdp = InducedSMDP(corridor(limit=2), HAM(root), gamma=0.5)
    smdp.reset(seed=0)
    segment = smdp.choose(1)
    assert (segment.truncated, segment.point.label, segment.point.state) == (True, "way", 4)
    smdp.reset()
    segment = smdp.choose(0)  # the machine would have gone back a step
    assert (segment.truncated, segment.point) == (True, None)


def test_gamma_outside_its_range_raises() -> None:
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\]; got 1.5"):
        InducedSMDP(corridor(), HAM(root), gamma=1.5)
