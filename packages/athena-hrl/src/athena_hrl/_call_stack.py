"""The call stack of a hierarchy of machines, and the interpreter that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from athena_hrl._graph_run import GraphRun
from athena_hrl._ham import HAM, Machine
from athena_hrl._ham_steps import Act, Call, Choose, Step
from athena_hrl._machine_listener import MachineListener
from athena_hrl._machine_names import described, named

StackKey = tuple[tuple[str, str, tuple[Any, ...]], ...]  #: label, machine and arguments of each call

_RETURNED: Any = object()


class MachineLoop(RuntimeError):  # noqa: N818  # what happened, as StopIteration
    """Machines made more transitions without an action than the ``limit`` of `HAM`; the stack is printed.

    >>> issubclass(MachineLoop, RuntimeError)
    True
    """


class ChoicePoint(NamedTuple):
    """Where a choice stands: the calls it is inside of, its label and options, and the state.

    >>> ChoicePoint((("", "root", ()),), "direction", range(4), state=7).label
    'direction'
    """

    stack: StackKey
    label: str
    options: Any
    state: Any


class Frame:
    """One call under way.

    Attributes:
        name: of the machine.
        args: it was called with.
        label: of the call.
        key: of this call and all outer ones.
        step: what it last asked for.
        log: of each resumption what was sent, the observation, and what was asked for then; None where the
            run of the machine is data itself.

    >>> Frame("walk", (3,), "", (), (step for step in ())).key
    (('', 'walk', (3,)),)
    """

    __slots__ = ("args", "close", "key", "label", "log", "name", "run", "send", "step")

    def __init__(self, name: str, args: tuple[Any, ...], label: str, outer: StackKey, run: Any) -> None:
        self.name, self.args, self.label, self.run = name, args, label, run
        self.key: StackKey = (*outer, (label, name, named(args)))
        self.step: Step | None = None
        self.log: list[tuple[Any, Any, Step]] | None = None if isinstance(run, GraphRun) else []
        self.send: Callable[[Any], Step] = run.send
        self.close: Callable[[], None] = run.close


class CallStack:
    """Runs the machines of a `HAM` through episodes, apart from any environment.

    `begin` with the first observation of an episode; then `run` gives what the machines ask for next: an
    `Act` to be answered by `observe`, or a `Choose` to be answered by `choose`. Until it is answered, `run`
    gives the same again. Calls are frames on a list, so that there are no threads and no recursion.

    Copying, also ``copy.deepcopy`` and pickling, goes by way of `state_dict`.

    Args:
        ham: the program.
        listener: is told of calls and returns.

    Attributes:
        frames: the open calls, the root first.
        state: what machines see.
        transitions: how often a machine was resumed since the stack was made.

    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     direction = yield choose("direction", "NS")
    ...     yield act(direction)
    >>> stack = CallStack(HAM(root))
    >>> stack.begin(0)
    >>> stack.run()
    Choose(label='direction', options=('N', 'S'))
    >>> stack.choose(1)
    >>> stack.run()
    Act(action='S')
    """

    def __init__(self, ham: HAM, listener: MachineListener | None = None) -> None:
        self.ham, self.listener = ham, listener
        self.frames: list[Frame] = []
        self.transitions = 0
        self.observation: Any = None
        self._machine = Machine()
        self._idle = 0  # transitions since the last action
        self._answered = True
        self._sent: Any = None  # the index of a choice

    @property
    def state(self) -> Any:
        return self._machine.state

    @property
    def point(self) -> ChoicePoint:
        """The choice that `run` gave."""
        if not self.frames:
            raise RuntimeError("a choice needs an episode under way; there is none. Start one.")
        frame = self.frames[-1]
        step = frame.step
        if type(step) is not Choose:
            raise RuntimeError(f"a choice must be open; the machines are at {step}. Call `run` until it is.")
        return ChoicePoint(frame.key, step.label, step.options, self._machine.state)

    def begin(self, observation: Any) -> None:
        """Unwind what is open, and start the root."""
        self.end()
        self.observe(observation)
        try:
            self._enter(Call(self.ham.root, self.ham.args))
        except BaseException as error:
            self._blame(error)
            raise

    def observe(self, observation: Any) -> None:
        """Answer an `Act` with the observation that it led to."""
        self.observation = observation
        decode = self.ham.state
        self._machine.state = observation if decode is None else decode(observation)
        self._idle, self._answered = 0, True

    def choose(self, index: int) -> None:
        """Answer a `Choose` with the number of the option. Raises IndexError for one that there is not."""
        step = self.frames[-1].step if self.frames else None
        options = step.options if type(step) is Choose else self.point.options  # raises
        if not 0 <= index < len(options):
            raise IndexError(f"`index` must lie in [0, {len(options)}); got {index}.")
        self._sent, self._answered = int(index), True

    def end(self) -> None:
        """Close all machines where they stand, the innermost first."""
        frames, self.frames = self.frames, []
        self._sent, self._answered = None, True
        with ExitStack() as closing:
            for frame in frames:
                closing.callback(frame.close)

    def run(self) -> Act | Choose:
        """Let machines run until they need an action or a choice.

        Raises MachineLoop, TypeError for what is no step or no machine, RuntimeError before `begin`, and
        whatever a machine raises, with the stack as a note; the stack is then unwound.
        """
        if not self.frames:
            raise RuntimeError("`run` needs an episode; there is none. Call `begin`.")
        if not self._answered:
            step = self.frames[-1].step
            assert type(step) is Act or type(step) is Choose
            return step
        try:
            return self._run()
        except BaseException as error:
            self._blame(error)
            raise

    def _run(self) -> Act | Choose:
        frames, limit, observation = self.frames, self.ham.limit, self.observation
        frame, idle = frames[-1], self._idle
        sent = value = self._sent
        if sent is not None and frame.log is not None:
            value = frame.step.options[sent]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        while True:
            if idle >= limit:
                raise MachineLoop(f"{limit:,} machine transitions without an action, the `limit` of `HAM`.")
            idle += 1
            try:
                step = frame.send(value)
            except StopIteration as stop:
                step, value = _RETURNED, stop.value
            if step is _RETURNED:
                sent = value = self._leave(value)
                frame = frames[-1]
                continue
            frame.step = step
            if frame.log is not None:
                frame.log.append((sent, observation, step))
            kind = type(step)
            if kind is Act or kind is Choose:
                break
            frame = self._enter(step)
            sent = value = None
        self.transitions += idle - self._idle
        self._idle, self._answered, self._sent = idle, False, None
        return step  # pyright: ignore[reportReturnType]

    def _enter(self, step: Any) -> Frame:
        if type(step) is not Call:
            raise TypeError(f"a machine must yield act, choose or call; got {step!r}.")
        frame = self._frame(step, self.frames[-1].key if self.frames else ())
        self.frames.append(frame)
        if self.listener is not None:
            self.listener.called(frame)
        return frame

    def _frame(self, step: Call, outer: StackKey) -> Frame:
        name = self.ham.name_of(step.machine)
        run = step.machine(self._machine, *step.args)
        if not hasattr(run, "send"):
            raise TypeError(f"the machine {name!r} must be a generator function; it has no `yield`.")
        return Frame(name, step.args, step.label, outer, run)

    def _leave(self, result: Any) -> Any:
        """What the outer machine gets; a root starts again."""
        frame = self.frames.pop()
        if self.listener is not None:
            self.listener.returned(frame, result)
        if self.frames:
            return result
        self._enter(Call(self.ham.root, self.ham.args))
        return None

    def _blame(self, error: BaseException) -> None:
        """Say in the error where machines stand, and unwind them."""
        error.add_note(str(self))
        self.end()

    def __str__(self) -> str:
        lines = [f"  {described(frame)}" for frame in self.frames]
        if len(lines) > 20:
            lines[10:-10] = [f"  ... {len(lines) - 20} more"]
        return "\n".join(["machine stack, the innermost last:", *lines])

    def state_dict(self) -> dict[str, Any]:
        """The open calls as primitives and arrays: of each generator what was sent to it, and what it saw.

        Raises TypeError for results of machines that are neither.
        """
        from athena_hrl._machine_replay import saved_stack

        return saved_stack(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Run fresh calls through what a `state_dict` recorded. Raises ReplayDiverged if they differ."""
        from athena_hrl._machine_replay import restore_stack

        restore_stack(self, state)

    def __getstate__(self) -> dict[str, Any]:
        return {"ham": self.ham, "listener": self.listener, "stack": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        CallStack.__init__(self, state["ham"], state["listener"])
        self.load_state_dict(state["stack"])
