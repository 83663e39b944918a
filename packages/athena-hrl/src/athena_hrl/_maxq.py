"""MAXQ: the value of a task as the sum of the values of its parts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from athena_hrl._expected_return import Controller
from athena_hrl._schedule import Schedule, check_schedules, scheduled
from athena_hrl._smdp import checked_gamma, finite_reward, single_steps
from athena_hrl._task_graph import CompiledTask, TaskGraph

Array = NDArray[np.float64]


@dataclass(slots=True)
class Frame:
    """A subtask under way: its node, its latest child, and where and when it chose.

    >>> Frame(6).visits
    []
    """

    node: int
    child: int = -1  # its place among the children
    called: int = -1  # its node
    visits: list[tuple[int, int]] = field(default_factory=list)  # state, step


class MAXQ:
    r"""MAXQ-Q learning, of values that each subtask has of its own.

    .. math::
        V(i, s) = \begin{cases} \max_a V(a, s) + C(i, s, a) & \text{subtask} \\ E[r \mid s, i] & \text{action}
            \end{cases}
        \qquad
        C(i, s, a) \mathrel{+}= \alpha \bigl(\gamma^N V(i, s') - C(i, s, a)\bigr)

    once child :math:`a`, called in :math:`s`, has come back after :math:`N` steps in :math:`s'`; a value is 0
    where the subtask or the episode has ended. A subtask with pseudo-rewards chooses by a table of its own,

    .. math::
        \tilde C(i, s, a) \mathrel{+}= \alpha \bigl(\gamma^N [\tilde R_i(s') + \max_{a'} V(a', s')
            + \tilde C(i, s', a')] - \tilde C(i, s, a)\bigr),

    and :math:`V` is the value of what it chooses. It learns towards the recursively optimal policy, if
    ``epsilon`` and ``step_size`` fall.

    Where an episode is cut, the children that have not ended count as called anew there:
    :math:`\gamma^N C(i, s', a)` is the target.

    Args:
        env: of Discrete observations and actions.
        graph: its tasks.
        gamma: :math:`\gamma`.
        step_size: :math:`\alpha`, a number or a function of how often the value has been learned, from 1 on.
        epsilon: the share of choices that are random, a number or a function of the steps taken.
        all_states: update the completion of a child also for each state in which the child itself chose on
            its way. Without it, and without pseudo-rewards, this is MAXQ-0.
        seed: of random choices, and of the first reset.

    Attributes:
        steps: of the environment so far.

    Raises ValueError for an environment that the graph is not for or that has options, numbers outside their
    range, a state in which a subtask has no child to call, and a root that ends before the episode.
    Source: Dietterich 2000, arXiv:cs/9905014, sections 3 and 4. Departs from it: of a child's states those
    alone in which the child itself chose, for in the midst of a grandchild it may choose otherwise; episodes
    that are cut. As in its algorithms of learning, a subtask that ends while a child runs notices when the
    child comes back.

    >>> from athena_hrl._task_graph import Subtask
    >>> root = Subtask("root", children=range(4), ended=lambda state: state == 15)
    >>> env = gym.make("FrozenLake-v1", is_slippery=False)
    >>> graph = TaskGraph(root, n_states=16, n_actions=4)
    >>> agent = MAXQ(env, graph, gamma=0.9, step_size=1.0, epsilon=1.0).learn(10_000)
    >>> round(agent.value("root", 0), 4)  # six steps, of which the last earns 1
    0.5905
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        graph: TaskGraph,
        *,
        gamma: float = 0.99,
        step_size: Schedule = 0.5,
        epsilon: Schedule = 0.1,
        all_states: bool = True,
        seed: int = 0,
    ) -> None:
        single_steps(env)
        sizes = [getattr(space, "n", None) for space in (env.observation_space, env.action_space)]
        if sizes != [graph.n_states, graph.n_actions]:
            raise ValueError(
                f"`graph` must be for {sizes[0]} states and {sizes[1]} actions, which `env` has; got "
                f"{graph.n_states} and {graph.n_actions}."
            )
        check_schedules(step_size=step_size, epsilon=epsilon)
        self.env, self.graph, self.gamma = env, graph, checked_gamma(gamma)
        self.step_size, self.epsilon, self.all_states, self.seed = step_size, epsilon, all_states, seed
        self.random = np.random.default_rng(seed)
        self.steps = 0
        # Lists, of which Python reads single numbers faster than of arrays.
        self._rewards = [[0.0] * n_rows for _, n_rows in graph.rewards]
        self._completions = [[[0.0] * child.n_rows for child in task.children] for task in graph.tasks]
        # By which a subtask chooses: the same tables where it has no rewards of its own.
        self._inner = [
            [column[:] for column in columns] if any(task.pseudo_rewards) else columns
            for task, columns in zip(graph.tasks, self._completions, strict=True)
        ]
        self._reward_visits, self._visits = deepcopy((self._rewards, self._completions))
        self._state: int | None = None  # where the episode under way is; None if there is none
        self._frames: list[Frame] = []
        self._begun = False

    def learn(self, steps: int) -> Self:
        """Take so many steps of the environment, and learn from each; the next call goes on there."""
        for _ in range(steps):
            if self._state is None:
                self._begin()
            assert self._state is not None
            state, self._state = self._state, None  # stays None if something raises: a new episode then
            action = self._descend(state)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            self.steps += 1
            row, values = self.graph.rewards[action][0][state], self._rewards[action]
            values[row] += self._alpha(self._reward_visits[action], row) * (
                finite_reward(float(reward), state) - values[row]
            )
            self._ascend(int(observation), terminated=terminated, truncated=truncated)
            self._state = None if terminated or truncated else int(observation)
        return self

    def value(self, name: str, state: int) -> float:
        r""":math:`V(i, s)` of the subtask ``name``, such as ``"walk(2)"``; 0 where it has ended."""
        node = self.graph.number(name)
        return 0.0 if self.graph.task(node).ended[state] else self._best(node, state)[1]

    def q(self, name: str, state: int) -> Array:
        r""":math:`Q(i, s, a) = V(a, s) + C(i, s, a)`, ``(children,)``; NaN for one that cannot be called."""
        node = self.graph.number(name)
        children = self.graph.task(node).children
        values = np.full(len(children), np.nan)
        for place, child in enumerate(children):
            if child.nodes[state] >= 0:
                completion = self._completions[node - self.graph.n_actions][place][child.rows[state]]
                values[place] = self._below(child.nodes[state], state) + completion
        return values

    def policy(self, *, polling: bool = False) -> Controller:
        """The greedy policy, as `expected_return` takes it: each child runs until it has ended.

        Args:
            polling: begin at the root in each step instead: hierarchical greedy execution, which is no worse
                where values are right (Dietterich 2000, section 6).
        """

        def act(memory: Hashable, state: int) -> tuple[tuple[float, int, Hashable]]:
            stack = [self.graph.root] if memory is None else list(memory)  # pyright: ignore[reportArgumentType]
            while self.graph.task(stack[-1]).ended[state]:
                stack.pop()
                if not stack:
                    raise self._root_ended(state)
            while True:
                child = self._best(stack[-1], state)[0]
                node = self.graph.task(stack[-1]).children[child].nodes[state]
                if node < self.graph.n_actions:
                    return ((1.0, node, None if polling else tuple(stack)),)
                stack.append(node)

        return act

    def state_dict(self) -> dict[str, Any]:
        """Tables, steps and the generator's place; not the episode under way."""
        tables = [np.concatenate([[], *table]) for table in self._tables()]
        return {"tables": tables, "steps": self.steps, "random": self.random.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a new episode. Raises ValueError for the tables of another graph."""
        tables = list(self._tables())
        sizes, given = [sum(map(len, table)) for table in tables], [len(saved) for saved in state["tables"]]
        if given != sizes:
            raise ValueError(
                f"`state` must hold tables of {sizes} numbers; got {given}. Take the graph that they were "
                "learned with."
            )
        for table, saved in zip(tables, state["tables"], strict=True):
            numbers = iter(np.asarray(saved).tolist())
            for column in table:
                column[:] = [next(numbers) for _ in column]
        self.steps, self._state = int(state["steps"]), None
        self.random.bit_generator.state = state["random"]

    def _tables(self) -> Iterator[list[list[float]]]:
        yield from (self._rewards, self._reward_visits, *self._completions, *self._visits)
        for own, outer in zip(self._inner, self._completions, strict=True):
            if own is not outer:
                yield own

    def _alpha(self, visits: list[float], row: int) -> float:
        """The step size of a value that is being learned once more."""
        visits[row] += 1
        return scheduled(self.step_size, int(visits[row]), name="step_size")

    def _begin(self) -> None:
        observation, _ = self.env.reset(seed=None if self._begun else self.seed)
        self._begun, self._state = True, int(observation)
        self._frames = [Frame(self.graph.root)]
        if self.graph.task(self.graph.root).ended[self._state]:
            raise self._root_ended(self._state)

    def _root_ended(self, state: int) -> ValueError:
        return ValueError(
            f"`root` must not end before the episode; it has in state {state}. Change its predicate."
        )

    def _descend(self, state: int) -> int:
        """The next action: choose from the running subtask downwards."""
        epsilon = scheduled(self.epsilon, self.steps, name="epsilon")
        while True:
            frame = self._frames[-1]
            task = self.graph.task(frame.node)
            if epsilon and self.random.random() < epsilon:
                there = [place for place, child in enumerate(task.children) if child.nodes[state] >= 0]
                if not there:
                    raise self._no_child(task, state)
                frame.child = there[self.random.integers(len(there))]
            else:
                frame.child = self._best(frame.node, state)[0]
            frame.called = task.children[frame.child].nodes[state]
            frame.visits.append((state, self.steps))
            if frame.called < self.graph.n_actions:
                return frame.called
            self._frames.append(Frame(frame.called))

    def _ascend(self, state: int, *, terminated: bool, truncated: bool) -> None:
        """Update whatever has come back, from the action upwards."""
        visits, complete = self._frames[-1].visits[-1:], True
        while self._frames:
            frame = self._frames[-1]
            ended = self.graph.task(frame.node).ended[state]
            self._update(frame, visits, state, terminated=terminated, complete=complete)
            if not (terminated or truncated or ended):
                return
            self._frames.pop()
            visits, complete = frame.visits, complete and ended
        if not (terminated or truncated):
            raise self._root_ended(state)

    def _update(
        self, frame: Frame, visits: list[tuple[int, int]], state: int, *, terminated: bool, complete: bool
    ) -> None:
        task, index = self.graph.task(frame.node), frame.node - self.graph.n_actions
        child = task.children[frame.child]
        completions, inner = self._completions[index][frame.child], self._inner[index][frame.child]
        if terminated or (complete and task.ended[state]):
            value, own = 0.0, task.pseudo_rewards[state]
        elif complete:
            _, value, own = self._best(frame.node, state)
        elif child.nodes[state] == frame.called:
            row = child.rows[state]
            value, own = completions[row], inner[row]
        else:  # cut where nothing is known of how the child would have gone on
            return
        for state_t, step_t in reversed(visits if self.all_states else visits[:1]):
            if child.nodes[state_t] != frame.called:
                continue
            row, discount = child.rows[state_t], self.gamma ** (self.steps - step_t)
            alpha = self._alpha(self._visits[index][frame.child], row)
            if inner is not completions:
                inner[row] += alpha * (discount * own - inner[row])
            completions[row] += alpha * (discount * value - completions[row])

    def _best(self, node: int, state: int) -> tuple[int, float, float]:
        """The greedy child of a subtask, its value, and what it is worth to the subtask itself."""
        index = node - self.graph.n_actions
        completions, inner = self._completions[index], self._inner[index]
        best, best_value, best_own = -1, 0.0, -np.inf
        for place, child in enumerate(self.graph.tasks[index].children):
            below = child.nodes[state]
            if below >= 0:
                part, row = self._below(below, state), child.rows[state]
                own = part + inner[place][row]
                if own > best_own:
                    best, best_value, best_own = place, part + completions[place][row], own
        if best < 0:
            raise self._no_child(self.graph.tasks[index], state)
        return best, best_value, best_own

    def _below(self, node: int, state: int) -> float:
        if node < self.graph.n_actions:
            return self._rewards[node][self.graph.rewards[node][0][state]]
        return self._best(node, state)[1]

    def _no_child(self, task: CompiledTask, state: int) -> ValueError:
        return ValueError(
            f"`{task.name}` must have a child to call wherever it has not ended; got none in state {state}: "
            "all have ended there. Give it an action, or let it end."
        )
