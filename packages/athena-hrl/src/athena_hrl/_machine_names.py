"""Values in machines as primitives, by which they are known and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from athena_hrl._ham_steps import Act, Call, Choose, Step

if TYPE_CHECKING:
    from athena_hrl._call_stack import Frame

PRIMITIVES = {int, str, bool, float, type(None), bytes}


def named(value: Any) -> Any:
    """A value as primitives and tuples of them: machines by name, NumPy scalars as Python's.

    Raises TypeError for what cannot be known again, such as lists and objects.

    >>> named((np.int64(3), named, "a"))
    (3, 'named', 'a')
    """
    if type(value) in PRIMITIVES:
        return value
    if isinstance(value, tuple):
        plain = type(value) is tuple and {type(one) for one in value} <= PRIMITIVES
        return value if plain else tuple([named(one) for one in value])
    if isinstance(value, np.generic):
        return value.item()
    name = getattr(value, "__name__", None)
    if type(name) is str:
        return name
    raise TypeError(
        f"arguments of machines must be numbers, strings, machines or tuples of them; got {value!r}. Values "
        "are kept by arguments: pass a tuple of what tells calls apart."
    )


def option_name(option: Any) -> Any:
    """An option as a primitive; of what has no name, its type.

    >>> option_name(3), option_name([1])
    (3, 'list')
    """
    try:
        return named(option)
    except TypeError:
        return type(option).__name__


def described(frame: Frame) -> str:
    """One line of a printed stack.

    >>> from athena_hrl._call_stack import Frame
    >>> described(Frame("walk", (3,), "", (), (step for step in ())))
    'walk(3), before its first step'
    """
    head = f"{frame.name}({', '.join(map(_short, frame.args))})"
    return f"{head}, before its first step" if frame.step is None else f"{head} at {step_text(frame.step)}"


def step_text(step: Step) -> str:
    """A step as the machine wrote it.

    >>> step_text(Choose("direction", range(2)))
    "choose('direction', range(0, 2))"
    """
    if type(step) is Act:
        return f"act({step.action!r})"
    if type(step) is Choose:
        options = step.options if type(step.options) is range else [option_name(one) for one in step.options]
        return f"choose({step.label!r}, {options})"
    if type(step) is Call:
        label = f", label={step.label!r}" if step.label else ""
        return f"call({', '.join(map(_short, (step.machine, *step.args)))}{label})"
    return repr(step)


def _short(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
