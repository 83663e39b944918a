"""Options in many environments at once, each row in its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from athena_core.environments import Words, autoreset_mode, draw, final_observations
from athena_hrl._option import Option
from athena_hrl._option_parts import map_leaves, row_of
from athena_hrl._option_rows import option_rows
from athena_hrl._options import Options
from athena_hrl._smdp import (
    checked_gamma,
    no_option,
    not_available,
    option_streams,
    single_steps,
    warn_endless,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class ClosedOptions(NamedTuple):
    """Options that ended in a step, one row each: what Q-learning over options learns from.

    >>> ClosedOptions._fields[:4]
    ('rows', 'observation', 'option', 'reward')
    """

    rows: NDArray[np.int64]  # of the vector environment
    observation: Any  # where the option started
    option: NDArray[np.int64]
    reward: Array  # the sum of gamma^i r_i
    duration: NDArray[np.int64]  # k
    discount: Array  # gamma^k
    next_observation: Any  # where it ended, before any reset
    available: Mask  # (rows, options): those that can start there
    terminated: Mask
    truncated: Mask


class OptionVectorEnv(VectorWrapper):
    r"""A vector environment whose rows carry out options, each with a duration of its own.

    A call of `step` is one step of the environment. It reads a choice for the rows in
    ``info["needs_option"]`` alone; the others go on with theirs, whatever is passed. Rewards, ends and
    observations are those of the step. Each row does exactly what `OptionEnv` does with its seed.

    ``info`` has, for each row,

    - "needs_option": whether the next step reads a choice of this row,
    - "closed": whether its option ended in this step; `transitions` gives them,
    - "action_mask": ``(rows, options)``, those that can start in the observation.

    All ways of starting again are kept. An ended row closes its option at once; it needs a new one at once
    (SAME_STEP), after the step that starts it again (NEXT_STEP), or after ``reset_mask`` (DISABLED).

    Args:
        env: the vector environment.
        options: of `Option`, or `Options`.
        gamma: :math:`\gamma`.

    Raises ValueError and warns as `OptionEnv`; gymnasium.error.ResetNeeded for a step before `reset`.
    Source: Sutton, Precup, Singh 1999, "Between MDPs and semi-MDPs", section 2. Departs from it: no.

    >>> import gymnasium as gym
    >>> from athena_hrl import primitives
    >>> lakes = gym.make_vec("FrozenLake-v1", 2, is_slippery=False)
    >>> down = Option(policy=np.full(16, 1), termination=np.arange(16) >= 8, name="down")
    >>> env = OptionVectorEnv(lakes, [down, *primitives(lakes)], gamma=0.5)
    >>> _ = env.reset(seed=0)
    >>> _, _, _, _, info = env.step(np.array([0, 3]))
    >>> info["needs_option"].tolist()
    [False, True]
    >>> _, _, _, _, info = env.step(np.array([0, 3]))
    >>> closed = env.transitions()
    >>> closed.next_observation.tolist(), closed.duration.tolist()
    ([8, 2], [2, 1])
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], options: Iterable[Option] | Options, *, gamma: float = 0.99
    ) -> None:
        super().__init__(single_steps(env))
        self.gamma, self.mode = checked_gamma(gamma), autoreset_mode(env)
        self.options = Options(options, env)
        self.single_action_space = Discrete(len(self.options))
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._under_way = option_rows(self.options, self.num_envs)
        self._powers = _powers(self.gamma, 256)
        self._shortest = int(self.options.max_duration.min())
        self._observation: Any = None
        self._needing: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self._last: Any = None  # what the latest step gave, for `transitions`
        self._random: Words | None = None
        self._warned: set[int] = set()
        # Comparing bytes takes a tenth of the time of `any` for a few rows.
        self._none, self._nothing = np.zeros(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs)
        self._none_bytes, self._nothing_bytes = self._none.tobytes(), self._nothing.tobytes()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        started = ~self._none if mask is None else np.array(mask)
        self._seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)  # pyright: ignore[reportArgumentType]
        if mask is None:
            self._forget(observation)
        needs = started.copy()
        needs[self._needing] = True
        self._waiting, self._last = self._waiting & ~started, None
        self._some_waiting = bool(self._waiting.any())
        return observation, self._told(observation, info, needs, self._none.copy())

    def step(self, actions: Any) -> tuple[Any, Array, Mask, Mask, dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every row, with the choices of those that need an option."""
        if self._observation is None:
            raise ResetNeeded("`step` needs episodes; there are none yet. Call `reset`.")
        if len(self._needing):
            self._begin(actions)
        to_act, to_end = self._drawn() if self.options.stochastic else (None, None)
        try:
            found = self._under_way.act(self._observation, to_act)
        except IndexError:
            self._refuse(actions)
            raise
        observation, reward, terminated, truncated, info = self.env.step(found)
        if reward.tobytes() != self._nothing_bytes:
            self._total += self._discounts(self._time - self._begun) * reward
        self._time += 1
        closed = needs = self._under_way.arrive(observation, to_end)
        none = self._none_bytes
        if self._some_waiting or terminated.tobytes() != none or truncated.tobytes() != none:
            closed, needs = self._ended(closed, terminated | truncated)
        if self._time == self._look_at:
            at_limit = self._at_limit(closed | needs, observation)
            closed, needs = closed | at_limit, needs | at_limit
        self._last = observation, terminated, truncated, info
        return observation, reward, terminated, truncated, self._told(observation, info, needs, closed)

    def transitions(self) -> ClosedOptions:
        """The options that ended in the latest step. Raises gymnasium.error.ResetNeeded if there is none."""
        if self._last is None:
            raise ResetNeeded("`transitions` needs a step; there is none since `reset`. Call `step`.")
        observation, terminated, truncated, info = self._last
        rows = self._closed.copy()
        duration = self._time - self._begun[rows]
        following, done = row_of(observation, rows), terminated | truncated
        if self.mode is AutoresetMode.SAME_STEP and done.any():
            final = final_observations(observation, info, torch.from_numpy(done))
            _put(following, done[rows], map_leaves(np.asarray, final))
        return ClosedOptions(
            rows,
            row_of(self._start, rows),
            self._under_way.option[rows],
            self._total[rows],
            duration,
            self._discounts(duration),
            following,
            self.options.available(following),
            terminated[rows],
            truncated[rows],
        )

    def _begin(self, actions: Any) -> None:
        """Let the rows that need an option begin the one that was chosen."""
        rows, choices = self._needing, np.asarray(actions)
        if choices.ndim != 1 or len(choices) != self.num_envs or choices.dtype.kind not in "iu":
            raise ValueError(
                f"`actions` must be whole numbers of the shape ({self.num_envs},), one a row; got "
                f"{choices.dtype} of {choices.shape}."
            )
        observation = row_of(self._observation, rows)
        try:
            self._under_way.begin(rows, choices[rows], observation)
        except IndexError:
            self._refuse(choices)
            raise
        self._total[rows], self._begun[rows] = 0.0, self._time
        _put(self._start, rows, observation)

    def _refuse(self, choices: NDArray[Any]) -> None:
        mask = self.options.available(self._observation)
        for row in self._needing:
            if not (0 <= choices[row] < len(self.options) and mask[row, choices[row]]):
                raise not_available(choices[row], mask[row], row_of(self._observation, row))

    def _ended(self, closed: Mask, done: Mask) -> tuple[Mask, Mask]:
        """Which options close where episodes end or have ended, and which rows need another."""
        closed = closed | done
        if self.mode is AutoresetMode.SAME_STEP:
            return closed, closed
        waited, self._waiting, self._some_waiting = self._waiting, done, bool(done.any())
        closed &= ~waited
        return closed, (closed & ~done) | waited

    def _at_limit(self, settled: Mask, observation: Any) -> Mask:
        """The options under way that have reached their limit; notes when to look again."""
        left = self.options.max_duration[self._under_way.option] - (self._time - self._begun)
        at_limit = (left <= 0) & ~settled
        for row in np.flatnonzero(at_limit):
            number = int(self._under_way.option[row])
            if number not in self._warned:
                self._warned.add(number)
                warn_endless(self.options[number], number, row_of(observation, row))
        self._look_at = self._time + int(left.min(initial=self._shortest, where=left > 0))
        return at_limit

    def _told(self, observation: Any, info: dict[str, Any], needs: Mask, closed: Mask) -> dict[str, Any]:
        """Keep where all rows are; the info."""
        self._observation = observation
        (self._needing,) = needs.nonzero()
        self._closed = self._needing if closed is needs else closed.nonzero()[0]
        mask = self.options.available(observation)
        if not self.options.everywhere:
            for row in np.flatnonzero(needs & ~mask.any(1)):
                raise no_option(row_of(observation, row))
        return {**info, "needs_option": needs, "closed": closed, "action_mask": mask}

    def _drawn(self) -> tuple[Array, Array]:
        """Numbers for actions and for ends."""
        assert self._random is not None
        numbers, after = draw(self._random, 2)
        # A step that starts a row again draws nothing, as a single environment's `reset` does not.
        self._random = np.where(self._waiting, self._random, after) if self._some_waiting else after
        return numbers[:, 0], numbers[:, 1]

    def _forget(self, observation: Any) -> None:
        count = self.num_envs
        self._total, self._begun = np.zeros(count), np.zeros(count, dtype=np.int64)
        self._needing, self._waiting = np.zeros(0, dtype=np.intp), self._none
        self._start, self._time, self._look_at = map_leaves(np.array, observation), 0, self._shortest

    def _discounts(self, duration: NDArray[np.int64]) -> Array:
        """The powers of gamma."""
        try:
            return self._powers[duration]
        except IndexError:
            self._powers = _powers(self.gamma, 2 * int(duration.max()))
            return self._powers[duration]

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if self._random is None:
            self._random = np.random.default_rng().integers(2**64, size=self.num_envs, dtype=np.uint64)
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed or []
        rows = [row for row, one in enumerate(seeds) if one is not None]
        given = [one & 0xFFFFFFFFFFFFFFFF for one in seeds if one is not None]
        self._random = self._random.copy()
        self._random[rows] = option_streams(np.array(given, dtype=np.uint64))


def _powers(gamma: float, count: int) -> Array:
    """Powers of a discount as repeated products, which is how a single environment has them."""
    powers: Array = np.full(count, gamma, dtype=np.float64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _put(kept: Any, rows: NDArray[Any], values: Any) -> None:
    """Replace rows, in place, of observations of any space."""
    if isinstance(kept, np.ndarray):
        kept[rows] = values
        return
    for key in kept if isinstance(kept, dict) else range(len(kept)):
        _put(kept[key], rows, values[key])
