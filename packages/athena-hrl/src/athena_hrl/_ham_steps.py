"""The three things that a machine may ask for: an action, a choice, a call of another machine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, NamedTuple


class Act(NamedTuple):
    """An action of the environment; what `act` makes.

    >>> Act(2).action
    2
    """

    action: Any


class Choose(NamedTuple):
    """A choice that the machine leaves open; what `choose` makes.

    >>> Choose("direction", (0, 1)).options
    (0, 1)
    """

    label: str
    options: Sequence[Any]


class Call(NamedTuple):
    """A call of another machine; what `call` makes.

    >>> Call(print, (3,)).label
    ''
    """

    machine: Any
    args: tuple[Hashable, ...]
    label: str = ""


Step = Act | Choose | Call
#: a generator function of a `Machine` and arguments, or a `GraphMachine`
MachineFunction = Callable[..., Generator[Step, Any, Any]]


def act(action: Any) -> Act:
    """Let the environment take a step: ``yield act(action)``.

    >>> def twice(machine, action):
    ...     yield act(action)
    ...     yield act(action)
    >>> list(twice(None, 3))
    [Act(action=3), Act(action=3)]
    """
    return Act(action)


def choose(label: str, options: Sequence[Any]) -> Choose:
    """Leave open which of some options to take: ``option = yield choose(label, options)``.

    Values are learned for the label, not for where in the machine it stands: choices that shall have values
    of their own need labels of their own.

    Args:
        label: of the choice.
        options: whatever the machine can use, also machines. The same label, in the same call and state, must
            always have as many.

    Raises ValueError without options, TypeError for a label that is no string or options without an order.

    >>> choose("direction", range(4))
    Choose(label='direction', options=range(0, 4))
    """
    if type(label) is not str:
        raise TypeError(f"`label` must be a string; got {label!r}. Write `choose(label, options)`.")
    if isinstance(options, set | frozenset):
        raise TypeError(
            f"`options` of the choice {label!r} must have an order, by which values are kept; got a set. "
            "Write `sorted(options)` or a tuple."
        )
    if type(options) is not range and type(options) is not tuple:
        options = tuple(options)
    if not options:
        raise ValueError(f"`options` of the choice {label!r} must not be empty. Do not choose there.")
    return Choose(label, options)


def call(machine: Any, *args: Hashable, label: str = "") -> Call:
    """Run another machine, and go on when it returns: ``result = yield call(machine, *args)``.

    Args:
        machine: a generator function, or a `GraphMachine`.
        args: for it, after the `Machine`. Values are learned for each name of a machine and arguments, so
            that what tells two calls apart must be among these.
        label: tells this call from others of the same machine and arguments, whose choices else share values.

    >>> def walk(machine, steps):
    ...     yield act(steps)
    >>> call(walk, 3).args
    (3,)
    """
    return Call(machine, args, label)
