"""Where the steps of episodes are stored, and which of them can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athena_hrl._goal_strategy import Drawn, GoalSteps, Steps

Rows = slice | Steps
_STATE = "written", "first", "last", "bounds"


class EpisodeRing:
    r"""The rows of a ring of ``capacity`` steps for each of ``n_envs`` environments.

    An environment's steps are counted from 0 through all of its episodes; step :math:`i` of environment
    :math:`e` is in row :math:`(i \bmod C) N + e`. Its finished episodes that are stored as a whole are the
    steps ``first`` to ``last``; those from ``last`` to ``written`` are of the episode under way. The first
    step that takes the place of one of an episode takes the whole episode out.

    Args:
        capacity: :math:`C`, steps of each environment.
        n_envs: :math:`N`.

    Raises ValueError for numbers below 1, and when an episode grows longer than the capacity.

    >>> ring = EpisodeRing(4, 2)
    >>> for t in range(3):
    ...     rows = ring.advance(np.array([t == 1, t == 2]))
    >>> rows, ring.first, ring.last, len(ring)
    (slice(4, 6, None), array([0, 0]), array([2, 3]), 5)
    """

    def __init__(self, capacity: int, n_envs: int) -> None:
        for name, value in (("capacity", capacity), ("n_envs", n_envs)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self.capacity, self.n_envs = capacity, n_envs
        self.first, self.last = np.zeros((2, n_envs), np.int64)
        self.bounds = np.zeros((capacity * n_envs, 2), np.int64)  # of finished episodes, by row
        self._written = np.zeros(n_envs, np.int64)
        self._level = 0  # steps of every environment; -1 where they differ, as `_written` says then
        self._full_at = capacity  # no step before this one takes another's place
        self._upto: Steps | None = None  # the sum of steps that can be drawn; None: stale

    def __len__(self) -> int:
        """Steps that can be replayed."""
        return int((self.last - self.first).sum())

    @property
    def written(self) -> Steps:
        """Steps of each environment so far, ``(N,)``."""
        return self._written if self._level < 0 else np.full(self.n_envs, self._level)

    def advance(self, done: NDArray[np.bool_] | None = None, valid: NDArray[np.bool_] | None = None) -> Rows:
        """Make room for one step of each environment that is ``valid``; the rows in which to store them.

        Args:
            done: which episodes end with it, ``(N,)``; None: no one.
            valid: which environments have one, ``(N,)``; None: all.
        """
        step = self._level
        if valid is None and step >= 0:  # the common case: rows next to each other, no arithmetic of arrays
            if step >= self._full_at:
                self._evict(np.arange(self.n_envs))
            self._level = step + 1
            at = step % self.capacity * self.n_envs
            rows: Rows = slice(at, at + self.n_envs)
        else:
            rows = self._advance_some(np.arange(self.n_envs) if valid is None else np.flatnonzero(valid))
        if done is not None:
            self.finish(np.flatnonzero(done if valid is None else done & valid))
        return rows

    def _advance_some(self, envs: Steps) -> Steps:
        written = self.written
        step = written[envs]
        if len(envs) and step.max() >= self._full_at:
            self._evict(envs)
        written[envs] += 1
        self._set_written(written)
        return self.row(envs, step)

    def _set_written(self, written: Steps) -> None:
        self._written = written
        self._level = int(written[0]) if (written == written[0]).all() else -1

    def _evict(self, envs: Steps) -> None:
        full = envs[self.written[envs] >= self.first[envs] + self.capacity]
        longest = full[self.first[full] == self.last[full]]
        if len(longest):
            raise ValueError(
                f"`capacity` must hold a whole episode; got {self.capacity} steps an environment, and the "
                f"episode of environment {longest[0]} is longer. Take a larger one."
            )
        self.first[full] = self.bounds[self.row(full, self.first[full]), 1]
        self._full_at, self._upto = int(self.first.min()) + self.capacity, None

    def finish(self, envs: Steps) -> None:
        """End the episodes under way of these environments, whose steps can be replayed from now on."""
        written, by_step = self.written, self.bounds.reshape(self.capacity, self.n_envs, 2)
        for env in envs.tolist():
            begin, upto = int(self.last[env]), int(written[env])
            low, high = begin % self.capacity, upto % self.capacity
            for piece in (slice(low, high),) if low < high else (slice(low, None), slice(high)):
                by_step[piece, env, 0] = begin
                by_step[piece, env, 1] = upto
            self.last[env] = upto
        self._upto = None

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Drawn, Steps]:
        """Steps that can be replayed, each as likely, and their rows. Raises RuntimeError for none."""
        if self._upto is None:
            self._upto = (self.last - self.first).cumsum()
            self._offset = self.last - self._upto  # of a step from its place among all that can be drawn
        total = self._upto[-1]
        if not total:
            raise RuntimeError(
                "`sample` needs a finished episode; none is stored. Add steps until one ends, for "
                "Stable-Baselines3 by a larger `learning_starts`, with room for more than one of the longest."
            )
        place = (rng.random(count) * total).astype(np.int64)
        env = self._upto.searchsorted(place, side="right")
        step = place + self._offset[env]
        row = self.row(env, step)
        start, end = self.bounds.take(row, axis=0).T
        return Drawn(env, step, start, end, self.first, self.last), row

    def row(self, env: Steps, step: Steps) -> Steps:
        """Rows of steps."""
        return step % self.capacity * self.n_envs + env

    def goal_rows(self, goals: GoalSteps, drawn: Drawn, *, leaves_episode: bool) -> Steps:
        """The rows of chosen goals. Raises ValueError for any that is not what a strategy may choose."""
        env, step = goals
        if leaves_episode:
            fits = (env >= 0) & (env < self.n_envs)
            low, high = (bound[np.where(fits, env, 0)] for bound in (self.first, self.last))
        else:
            fits = True if env is drawn.env else env == drawn.env
            low, high = drawn.start, drawn.end
        if step.shape != drawn.step.shape or not (fits & (step >= low) & (step < high)).all():
            where = (
                "be finished and stored" if leaves_episode else "lie in the episode of those that were drawn"
            )
            raise ValueError(
                f"the steps that a goal strategy chooses must {where}, one for each; got {step} of the "
                f"environments {env} for {drawn.step} of {drawn.env}."
            )
        return self.row(env, step)

    def state_dict(self) -> dict[str, Any]:
        """All that the next rows depend on, as arrays."""
        return {name: getattr(self, name).copy() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for that of another size."""
        for name in _STATE:
            if np.shape(state[name]) != getattr(self, name).shape:
                raise ValueError(
                    f"`state` must be of {self.capacity} steps of {self.n_envs} environments; got {name} of "
                    f"the shape {np.shape(state[name])}. Make a buffer of that size."
                )
        self.first, self.last, self.bounds = (np.asarray(state[name]).copy() for name in _STATE[1:])
        self._set_written(np.asarray(state["written"]).copy())
        self._full_at, self._upto = int(self.first.min()) + self.capacity, None
