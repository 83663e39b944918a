"""Q-learning of a partial program, in parts that each depend on little."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from athena_hrl._call_stack import ChoicePoint
from athena_hrl._epsilon_greedy import epsilon_greedy_index
from athena_hrl._ham import HAM
from athena_hrl._induced_smdp import InducedSMDP, Segment
from athena_hrl._reward_ledger import RewardLedger
from athena_hrl._schedule import Schedule, check_schedules, scheduled
from athena_hrl._smdp import checked_gamma, finite_reward
from athena_hrl._state_key import state_key

Relevant = Callable[[ChoicePoint, Any], Hashable]


class Relevance(NamedTuple):
    """What each part of an option's value depends on: functions of the choice point and the option.

    The last of ``point.stack`` holds the label, the name and the arguments of the call. What they return must
    be primitives or tuples of them.

    >>> Relevance(
    ...     reward=lambda point, option: (point.state, option),
    ...     completion=lambda point, option: (point.state, option),
    ...     exit=lambda point, option: point.stack[:-1],
    ... ).exit(ChoicePoint((("", "root", ()),), "way", range(4), state=7), 0)
    ()
    """

    reward: Relevant
    completion: Relevant
    exit: Relevant


class ALispQLearning:
    r"""HAMQ-learning with values of three parts, each of which may forget what it does not depend on.

    .. math:: Q(\omega, u) = Q_r(\omega, u) + Q_c(\omega, u) + Q_e(\omega, u)

    at a choice point :math:`\omega` (the call stack, the label, the state): what option :math:`u` earns up to
    the end of the action or call that it leads to, what its machine earns after that until it returns, and
    what is earned after that. :math:`Q_e` is the sum of one part for each outer call, and one for after the
    root has returned, as `RewardLedger` lists them. If the next choice point is :math:`\omega'`, after
    :math:`\tau` actions, and :math:`u'` is the best there, each part :math:`p` learns

    .. math:: Q_p(\omega, u) \mathrel{+}= \alpha \Bigl(R_p + \gamma^\tau \sum_{p'} Q_{p'}(\omega', u')
        - Q_p(\omega, u)\Bigr)

    from the rewards that fell into it and those parts :math:`p'` of the next value that will. All targets
    together are HAMQ's target, so without abstraction this *is* `HAMQLearning`, update by update.

    Args:
        env: a Gymnasium environment.
        ham: the program.
        gamma: :math:`\gamma`. What comes after a call rarely depends on where in it one is, but its discount
            does: abstraction of ``exit`` is exact with 1 alone.
        step_size: :math:`\alpha`, a number or a function of how often the value has been learned, from 1 on.
        epsilon: the share of choices that are random, a number or a function of the steps taken.
        abstraction: of a choice's label makes what the parts depend on; one left out depends on everything.
        seed: of random choices, also among equally good ones, and of the first reset.

    Attributes:
        steps: of the environment so far.
        dropped: updates left out, where an episode was cut and the machines would act before they choose.

    Raises ValueError for numbers outside their range.
    Source: Andre and Russell 2002, "State abstraction for programmable reinforcement learning agents",
    AAAI. Departs from it: :math:`Q_e` is kept by depth, so that
    each part can be learned from one choice point to the next, wherever in the program the next one is.

    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     action = yield choose("action", range(4))
    ...     yield act(action)
    >>> agent = ALispQLearning(gym.make("CliffWalking-v1"), HAM(root), gamma=1.0).learn(20_000)
    >>> point = InducedSMDP(gym.make("CliffWalking-v1"), HAM(root), gamma=1.0).reset(seed=0).point
    >>> agent.q(point).max(), agent.parts(point).shape
    (np.float64(-13.0), (4, 3))
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        ham: HAM,
        *,
        gamma: float = 0.99,
        step_size: Schedule = 0.5,
        epsilon: Schedule = 0.1,
        abstraction: Mapping[str, Relevance] | None = None,
        seed: int = 0,
    ) -> None:
        check_schedules(step_size=step_size, epsilon=epsilon)
        self._ledger = RewardLedger(gamma=checked_gamma(gamma))
        self.smdp = InducedSMDP(env, ham, gamma=gamma, listener=self._ledger)
        self._ledger.stack = self.smdp.stack
        self.step_size, self.epsilon, self.seed = step_size, epsilon, seed
        self.abstraction = dict(abstraction or {})
        self.random = np.random.default_rng(seed)
        self.steps = self.dropped = 0
        self._keys: dict[Hashable, int] = {}  # of what a part depends on, its row
        self._values: list[float] = []
        self._visits: list[int] = []
        self._known: dict[Hashable, list[list[int]]] = {}  # the rows of a choice point, option by option
        self._point: ChoicePoint | None = None
        self._begun = False

    @property
    def n_values(self) -> int:
        """How many numbers represent what has been met so far."""
        return len(self._values)

    def learn(self, steps: int) -> Self:
        """Take at least so many steps of the environment, up to a choice; the next call goes on there."""
        until = self.steps + steps
        while self.steps < until:
            if self._point is None:
                segment = self.smdp.reset(seed=None if self._begun else self.seed)
                self._begun = True
            else:
                point, self._point = self._point, None  # stays None if a machine raises: a new episode then
                segment = self._learn_once(point)
            self.steps += segment.duration
            self._point = None if segment.terminated or segment.truncated else segment.point
        return self

    def act(self, point: ChoicePoint) -> int:
        """The number of an option: of the best or, with probability ``epsilon``, any."""
        return self._drawn(self._rows(point))

    def best(self, point: ChoicePoint) -> int:
        """The number of the best option; the first of equals."""
        return int(self.q(point).argmax())

    def q(self, point: ChoicePoint) -> NDArray[np.float64]:
        """The value of each option, ``(options,)``."""
        return np.array(self._totals(self._rows(point)))

    def parts(self, point: ChoicePoint) -> NDArray[np.float64]:
        """:math:`Q_r, Q_c, Q_e` of each option, ``(options, 3)``."""
        values = [[self._values[row] for row in rows] for rows in self._rows(point)]
        return np.array([[one[0], one[1], sum(one[2:])] for one in values])

    def state_dict(self) -> dict[str, Any]:
        """Tables, steps and the generator's place; not the episode under way."""
        return {
            "keys": list(self._keys),
            "values": np.array(self._values, dtype=np.float64),
            "visits": np.array(self._visits, dtype=np.int64),
            "steps": self.steps,
            "dropped": self.dropped,
            "random": self.random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a new episode."""
        self._keys = {_tuples(key): row for row, key in enumerate(state["keys"])}
        self._values, self._visits = (np.asarray(state[name]).tolist() for name in ("values", "visits"))
        self.steps, self.dropped = int(state["steps"]), int(state["dropped"])
        self.random.bit_generator.state = state["random"]
        self._known, self._point = {}, None

    def _learn_once(self, point: ChoicePoint) -> Segment:
        rows = self._rows(point)
        option = self._drawn(rows)
        self._ledger.begin(depth=len(point.stack) - 1)
        segment = self.smdp.choose(option)
        finite_reward(segment.reward, point)
        following = None
        if segment.point is not None:
            onward = self._rows(segment.point)
            totals = self._totals(onward)
            following = [self._values[row] for row in onward[totals.index(max(totals))]]
        elif not segment.terminated:
            self.dropped += 1
            return segment
        ledger = self._ledger
        targets = part_targets(
            ledger.sums, following, discount=segment.discount, open_calls=ledger.open, doing=ledger.doing
        )
        for row, target in zip(rows[option], targets, strict=True):
            self._visits[row] += 1
            step_size = scheduled(self.step_size, self._visits[row], name="step_size")
            self._values[row] += step_size * (target - self._values[row])
        return segment

    def _drawn(self, rows: list[list[int]]) -> int:
        epsilon = scheduled(self.epsilon, self.steps, name="epsilon")
        return epsilon_greedy_index(self._totals(rows), epsilon=epsilon, random=self.random)

    def _totals(self, rows: list[list[int]]) -> list[float]:
        values = self._values
        return [sum([values[row] for row in option]) for option in rows]

    def _rows(self, point: ChoicePoint) -> list[list[int]]:
        """Where the parts of each option's value are kept."""
        place = point.stack, point.label, state_key(point.state)
        rows = self._known.get(place)
        if rows is None:
            relevance = self.abstraction.get(point.label)
            rows = [
                [self._row(key) for key in part_keys(point, number, option, relevance, place)]
                for number, option in enumerate(point.options)
            ]
            self._known[place] = rows
        elif len(rows) != len(point.options):
            raise ValueError(
                f"the choice {point.label!r} must have as many options whenever stack and state are the "
                f"same; got {len(point.options)} after {len(rows)}. Put what decides it into its label or "
                "the call's arguments."
            )
        return rows

    def _row(self, key: Hashable) -> int:
        if key not in self._keys:
            self._keys[key] = len(self._values)
            self._values.append(0.0)
            self._visits.append(0)
        return self._keys[key]


def part_keys(
    point: ChoicePoint, number: int, option: Any, relevance: Relevance | None, place: Hashable
) -> list[Hashable]:
    """What the parts of an option's value are known by, in the order of `RewardLedger`.

    >>> point = ChoicePoint((("", "root", ()),), "way", "NS", state=7)
    >>> part_keys(point, 1, "S", Relevance(*[lambda point, option: option] * 3), "all of it")
    [('r', 'way', 'S'), ('c', 'way', 'S'), ('e', 'way', -1, 'S')]
    """
    if relevance is None:
        reward = completion = leaving = (place, number)
    else:
        reward, completion, leaving = (relevant(point, option) for relevant in relevance)
    outer = [("e", point.label, depth, leaving) for depth in range(len(point.stack) - 2, -2, -1)]
    return [("r", point.label, reward), ("c", point.label, completion), *outer]


def part_targets(
    sums: list[float], following: list[float] | None, *, discount: float, open_calls: int, doing: bool
) -> list[float]:
    r"""What each part of a value learns towards, in the order of `RewardLedger`.

    Args:
        sums: the rewards of each part since the choice.
        following: the parts of the best value at the next choice; None after a termination.
        discount: :math:`\gamma^\tau`.
        open_calls: of those open at the choice, how many still are.
        doing: whether the first part still goes on.

    Source: Andre and Russell 2002, as `ALispQLearning` departs from it.

    The next choice is one call deeper, and the first part goes on: its own two parts belong to that; what
    comes after its call completes this one, and what comes after that is the same for both.

    >>> part_targets([1.0, 0.0, 0.0], [2.0, 4.0, 8.0, 16.0], discount=0.5, open_calls=1, doing=True)
    [4.0, 4.0, 8.0]
    """
    targets = list(sums)
    if following is None:
        return targets
    depth, size = len(sums) - 3, len(following)
    # Both lists end with the parts of depth ..., 1, 0, -1: depth l is at -(l + 2), and what is earned until
    # the machine at l returns is all before -(l + 1).
    if open_calls > depth:
        if doing and size > len(sums):
            targets[0] += discount * sum(following[: size - depth - 2])
            targets[1] += discount * following[-depth - 2]
        else:
            targets[1] += discount * sum(following[: size - depth - 1])
        shared = depth
    else:
        targets[-open_calls - 1] += discount * sum(following[: size - open_calls])
        shared = open_calls - 1
    for level in range(-1, shared):
        targets[-level - 2] += discount * following[-level - 2]
    return targets


def _tuples(key: Any) -> Any:
    return tuple([_tuples(part) for part in key]) if isinstance(key, list | tuple) else key
