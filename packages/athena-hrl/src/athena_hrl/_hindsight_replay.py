"""Hindsight experience replay: episodes as if what they achieved had been desired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from athena_hrl._episode_ring import EpisodeRing, Rows
from athena_hrl._goal_strategy import GoalStrategy, as_goal_strategy
from athena_hrl._goal_task import GoalTask
from athena_hrl._transition_records import TransitionRecords

Goals = Mapping[str, Any]


class HindsightBatch(NamedTuple):
    """Transitions for learning; of those with goals in hindsight, which come first, all that a goal decides.

    Attributes:
        obs, action, reward, next_obs, terminated, truncated: ``(B, ...)`` each, observations by their keys.
            Bootstrap where not ``terminated``.
        row: where each is stored, ``(B,)``; for `HindsightReplay.gather`.
        goal_row: where the goals of the first ``H`` are stored, ``(H,)``; for
            `HindsightReplay.update_priorities`.

    >>> HindsightBatch._fields[-2:]
    ('row', 'goal_row')
    """

    obs: dict[str, NDArray[Any]]
    action: NDArray[Any]
    reward: NDArray[np.float32]
    next_obs: dict[str, NDArray[Any]]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    row: NDArray[np.int64]
    goal_row: NDArray[np.int64]


class HindsightReplay:
    r"""A replay buffer of whole episodes, sampled with the goals that they achieved.

    Of the samples a share of :math:`k / (k + 1)`, in expectation exactly, has a goal in hindsight. The
    transition :math:`(s_t, g, a_t, s_{t+1})` then becomes

    .. math:: (s_t, g', a_t, r(m(s_{t+1}), g'), s_{t+1}), \qquad g' = m(s_{j+1}),

    where :math:`m` gives the achieved goal and the strategy chooses :math:`j`: goals are the *next* achieved
    ones of finished episodes, terminated or truncated, which are stored as a whole. :math:`g'` is written to
    both observations. The reward is the environment's ``compute_reward``; ``terminated`` is its
    ``compute_terminated`` where it has one and stays as it was where it has none; ``truncated`` always stays.
    Transitions that are not relabelled come as they were added.

    An episode counts from its end on, as a whole, until its first step is overwritten. Environments are
    asked once a batch if ``compute_reward`` takes many goals, else once a transition: see `ManyGoals`.

    Args:
        env: a Gymnasium environment, a vector of them, or a `GoalTask`. Under a vector's NEXT_STEP the step
            after an end, which only resets, is left out.
        capacity: steps of each environment; at least those of the longest episode, which is found out when it
            is added.
        n_envs: environments whose steps are added at once; as many as ``env`` has.
        n_sampled_goal: :math:`k`, goals in hindsight for each real one; 0 is a plain replay buffer.
        strategy: a component of the kind ``goal-strategy``, or a `GoalStrategy`.
        copy_info: keep infos, for rewards that depend on them; else functions get empty ones.
        seed: of the generator, which is this buffer's own.

    Raises TypeError for an environment without goals in its observations, ValueError for one without
    ``compute_reward``, for numbers outside their range and for episodes longer than ``capacity``,
    RuntimeError for a sample before the end of the first episode.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, algorithm 1 and section 4.5. Departs from it: goals
    are chosen when transitions are sampled, not :math:`k` copies stored; terminations are recomputed.

    >>> import gymnasium as gym
    >>> from gymnasium import spaces
    >>> class Line(gym.Env):
    ...     observation_space = spaces.Dict(
    ...         {key: spaces.Box(0, 9, (1,)) for key in ("observation", "achieved_goal", "desired_goal")}
    ...     )
    ...     action_space = spaces.Discrete(2)
    ...
    ...     def compute_reward(self, achieved, desired, info):
    ...         return -(achieved != desired).any(axis=-1).astype(float)
    >>> replay = HindsightReplay(Line(), 100)
    >>> at = lambda x: {"observation": [x], "achieved_goal": [x], "desired_goal": [9]}
    >>> for t in range(3):
    ...     replay.add(at(t), 1, -1.0, at(t + 1), terminated=False, truncated=t == 2)
    >>> batch = replay.sample(1000)
    >>> hindsight = len(batch.goal_row)
    >>> hindsight, sorted(set(batch.obs["desired_goal"][:hindsight, 0].tolist()))
    (800, [1.0, 2.0, 3.0])
    """

    def __init__(
        self,
        env: Any,
        capacity: int,
        *,
        n_envs: int | None = None,
        n_sampled_goal: float = 4,
        strategy: str | GoalStrategy = "future",
        copy_info: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 <= n_sampled_goal < math.inf:
            raise ValueError(f"`n_sampled_goal` must be a finite number of at least 0; got {n_sampled_goal}.")
        self.task = env if isinstance(env, GoalTask) else GoalTask.of(env)
        self.ring = EpisodeRing(capacity, getattr(env, "num_envs", 1) if n_envs is None else n_envs)
        self.strategy = as_goal_strategy(strategy)
        self.n_sampled_goal, self.rng = n_sampled_goal, np.random.default_rng(seed)
        self._skips_resets = _resets_in_next_step(env)
        self._ended = np.zeros(self.ring.n_envs, np.bool_)  # rows whose next step only resets
        self._checked = False
        rows = len(self.ring.bounds)
        self.records = TransitionRecords(rows, self.task.observation_space, self.task.action_space)
        self.infos: NDArray[Any] | None = np.full(rows, None, object) if copy_info else None
        self.priorities = np.zeros(rows) if self.strategy.needs_priority else None
        self._highest = 1.0

    def __len__(self) -> int:
        """Transitions that can be sampled: those of finished episodes."""
        return len(self.ring)

    def add(
        self,
        obs: Goals,
        action: ArrayLike,
        reward: ArrayLike,
        next_obs: Goals,
        *,
        terminated: ArrayLike,
        truncated: ArrayLike,
        infos: Sequence[Mapping[str, Any]] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Store a step of each environment, ``(N, ...)``; of a single one also without the first axis.

        Args:
            obs, next_obs: before and after the action; where an episode ended the latter is its last
                observation, not the first of the next one.
            terminated, truncated: which episodes ended, and how.
            infos: one for each environment; needed with ``copy_info``, else not looked at.
            valid: which environments took a step, ``(N,)``; left out, all but those that only reset: under
                NEXT_STEP rows whose episode ended before. Who then calls ``env.reset`` gives it.
        """
        end = np.asarray(terminated, np.uint8) + 2 * np.asarray(truncated, np.uint8)
        end = end.reshape(self.ring.n_envs)
        if self._skips_resets:
            valid = ~self._ended if valid is None else valid
            self._ended = (end > 0) & valid
        self.put(obs, action, reward, next_obs, end, infos=infos, valid=valid)

    def put(
        self,
        obs: Goals,
        action: Any,
        reward: Any,
        next_obs: Goals,
        end: NDArray[np.uint8] | None,
        *,
        infos: Sequence[Mapping[str, Any]] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        """`add` with the ends in one array, ``(N,)``, for those who call it often.

        Args:
            end: 0 goes on, 1 terminated, 2 truncated, 3 both; None: no episode ends.
        """
        records = self.records
        if not self._checked:
            records.check(obs, self.ring.n_envs, "obs")
            records.check(next_obs, self.ring.n_envs, "next_obs")
            self._checked = True  # one environment gives one form
        done = None if end is None else end > 0
        if valid is None or valid.all():
            rows = self.ring.advance(done)
        else:
            rows = self.ring.advance(done, valid)
            obs, next_obs = ({key: one[key][valid] for key, *_ in records.names} for one in (obs, next_obs))
            action, reward = np.asarray(action)[valid], np.asarray(reward)[valid]
            end = None if end is None else end[valid]
            infos = infos and [info for info, one in zip(infos, valid, strict=True) if one]
        for key, before, after in records.observations:
            before[rows] = obs[key]
            after[rows] = next_obs[key]
        records.action[rows] = action
        records.reward[rows] = reward
        records.end[rows] = 0 if end is None else end
        if self.priorities is not None:
            self.priorities[rows] = self._highest
        if self.infos is not None:
            self._keep_infos(rows, infos)

    def _keep_infos(self, rows: Rows, infos: Sequence[Mapping[str, Any]] | None) -> None:
        if infos is None:
            raise ValueError("`infos` must be given with `copy_info`; got None. Give one an environment.")
        assert self.infos is not None
        kept = np.full(len(infos), None, object)
        kept[:] = [dict(info) for info in infos]
        self.infos[rows] = kept

    def truncate(self) -> None:
        """End the episodes under way as truncated at their latest step, so that they can be sampled."""
        ring = self.ring
        envs = np.flatnonzero(ring.written > ring.last)
        self.records.end[ring.row(envs, ring.written[envs] - 1)] = 2
        ring.finish(envs)

    def clear(self) -> None:
        """Forget all steps."""
        self.ring = EpisodeRing(self.ring.capacity, self.ring.n_envs)
        self._ended[:] = False

    def sample(self, batch_size: int) -> HindsightBatch:
        """Transitions drawn with replacement, each as likely, those with goals in hindsight first.

        Raises RuntimeError before the end of the first episode, ValueError for a size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
        return self.gather(*self.draw(batch_size))

    def draw(self, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of transitions ``(B,)``, and those of the goals ``(H,)`` for the first of them."""
        drawn, row = self.ring.draw(batch_size, self.rng)
        share = self.n_sampled_goal / (self.n_sampled_goal + 1)
        relabelled = int(share * batch_size + self.rng.random())  # the remainder by chance: exact on average
        drawn = drawn.head(relabelled, None if self.priorities is None else self._priority)
        goals = self.strategy.choose(drawn, self.rng)
        return row, self.ring.goal_rows(goals, drawn, leaves_episode=self.strategy.leaves_episode)

    def gather(self, row: NDArray[np.int64], goal_row: NDArray[np.int64]) -> HindsightBatch:
        """The transitions of these rows, the first of them with the next achieved goals of ``goal_row``."""
        records, hindsight = self.records, len(goal_row)
        taken = records.take(row)
        end = taken["end"]
        terminated, truncated = (end & 1).view(np.bool_), (end >> 1).view(np.bool_)
        if hindsight:
            goals = records.relabel(taken, goal_row)
            achieved = taken["next_obs.achieved_goal"][:hindsight]
            infos = self._infos_of(row[:hindsight])
            taken["reward"][:hindsight] = self.task.reward(achieved, goals, infos)
            if self.task.terminated is not None:
                terminated[:hindsight] = self.task.terminated(achieved, goals, infos)
        return HindsightBatch(
            obs={key: taken[name] for key, name, _ in records.names},
            action=taken["action"],
            reward=taken["reward"],
            next_obs={key: taken[name] for key, _, name in records.names},
            terminated=terminated,
            truncated=truncated,
            row=row,
            goal_row=goal_row,
        )

    def _infos_of(self, row: NDArray[np.int64]) -> Sequence[dict[str, Any]]:
        return [{}] * len(row) if self.infos is None else [dict(info) for info in self.infos[row]]

    def update_priorities(self, goal_row: NDArray[np.int64], priority: ArrayLike) -> None:
        """Set the priorities of goals, such as the sizes of the errors that they gave.

        Args:
            goal_row: of a batch, ``(H,)``.
            priority: finite, at least 0, ``(H,)``; of equal rows the last one counts.

        Raises ValueError for other numbers, or if the strategy has no priorities.
        """
        values = np.asarray(priority, np.float64)
        if self.priorities is None:
            raise ValueError(
                f'`strategy` must ask for priorities; {self.strategy} does not. Take "prioritised".'
            )
        if values.shape != np.shape(goal_row) or not ((values >= 0) & (values < np.inf)).all():
            raise ValueError(
                f"`priority` must be {len(goal_row)} finite numbers of at least 0; got {values}. Take "
                "absolute errors."
            )
        self.priorities[goal_row] = values
        self._highest = max(self._highest, *values.tolist()) if values.size else self._highest

    def _priority(self, env: NDArray[np.int64], step: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.priorities is not None
        return self.priorities[self.ring.row(env, step)]

    def state_dict(self) -> dict[str, Any]:
        """All that the next samples depend on, the episodes under way with it: arrays and primitives."""
        filled = int(min(self.ring.written.max(), self.ring.capacity)) * self.ring.n_envs
        return {
            "ring": self.ring.state_dict(),
            "records": self.records.state_dict(filled),
            "infos": None if self.infos is None else self.infos[:filled].tolist(),
            "priorities": None if self.priorities is None else self.priorities.copy(),
            "highest": self._highest,
            "ended": self._ended.copy(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for that of a buffer of other options."""
        for name in ("infos", "priorities"):
            if (getattr(self, name) is None) != (state[name] is None):
                raise ValueError(
                    f"`state` must {'not ' if getattr(self, name) is None else ''}hold {name}. Make the "
                    "buffer with the options of the one that was saved."
                )
        self.ring.load_state_dict(state["ring"])
        self.records.load_state_dict(state["records"])
        if self.infos is not None:
            for row, info in enumerate(state["infos"]):
                self.infos[row] = info
        if self.priorities is not None:
            self.priorities[:] = np.asarray(state["priorities"])
        self._highest, self._ended = float(state["highest"]), np.asarray(state["ended"]).copy()
        self.rng.bit_generator.state = state["rng"]


def _resets_in_next_step(env: Any) -> bool:
    """Whether the step after an end only resets: a vector environment of Gymnasium in its usual mode."""
    return getattr(env, "metadata", {}).get("autoreset_mode") is AutoresetMode.NEXT_STEP
