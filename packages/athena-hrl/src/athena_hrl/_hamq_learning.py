"""Q-learning of the choices that machines leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from athena_hrl._call_stack import ChoicePoint
from athena_hrl._epsilon_greedy import epsilon_greedy_index
from athena_hrl._ham import HAM
from athena_hrl._ham_steps import Choose
from athena_hrl._induced_smdp import InducedSMDP, Segment
from athena_hrl._schedule import Schedule, check_schedules, scheduled
from athena_hrl._smdp import finite_reward
from athena_hrl._state_key import state_key

Key = tuple[Any, str, Any]  #: the stack, the label, the state


class HAMQLearning:
    r"""HAMQ-learning: the best option at each choice of a `HAM`, by Q-learning between choice points.

    .. math::
        Q([s, m], c) \mathrel{+}= \alpha \Bigl(\sum_{i<\tau} \gamma^i r_i
            + \gamma^\tau \max_{c'} Q([s', m'], c') - Q([s, m], c)\Bigr)

    where :math:`[s, m], c` and :math:`[s', m']` are consecutive choice points, and :math:`\tau` counts the
    actions between them, 0 too. A machine state :math:`m` is the call stack, as names of machines with their
    arguments and the labels of calls, and the label of the choice: local variables of machines are not in it.
    What a choice depends on must be in the state, in a label or in an argument.

    A termination gives the open choice its last update, without a value after it. A truncation bootstraps
    from the choice that the machines reach without acting; where they would act first, no value is known, and
    the choice goes without an update (``dropped`` counts them).

    Args:
        env: a Gymnasium environment.
        ham: the program.
        gamma: :math:`\gamma`.
        step_size: :math:`\alpha`, a number or a function of how often the option was updated, from 1 on.
        epsilon: the share of choices that are random, a number or a function of the steps taken.
        abstraction: of a label makes what of the state its values depend on: ``{label: function(state)}``.
        seed: of random choices, also among equally good ones, and of the environment's first episode.

    Attributes:
        q: by stack, label and state, the value of each option; absent is 0.
        visits: how often each was learned from.
        steps: of the environment, so far.
        episodes: of each that ended, ``steps`` at its end and the undiscounted return.

    Raises ValueError for numbers outside their range; in use if a label has another number of options in the
    same stack and state.

    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10.
    Departs from it: state abstraction by choice, as in Andre and Russell 2002, AAAI.

    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     action = yield choose("action", range(4))
    ...     yield act(action)
    >>> learner = HAMQLearning(gym.make("CliffWalking-v1"), HAM(root), gamma=1.0).learn(20_000)
    >>> learner.evaluate(gym.make("CliffWalking-v1"), episodes=1)
    array([-13.])
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        ham: HAM,
        *,
        gamma: float = 0.99,
        step_size: Schedule = 0.5,
        epsilon: Schedule = 0.1,
        abstraction: Mapping[str, Callable[[Any], Any]] | None = None,
        seed: int = 0,
    ) -> None:
        check_schedules(step_size=step_size, epsilon=epsilon)
        self.smdp = InducedSMDP(env, ham, gamma=gamma)
        self.step_size, self.epsilon = step_size, epsilon
        self.abstraction = dict(abstraction or {})
        self.seed, self.random = seed, np.random.default_rng(seed)
        self.q: dict[Key, list[float]] = {}
        self.visits: dict[Key, list[int]] = {}
        self.steps, self.dropped = 0, 0
        self.episodes: list[tuple[int, float]] = []
        self._due = 0  # steps asked for
        self._point: ChoicePoint | None = None
        self._key: Key | None = None
        self._return = 0.0

    def learn(self, steps: int) -> Self:
        """Learn for so many steps of the environment, up to the choice point then; the next call takes less.

        An episode under way goes on.
        """
        self._due += steps
        while self.steps < self._due:
            self._advance()
        return self

    def act(self, point: ChoicePoint) -> int:
        """The number of an option: of the best or, with probability ``epsilon``, any."""
        return self._choice(self.values(self.key(point), len(point.options)))

    def evaluate(self, env: gym.Env[Any, Any], *, episodes: int, seed: int = 0) -> NDArray[np.float64]:
        """Undiscounted returns of the best choices known, ``(episodes,)``.

        Args:
            env: another than the one that is learned in, and one whose episodes end.
            episodes: how many.
            seed: of the first reset.
        """
        smdp = InducedSMDP(env, self.smdp.ham, gamma=self.smdp.gamma)
        place = self.random.bit_generator.state
        returns = np.zeros(episodes)
        for episode in range(episodes):
            segment = smdp.reset(seed=seed if episode == 0 else None)
            returns[episode] = segment.total
            while not segment.ended:
                assert segment.point is not None
                values = self.values(self.key(segment.point), len(segment.point.options))
                segment = smdp.choose(self._choice(values, explore=False))
                returns[episode] += segment.total
        self.random.bit_generator.state = place  # a look at the policy changes nothing
        return returns

    def key(self, point: ChoicePoint) -> Key:
        """Where the values of a choice are kept."""
        abstract = self.abstraction.get(point.label)
        state = point.state if abstract is None else abstract(point.state)
        return point.stack, point.label, state_key(state)

    def values(self, key: Key, count: int) -> list[float]:
        """The values of a choice of ``count`` options; 0 where there are none yet."""
        values = self.q.get(key)
        if values is None:
            return [0.0] * count
        if len(values) != count:
            raise ValueError(
                f"the choice {key[1]!r} must have as many options whenever stack and state are the same; got "
                f"{count} after {len(values)}. Put what decides it into its label or the call's arguments."
            )
        return values

    def restart(self) -> Self:
        """Give up the episode under way, without an update; `learn` then starts another."""
        self.smdp.stack.end()
        self._point, self._key, self._return = None, None, 0.0
        return self

    def _advance(self) -> None:
        """One segment: to the next choice, or of a new episode to its first."""
        if self._point is None:
            self._return = 0.0
            self._end(self.smdp.reset(seed=None if self.steps else self.seed))
            return
        key, count = self._key, len(self._point.options)
        assert key is not None
        choice = self._choice(self.values(key, count))
        self._point = None  # stays None if something raises: a new episode then
        segment = self.smdp.choose(choice)
        self._update(key, choice, segment, count=count)
        self._end(segment)

    def _update(self, key: Key, choice: int, segment: Segment, *, count: int) -> None:
        if segment.truncated and not segment.terminated and segment.point is None:
            self.dropped += 1
            return
        target = finite_reward(segment.reward, key)
        if segment.point is not None:
            following = self.values(self.key(segment.point), len(segment.point.options))
            target += segment.discount * max(following)
        values = self.q.setdefault(key, self.values(key, count))
        visits = self.visits.setdefault(key, [0] * count)
        visits[choice] += 1
        share = scheduled(self.step_size, visits[choice], name="step_size")
        values[choice] += share * (target - values[choice])

    def _end(self, segment: Segment) -> None:
        """Note what happened, and where the next choice stands."""
        self.steps += segment.duration
        self._return += segment.total
        self._point = segment.point
        if segment.ended:
            self.episodes.append((self.steps, self._return))
            self._point, self._return = None, 0.0
        self._key = None if self._point is None else self.key(self._point)

    def _choice(self, values: list[float], *, explore: bool = True) -> int:
        """One of the best or, to explore, with probability ``epsilon`` any."""
        epsilon = scheduled(self.epsilon, self.steps, name="epsilon") if explore else 0.0
        return epsilon_greedy_index(values, epsilon=epsilon, random=self.random)

    def state_dict(self) -> dict[str, Any]:
        """Tables, random numbers and the machines under way, as primitives and arrays.

        The environment's state is not in it: save that beside, or `restart` after loading.
        """
        return {
            "q": _packed(self.q, np.float64),
            "visits": _packed(self.visits, np.int64),
            "random": self.random.bit_generator.state,
            "steps": self.steps,
            "due": self._due,
            "dropped": self.dropped,
            "episodes": [list(episode) for episode in self.episodes],
            "return": self._return,
            "smdp": self.smdp.state_dict() if self._point is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in an environment that is where it was when that was saved.

        Raises ReplayDiverged if the machines are others or not deterministic.
        """
        self._point = self._key = None
        if state["smdp"] is not None:
            self.smdp.load_state_dict(state["smdp"])
            assert isinstance(self.smdp.stack.run(), Choose)
            self._point = self.smdp.stack.point
            self._key = self.key(self._point)
        self.q, self.visits = _unpacked(state["q"]), _unpacked(state["visits"])
        self.random.bit_generator.state = state["random"]
        self.steps, self._due, self.dropped = state["steps"], state["due"], state["dropped"]
        self.episodes = [(int(steps), float(total)) for steps, total in state["episodes"]]
        self._return = state["return"]


def _packed(table: Mapping[Key, list[Any]], kind: type[np.generic]) -> dict[str, Any]:
    values = [value for row in table.values() for value in row]
    lengths = np.array([len(row) for row in table.values()], dtype=np.int64)
    return {"keys": list(table), "values": np.array(values, dtype=kind), "lengths": lengths}


def _unpacked(state: Mapping[str, Any]) -> dict[Key, list[Any]]:
    lengths = np.asarray(state["lengths"])
    rows = np.split(np.asarray(state["values"]), np.cumsum(lengths)[:-1])
    return {key: row.tolist() for key, row in zip(state["keys"], rows, strict=False)}
