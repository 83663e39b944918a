"""Task graphs of MAXQ: subtasks, what they may call, when they end, and what each needs to know."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Relevant = Callable[..., Hashable]


@dataclass(frozen=True, eq=False)
class QNode:
    """A child of a subtask: which task, with what arguments, and what its completion depends on.

    Every function takes the state and then the arguments of the subtask that calls.

    Args:
        child: a subtask, or the number of an action.
        arguments: the child's; a tuple, or a function that returns one when it is called.
        relevant: what the completion after this child depends on; None is the subtask's.

    Source: Dietterich 2000, arXiv:cs/9905014, section 3. Departs from it: no.

    >>> QNode(4).arguments
    ()
    """

    child: Subtask | int
    arguments: tuple[Hashable, ...] | Callable[..., tuple[Hashable, ...]] = ()
    relevant: Relevant | None = None


@dataclass(frozen=True, eq=False)
class Subtask:
    r"""A subtask :math:`M_i`: it chooses among its children until it has ended.

    Every function takes the state and then the subtask's arguments.

    Args:
        name: for errors and tables.
        children: subtasks without arguments, numbers of actions, or `QNode`.
        ended: the termination predicate :math:`T_i(s)`. A subtask cannot be called where it has ended.
        relevant: the state abstraction :math:`\chi_i(s)`: states with one value share completions; None keeps
            all apart.
        pseudo_reward: :math:`\tilde R_i(s)`, what ending in a state is worth to the subtask itself, and to
            nobody else; None is 0.

    Source: Dietterich 2000, arXiv:cs/9905014, sections 3 to 5. Departs from it: no.

    >>> walk = Subtask("walk", children=(0, 1), ended=lambda state, goal: state == goal)
    >>> Subtask("root", children=(QNode(walk, (3,)),), ended=lambda state: False).children[0].arguments
    (3,)
    """

    name: str
    children: Sequence[Subtask | QNode | int]
    ended: Callable[..., bool]
    relevant: Relevant | None = None
    pseudo_reward: Callable[..., float] | None = None


class CompiledChild(NamedTuple):
    """A child in every state: which node it is there, or -1 where it cannot be called, and its table's row.

    >>> CompiledChild(nodes=[4, -1], rows=[0, -1], n_rows=1).nodes[1]
    -1
    """

    nodes: list[int]
    rows: list[int]
    n_rows: int


@dataclass(frozen=True)
class CompiledTask:
    """A subtask with its arguments, its functions evaluated in every state.

    >>> CompiledTask("walk(3)", ended=[True], pseudo_rewards=[0.0]).children
    []
    """

    name: str
    ended: list[bool]
    pseudo_rewards: list[float]
    children: list[CompiledChild] = field(default_factory=list)


class TaskGraph:
    """A task graph over numbered states, ready for `MAXQ`.

    Every function of the graph is evaluated once in each state. A subtask is a node of its own for each tuple
    of arguments. Nodes 0 to ``n_actions - 1`` are the actions; ``root`` is the number of the root.

    Args:
        root: the subtask of an episode; it must not end before the episode does.
        n_states, n_actions: of the environment.
        reward_depends_on: of state and action, what the action's expected reward depends on; None keeps all
            states apart.

    Raises ValueError for a subtask that calls itself, directly or through others, and for an action that does
    not exist.
    Source: Dietterich 2000, arXiv:cs/9905014, section 3; the abstraction section 5. Departs from it:
    arguments are bound when a child is called, so that "the passenger's place" is one child and not four.

    >>> walk = Subtask("walk", children=(0, 1), ended=lambda state, goal: state == goal)
    >>> root = Subtask("root", children=(QNode(walk, (2,)),), ended=lambda state: False)
    >>> graph = TaskGraph(root, n_states=3, n_actions=2)
    >>> [task.name for task in graph.tasks], graph.n_values
    (['walk(2)', 'root'], 12)
    """

    def __init__(
        self,
        root: Subtask,
        *,
        n_states: int,
        n_actions: int,
        reward_depends_on: Callable[[int, int], Hashable] | None = None,
    ) -> None:
        self.n_states, self.n_actions = n_states, n_actions
        self.tasks: list[CompiledTask] = []
        self._numbers: dict[tuple[Subtask, tuple[Hashable, ...]], int] = {}
        relevant = reward_depends_on or _all_apart
        self.rewards = [
            _rows([(relevant(state, action),) for state in range(n_states)]) for action in range(n_actions)
        ]
        self.root = self._compile(root, (), ())

    @property
    def n_values(self) -> int:
        """How many numbers represent the value function: the size of all tables together."""
        completions = sum(child.n_rows for task in self.tasks for child in task.children)
        return completions + sum(n_rows for _, n_rows in self.rewards)

    def task(self, node: int) -> CompiledTask:
        """The subtask of a node that is no action."""
        return self.tasks[node - self.n_actions]

    def number(self, name: str) -> int:
        """The node of a name such as ``walk(2)``. Raises ValueError that lists the names."""
        names = [task.name for task in self.tasks]
        if name not in names:
            raise ValueError(f"`name` must be one of {', '.join(names)}; got {name!r}.")
        return self.n_actions + names.index(name)

    def _compile(self, task: Subtask, arguments: tuple[Hashable, ...], callers: tuple[Subtask, ...]) -> int:
        if task in callers:
            path = " -> ".join(caller.name for caller in (*callers, task))
            raise ValueError(f"`root` must lead to no subtask that calls itself; got {path}. Unroll it.")
        known = self._numbers.get((task, arguments))
        if known is not None:
            return known
        states = range(self.n_states)
        ended = [bool(task.ended(state, *arguments)) for state in states]
        pseudo = [0.0] * self.n_states
        if task.pseudo_reward is not None:
            pseudo = [float(task.pseudo_reward(s, *arguments)) if ended[s] else 0.0 for s in states]
        listed = f"({', '.join(map(str, arguments))})" if arguments else ""
        compiled = CompiledTask(f"{task.name}{listed}", ended, pseudo)
        for child in task.children:
            compiled.children.append(self._child(task, child, arguments, compiled.ended, (*callers, task)))
        self.tasks.append(compiled)
        self._numbers[task, arguments] = number = self.n_actions + len(self.tasks) - 1
        return number

    def _child(
        self,
        task: Subtask,
        child: Subtask | QNode | int,
        arguments: tuple[Hashable, ...],
        ended: list[bool],
        callers: tuple[Subtask, ...],
    ) -> CompiledChild:
        node = child if isinstance(child, QNode) else QNode(child)
        relevant = node.relevant or task.relevant or _all_apart
        nodes: list[int] = []
        keys: list[Any] = []
        for state in range(self.n_states):
            number = -1
            if not ended[state]:  # where it has, "the passenger's place" may be none
                number = self._bound(task, node, (state, *arguments), callers)
            nodes.append(number)
            keys.append(None if number < 0 else (relevant(state, *arguments),))
        return CompiledChild(nodes, *_rows(keys))

    def _bound(self, task: Subtask, node: QNode, given: tuple[Any, ...], callers: tuple[Subtask, ...]) -> int:
        """The node that a child is in a state, or -1 where it has ended already."""
        if not isinstance(node.child, Subtask):
            if not 0 <= node.child < self.n_actions:
                raise ValueError(
                    f"`{task.name}` must call actions in [0, {self.n_actions}); got {node.child}."
                )
            return int(node.child)
        bound = node.arguments(*given) if callable(node.arguments) else node.arguments
        number = self._compile(node.child, tuple(bound), callers)
        return -1 if self.task(number).ended[given[0]] else number


def _all_apart(state: int, *_: Hashable) -> int:
    return state


def _rows(keys: list[Any]) -> tuple[list[int], int]:
    """The number of each key, in order of appearance; -1 for None."""
    numbers: dict[Any, int] = {}
    rows = [-1 if key is None else numbers.setdefault(key, len(numbers)) for key in keys]
    return rows, len(numbers)
