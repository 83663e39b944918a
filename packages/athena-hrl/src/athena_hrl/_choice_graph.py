"""A program from choice to choice, explored once: its policies have returns that can be computed exactly."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from athena_hrl._call_stack import CallStack, ChoicePoint
from athena_hrl._expected_return import Controller
from athena_hrl._ham import HAM
from athena_hrl._ham_steps import Choose
from athena_hrl._state_key import state_key

Path = tuple[Hashable, ...]  #: the last choice and its option, and the states since then


class Place(NamedTuple):
    """Where a program waits: at an action or at a choice.

    >>> Place(path=(7,), action=2, point=None).action
    2
    """

    path: Path
    action: int | None
    point: ChoicePoint | None


class ChoiceGraph:
    """What a program does between its choices, in each state of a numbered environment.

    It is explored as policies need it, and kept: with other choices, machines run no second time. Two ways to
    the same choice point count as one, as learners of choices count them too: what a machine does must not
    depend on more than that.

    Args:
        ham: the program.

    >>> import gymnasium as gym
    >>> from athena_hrl import act, choose, expected_return, finite_mdp
    >>> def root(machine):
    ...     direction = yield choose("direction", range(4))
    ...     yield act(direction)
    >>> ways = [1, 0, 0, 0, 1, 0, 0, 0, 2, 2, 1, 0, 0, 0, 2, 0]
    >>> policy = ChoiceGraph(HAM(root)).policy(lambda point: ways[point.state])
    >>> expected_return(finite_mdp(gym.make("FrozenLake-v1", is_slippery=False)), policy, steps=100)
    1.0
    """

    def __init__(self, ham: HAM) -> None:
        self.ham = ham
        self._stacks: dict[Path, dict[str, Any]] = {}  # where the program waits
        self._after_states: dict[tuple[Hashable, int], Place] = {}
        self._after_options: dict[Path, Place] = {}

    def policy(self, choose: Callable[[ChoicePoint], int]) -> Controller:
        """The policy of choices, for `expected_return`.

        Args:
            choose: of a choice point gives the number of an option, such as ``ALispQLearning.best``.
        """

        def controller(memory: Hashable, state: int) -> tuple[tuple[float, int, Hashable]]:
            place = self._after_states.get((memory, state)) or self._observed(memory, state)
            while place.point is not None:
                path = (place.path, choose(place.point))
                place = self._after_options.get(path) or self._chosen(path)
            assert place.action is not None
            return ((1.0, place.action, place.path),)

        return controller

    def _observed(self, memory: Any, state: int) -> Place:
        stack = CallStack(self.ham)
        if memory is None:
            stack.begin(state)
        else:
            stack.load_state_dict(self._stacks[memory])
            stack.observe(state)
        place = self._place(stack, ((memory or ()), state))
        self._after_states[memory, state] = place
        return place

    def _chosen(self, path: Any) -> Place:
        stack = CallStack(self.ham)
        stack.load_state_dict(self._stacks[path[0]])
        stack.choose(path[1])
        self._after_options[path] = place = self._place(stack, path)
        return place

    def _place(self, stack: CallStack, path: Path) -> Place:
        step = stack.run()
        if isinstance(step, Choose):
            point = stack.point
            place = Place((point.stack, point.label, state_key(point.state)), None, point)
        else:
            place = Place(path, int(step.action), None)
        if place.path not in self._stacks:
            self._stacks[place.path] = stack.state_dict()
        return place
