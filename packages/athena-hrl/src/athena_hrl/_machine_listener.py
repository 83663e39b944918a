"""What is told of the calls, actions and returns of machines between two choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from athena_hrl._call_stack import Frame


class MachineListener:
    """Hears what machines do, for learners that divide rewards among calls. Each method does nothing here.

    The order is that of time. `InducedSMDP` tells of actions and ends, `CallStack` of calls and returns.

    >>> from athena_hrl import HAM, CallStack, act
    >>> class Printer(MachineListener):
    ...     def called(self, frame):
    ...         print("called", frame.name)
    >>> def root(machine):
    ...     yield act(0)
    >>> CallStack(HAM(root), Printer()).begin(0)
    called root
    """

    def called(self, frame: Frame) -> None:
        """A machine was called; its frame is the last of the stack."""

    def acted(self, reward: float) -> None:
        """The innermost machine acted, for this reward. The stack still has the state before."""

    def returned(self, frame: Frame, result: Any) -> None:
        """A machine returned; its frame is no longer on the stack, which has the state at its end."""

    def ended(self, *, terminated: bool, truncated: bool) -> None:
        """The episode is over; the calls still open are on the stack, and are unwound after this."""
