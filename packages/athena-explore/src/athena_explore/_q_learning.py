"""Q-learning with a table for each of two rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Visit(NamedTuple):
    """One step of an episode of numbered states.

    >>> Visit(state=0, action=1, reward=0.0, next_state=3)
    Visit(state=0, action=1, reward=0.0, next_state=3)
    """

    state: int
    action: int
    reward: float
    next_state: int


class QLearning:
    r"""Q-learning with an extrinsic and an intrinsic table, greedy on their sum.

    .. math::
        a^*(s) = \arg\max_a Q^E(s, a) + \beta Q^I(s, a)

        Q^E(s_t, a_t) \mathrel{+}= \alpha \bigl(r_t + \gamma_E (1 - d_t) Q^E(s_{t+1}, a^*(s_{t+1}))
            - Q^E(s_t, a_t)\bigr)

        Q^I(s_t, a_t) \mathrel{+}= \alpha \bigl(b_t + \gamma_I Q^I(s'_{t+1}, a^*(s'_{t+1}))
            - Q^I(s_t, a_t)\bigr)

    with :math:`d_t` where the episode terminated. The intrinsic stream goes on through its end: there
    :math:`s'_{t+1}` is the state that the next episode starts from. `learn` takes an episode from its last
    step to its first, so that a reward reaches all of it at once. Of equal actions one is drawn.

    :math:`Q^E` starts at 0. In :math:`Q^I` an action that was never taken is as good as the best that was,
    and its first target becomes its value as it is. So nothing but the bonus leads anywhere: optimistic
    tables would explore by themselves, and 0 would speak against what is not yet known.

    Args:
        n_states, n_actions: sizes of the tables.
        coefficient: :math:`\beta`.
        gamma: :math:`\gamma_E`.
        intrinsic_gamma: :math:`\gamma_I`, below 1.
        step_size: :math:`\alpha`.
        epsilon: the share of steps that are random.
        seed: of random actions.

    Raises ValueError for numbers outside their range.

    Source: Watkins and Dayan 1992, "Q-learning"; backward through an episode Lin 1992, "Self-improving
    reactive agents based on reinforcement learning, planning and teaching". Departs from them: two streams,
    as the values of Burda et al. 2018, arXiv:1810.12894, section 2.3.

    >>> q = QLearning(3, 2, coefficient=0.0, gamma=0.5, step_size=1.0)
    >>> q.learn([Visit(0, 1, 0.0, 1), Visit(1, 1, 8.0, 2)], [0.0, 0.0], terminated=True, next_start=0)
    >>> q.extrinsic[:, 1].tolist(), q.act(0)
    ([4.0, 8.0, 0.0], 1)
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        *,
        coefficient: float,
        gamma: float = 0.99,
        intrinsic_gamma: float = 0.99,
        step_size: float = 0.5,
        epsilon: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, value, fits in (
            ("n_states", n_states, n_states >= 1),
            ("n_actions", n_actions, n_actions >= 1),
            ("coefficient", coefficient, 0 <= coefficient < np.inf),
            ("gamma", gamma, 0 <= gamma <= 1),
            ("intrinsic_gamma", intrinsic_gamma, 0 <= intrinsic_gamma < 1),
            ("step_size", step_size, 0 < step_size <= 1),
            ("epsilon", epsilon, 0 <= epsilon <= 1),
        ):
            if not fits:
                raise ValueError(f"`{name}` {_RANGES[name]}; got {value}.")
        self.coefficient, self.gamma, self.intrinsic_gamma = coefficient, gamma, intrinsic_gamma
        self.step_size, self.epsilon = step_size, epsilon
        self.extrinsic = np.zeros((n_states, n_actions))
        self.intrinsic = np.zeros((n_states, n_actions))
        self.taken = np.zeros((n_states, n_actions), dtype=np.bool_)
        self.random = np.random.default_rng(seed)

    def act(self, state: int) -> int:
        """An action for a state: the best, or with ``epsilon`` any."""
        if self.epsilon and self.random.random() < self.epsilon:
            return int(self.random.integers(self.extrinsic.shape[1]))
        values = self._values(state)
        best = np.flatnonzero(values == values.max())
        return int(best[0] if len(best) == 1 else best[self.random.integers(len(best))])

    def learn(
        self, episode: Sequence[Visit], bonuses: Sequence[float], *, terminated: bool, next_start: int
    ) -> None:
        """Learn from an episode, the last step first.

        Args:
            episode: its steps.
            bonuses: the intrinsic reward of each.
            terminated: whether it came to an end, rather than being cut.
            next_start: the state that the next episode starts from.
        """
        following = next_start
        for (state, action, reward, next_state), bonus in zip(
            reversed(episode), reversed(bonuses), strict=True
        ):
            value = 0.0 if terminated else self.extrinsic[next_state, self._greedy(next_state)]
            target = reward + self.gamma * value
            self.extrinsic[state, action] += self.step_size * (target - self.extrinsic[state, action])
            target = bonus + self.intrinsic_gamma * self._known(following)[self._greedy(following)]
            share = self.step_size if self.taken[state, action] else 1.0
            self.intrinsic[state, action] += share * (target - self.intrinsic[state, action])
            self.taken[state, action] = True
            terminated, following = False, state

    def state_dict(self) -> dict[str, Any]:
        """The tables, and the generator's place."""
        tables = {name: getattr(self, name).copy() for name in _TABLES}
        return {**tables, "random": self.random.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for tables of another size."""
        for name in _TABLES:
            table = np.asarray(state[name]).copy()
            if table.shape != self.taken.shape:
                raise ValueError(
                    f"`state` must hold tables of the shape {self.taken.shape}; got {table.shape}. Take the "
                    "environment that they were learned in."
                )
            setattr(self, name, table)
        self.random.bit_generator.state = state["random"]

    def _values(self, state: int) -> Array:
        if not self.coefficient:
            return self.extrinsic[state]
        return self.extrinsic[state] + self.coefficient * self._known(state)

    def _known(self, state: int) -> Array:
        """The intrinsic values of a state, those of actions never taken raised to the best of the others."""
        values, taken = self.intrinsic[state], self.taken[state]
        if taken.all():
            return values
        return np.where(taken, values, values.max(initial=-np.inf, where=taken) if taken.any() else 0.0)

    def _greedy(self, state: int) -> int:
        return int(self._values(state).argmax())


_TABLES = ("extrinsic", "intrinsic", "taken")
_RANGES = {
    "n_states": "must be at least 1",
    "n_actions": "must be at least 1",
    "coefficient": "must be a finite number of at least 0",
    "gamma": "must lie in [0, 1]",
    "intrinsic_gamma": "must lie in [0, 1), since that stream never ends",
    "step_size": "must lie in (0, 1]",
    "epsilon": "must lie in [0, 1]",
}
