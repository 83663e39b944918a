"""To which part of a choice's value each reward belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from athena_hrl._machine_listener import MachineListener

if TYPE_CHECKING:
    from athena_hrl._call_stack import CallStack, Frame


class RewardLedger(MachineListener):
    r"""Divides the discounted rewards after a choice among the calls that were open at it.

    Of a choice made at depth :math:`d` (the root's is 0) there are :math:`d + 3` parts, in this order:

    - what the choice does: up to the end of the next action or the return of the next call of its machine,
    - what completes its call: from there until its machine returns,
    - for :math:`l = d - 1, \dots, 0`: between the returns of the machines at :math:`l + 1` and :math:`l`,
    - what comes after the root has returned.

    Attributes:
        sums: of each part.
        open: how many of the calls that were open at the choice still are.
        doing: whether the first part still goes on.

    Source: Andre and Russell 2002, "State abstraction for programmable reinforcement learning agents",
    AAAI. Departs from it: what comes after the call is kept by depth; the
    paper has the sum of it.

    >>> from athena_hrl import HAM, CallStack, act, call
    >>> def walk(machine):
    ...     yield act(1)
    >>> def root(machine):
    ...     yield call(walk)
    >>> ledger = RewardLedger(gamma=0.5)
    >>> ledger.stack = CallStack(HAM(root), ledger)
    >>> ledger.stack.begin(0)
    >>> ledger.begin(depth=0)
    >>> ledger.stack.run()
    Act(action=1)
    >>> ledger.acted(4.0)
    >>> ledger.sums, ledger.doing
    ([4.0, 0.0, 0.0], True)
    """

    stack: CallStack

    def __init__(self, *, gamma: float) -> None:
        self.gamma = gamma
        self.begin(depth=-1)

    def begin(self, *, depth: int) -> None:
        """A choice was made by the machine at ``depth``."""
        self.depth, self.open, self.doing = depth, depth + 1, True
        self.sums = [0.0] * (depth + 3)
        self._discount = 1.0

    def acted(self, reward: float) -> None:
        if self.open <= self.depth:
            part = 2 + self.depth - self.open
        else:
            part = 0 if self.doing else 1
            if len(self.stack.frames) == self.open:
                self.doing = False
        self.sums[part] += self._discount * reward
        self._discount *= self.gamma

    def returned(self, frame: Frame, result: Any) -> None:  # noqa: ARG002
        left = len(self.stack.frames)
        if left == self.depth + 1 == self.open:
            self.doing = False
        self.open = min(self.open, left)
