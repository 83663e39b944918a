"""HIRO: a manager that sets displacements as subgoals, a worker that reaches them, both off-policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from athena_hrl._bounds import checked_box, checked_dims, checked_range, normalizer, scaled_actions
from athena_hrl._episode_rows import EpisodeRows, Observed, RowStep
from athena_hrl._goal_transition import goal_transition
from athena_hrl._numbers import LARGEST, in_range, positive
from athena_hrl._off_policy_correction import WorkerPath, corrected_subgoals
from athena_hrl._subgoal_paths import SubgoalPaths
from athena_hrl._td3 import TD3, TD3Batch
from athena_hrl._transition_ring import TransitionRing

Array = NDArray[np.float32]


class HiroMemory(NamedTuple):
    """What `HIRO.predict` needs of the step before: the subgoal, the state and the subgoal's age, a row each.

    >>> HiroMemory(np.zeros((1, 2)), np.zeros((1, 4)), np.zeros(1, dtype=np.int64)).age
    array([0])
    """

    subgoal: Array  # (N, G), relative to the state
    state: Array  # (N, S)
    age: NDArray[np.int64]  # (N,)


class HIRO:
    r"""Two levels of TD3: every ``c`` steps the manager sets a subgoal, a displacement that the worker makes.

    .. math::
        r^{lo}_t = -\lVert \hat s_t + g_t - \hat s_{t+1} \rVert_2, \qquad
        r^{hi}_t = k \sum_{i=0}^{c-1} R_{t+i}, \qquad g_{t+1} = h(s_t, g_t, s_{t+1})

    The worker never sees the environment's reward or its goal. The manager learns from transitions whose
    subgoal is replaced by the one under which today's worker would have acted as it did
    (`corrected_subgoals`). A worker's transition has discount 0 where the environment terminated; a
    manager's too, and it is shorter than ``c`` where an episode ended early, by either.

    Networks see states and goals brought to [-1, 1] where the space of observations is bounded.

    Args:
        env: an environment, or a vector of them in any mode of starting again. Actions are a bounded Box,
            observations a Box, or a Dict of Boxes with ``observation`` (the state) and ``desired_goal``. If
            it has a ``state_dict``, that is part of the learner's.
        goal_dims: dimensions of the state in which subgoals are set.
        subgoal_range: the largest displacement in each, a number or ``(G,)``.
        subgoal_every: :math:`c`.
        gamma: discount of a worker's step.
        manager_gamma: discount of a manager's step, whatever its length.
        reward_scale: :math:`k`.
        warm_up: steps of random actions and subgoals at first.
        noise, manager_noise: deviation of the Gaussian noise on actions and subgoals, as shares of their
            range.
        random_subgoals: share of subgoals that are drawn uniformly while learning.
        correct: off-policy correction; without it the manager learns from the subgoals as they were.
        batch_size: of both levels.
        steps_per_update: environment steps for an update of the worker.
        manager_every: the worker's updates for one of the manager.
        capacity: of the worker's transitions; the manager has as many in ``c``.
        td3: options of both levels' `TD3`.
        seed: of networks, noise and draws.
        device: of networks and transitions.

    Raises ValueError for numbers outside their range, and for an environment without a bounded Box of
    actions.

    Source: Nachum et al. 2018, arXiv:1805.08296, algorithm 1 and section 3. Departs from it:
    ``random_subgoals``, which the paper has none of; inputs are rescaled.

    >>> hiro = HIRO(gym.make("Pendulum-v1"), goal_dims=[0, 1], subgoal_range=1.0, subgoal_every=4, warm_up=8)
    >>> action, memory = hiro.learn(16).predict(np.array([1.0, 0.0, 0.0]))
    >>> action.shape, memory.subgoal.shape
    ((1,), (1, 2))
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        *,
        goal_dims: Sequence[int],
        subgoal_range: ArrayLike,
        subgoal_every: int = 10,
        gamma: float = 0.99,
        manager_gamma: float = 0.99,
        reward_scale: float = 0.1,
        warm_up: int = 1000,
        noise: float = 0.1,
        manager_noise: float = 0.1,
        random_subgoals: float = 0.0,
        correct: bool = True,
        batch_size: int = 100,
        steps_per_update: int = 1,
        manager_every: int = 10,
        capacity: int = 200_000,
        td3: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        counts = {"steps_per_update": steps_per_update, "manager_every": manager_every}
        in_range(1, LARGEST, subgoal_every=subgoal_every, batch_size=batch_size, **counts)
        in_range(0, 1, gamma=gamma, manager_gamma=manager_gamma, random_subgoals=random_subgoals)
        in_range(0, LARGEST, warm_up=warm_up, noise=noise, manager_noise=manager_noise)
        positive(reward_scale=reward_scale)
        self.rows, self.device, self.seed = EpisodeRows(env), torch.device(device), seed
        self.goal_dims = checked_dims(goal_dims, self.rows.state_dim)
        self.limit = checked_range(subgoal_range, len(self.goal_dims))
        self.action_space = checked_box(self.rows.action_space)
        self.subgoal_every, self.gamma, self.manager_gamma = subgoal_every, gamma, manager_gamma
        self.reward_scale, self.warm_up, self.random_subgoals = reward_scale, warm_up, random_subgoals
        self.noise, self.manager_noise, self.correct = noise, manager_noise, correct
        self.batch_size, self.steps_per_update = batch_size, steps_per_update
        self.manager_every = manager_every
        self._build(capacity, dict(td3 or {}))
        self.steps, self._due = 0, 0  # of all rows together; since the last update
        self._clear()

    def _build(self, capacity: int, td3: dict[str, Any]) -> None:
        rows, c = self.rows, self.subgoal_every
        self.n_actions, n_goal, state = spaces.flatdim(self.action_space), len(self.goal_dims), rows.state_dim
        both = {"device": self.device, **td3}
        self.manager = TD3(state + rows.goal_dim, n_goal, seed=self.seed, **both)
        self.worker = TD3(state + n_goal, self.n_actions, seed=self.seed + 1, **both)
        shapes = {"state_t": (state,), "subgoal_t": (n_goal,), "action_t": (self.n_actions,)}
        shapes |= {"state_tp1": (state,), "subgoal_tp1": (n_goal,), "reward_tp1": (), "discount_tp1": ()}
        where = {"device": self.device, "seed": self.seed}
        self.worker_ring = TransitionRing(capacity, shapes, **where)
        shapes = {"goal": (rows.goal_dim,), "subgoal": (n_goal,), "states": (c, state), "mask": (c,)}
        shapes |= {"actions": (c, self.n_actions), "reward": (), "discount": (), "last_state": (state,)}
        self.manager_ring = TransitionRing(max(capacity // c, rows.num_envs), shapes, **where)
        self.random = np.random.default_rng(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)
        tensors = [*normalizer(rows.state_space), *normalizer(rows.goal_space), self.limit]
        moved = [torch.from_numpy(one).to(self.device) for one in tensors]
        self._state_centre, self._state_scale, self._goal_centre, self._goal_scale, self._limit = moved

    def _clear(self) -> None:
        """No subgoal is under way in any row."""
        dims = {"goal_dim": self.rows.goal_dim, "subgoal_dim": len(self.goal_dims)}
        dims |= {"state_dim": self.rows.state_dim, "action_dim": self.n_actions}
        self.paths = SubgoalPaths(self.rows.num_envs, self.subgoal_every, **dims)
        self.subgoal = np.zeros((self.rows.num_envs, len(self.goal_dims)), dtype=np.float32)

    def learn(self, steps: int) -> HIRO:
        """Play until at least ``steps`` more were made, of all rows together, and learn from them."""
        if not self.rows.begun:
            self.rows.start(seed=self.seed)
            self._clear()
        until = self.steps + steps
        while self.steps < until:
            self._step()
        return self

    def _step(self) -> None:
        observed = self.rows.observed
        self._set_subgoals(observed)
        action = self._explore(observed)
        step = self.rows.step(scaled_actions(action, self.action_space))
        subgoal = goal_transition(observed.state, self.subgoal, step.reached.state, goal_dims=self.goal_dims)
        self._note_worker(observed, action, step, subgoal)
        self.paths.extend(step.valid, state=observed.state, action=action, reward=step.reward)
        self._note_manager(step)
        self.subgoal = subgoal
        played = int(step.valid.sum())
        self.steps += played
        self._due += played
        while self._due >= self.steps_per_update:
            self._due -= self.steps_per_update
            if self.steps >= self.warm_up:
                self.update()

    def _set_subgoals(self, observed: Observed) -> None:
        """A new subgoal for every row that has none under way."""
        rows = np.flatnonzero(self.paths.age == 0)
        if len(rows) == 0:
            return
        share = self._from_manager(Observed(*(part[rows] for part in observed)), noise=self.manager_noise)
        drawn = self.random.uniform(-1, 1, share.shape).astype(np.float32)
        chance = 1.0 if self.steps < self.warm_up else self.random_subgoals
        by_chance = self.random.random((len(rows), 1)) < chance
        self.subgoal[rows] = np.where(by_chance, drawn, share) * self.limit
        self.paths.begin(rows, subgoal=self.subgoal[rows], goal=observed.goal[rows])

    def _explore(self, observed: Observed) -> Array:
        action = self._from_worker(observed.state, self.subgoal, noise=self.noise)
        drawn = self.random.uniform(-1, 1, action.shape).astype(np.float32)
        return drawn if self.steps < self.warm_up else action

    def _note_worker(self, observed: Observed, action: Array, step: RowStep, subgoal: Array) -> None:
        rows = step.valid
        self.worker_ring.add(
            state_t=observed.state[rows],
            subgoal_t=self.subgoal[rows],
            action_t=action[rows],
            reward_tp1=-np.linalg.norm(subgoal[rows], axis=1),
            discount_tp1=self.gamma * ~step.terminated[rows],
            state_tp1=step.reached.state[rows],
            subgoal_tp1=subgoal[rows],
        )

    def _note_manager(self, step: RowStep) -> None:
        """The paths that are over become the manager's transitions."""
        over = self.paths.close(step.valid, ended=step.terminated | step.truncated)
        if len(over) == 0:
            return
        taken = self.paths.taken(over)
        taken["reward"] = self.reward_scale * taken["reward"]
        discount = self.manager_gamma * ~step.terminated[over]
        self.manager_ring.add(**taken, discount=discount, last_state=step.reached.state[over])

    def update(self) -> dict[str, float]:
        """One update of the worker, and every ``manager_every``-th time one of the manager; their losses."""
        losses = {f"worker_{name}": loss for name, loss in self.worker.update(self.worker_batch()).items()}
        if self.worker.updates % self.manager_every == 0 and len(self.manager_ring):
            manager = self.manager.update(self.manager_batch())
            losses |= {f"manager_{name}": loss for name, loss in manager.items()}
        return losses

    def worker_batch(self) -> TD3Batch:
        """A draw of the worker's transitions."""
        drawn = self.worker_ring.sample(self.batch_size)
        observation_t = self._worker_input(drawn["state_t"], drawn["subgoal_t"])
        observation_tp1 = self._worker_input(drawn["state_tp1"], drawn["subgoal_tp1"])
        return TD3Batch(
            observation_t, drawn["action_t"], drawn["reward_tp1"], drawn["discount_tp1"], observation_tp1
        )

    def manager_batch(self) -> TD3Batch:
        """A draw of the manager's transitions, their subgoals corrected for today's worker."""
        drawn = self.manager_ring.sample(self.batch_size)
        path = WorkerPath(drawn["states"], drawn["actions"], drawn["mask"], drawn["last_state"])
        subgoal = drawn["subgoal"]
        if self.correct:
            shape = (len(subgoal), 8, subgoal.shape[1])
            noise = torch.randn(shape, generator=self.generator).to(subgoal)
            options = {"noise": noise, "limit": self._limit, "goal_dims": self.goal_dims}
            subgoal = corrected_subgoals(subgoal, path, self._worker_mean, **options)
        return TD3Batch(
            self._manager_input(path.states[:, 0], drawn["goal"]),
            subgoal / self._limit,
            drawn["reward"],
            drawn["discount"],
            self._manager_input(path.last_state, drawn["goal"]),
        )

    def predict(
        self,
        observation: Any,
        memory: HiroMemory | None = None,
        *,
        episode_start: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[Any], HiroMemory]:
        """The action for an observation or a batch of them, without noise, and what the next call needs.

        Args:
            observation: of one environment ``shape`` or of rows ``(N, *shape)``.
            memory: of the call before; None begins all rows.
            episode_start: rows that began since.
        """
        single, observed = self._read_any(observation)
        if memory is None:
            subgoal = np.zeros((len(observed.state), len(self.goal_dims)), dtype=np.float32)
            fresh, age = np.ones(len(subgoal), dtype=np.bool_), np.zeros(len(subgoal), dtype=np.int64)
        else:
            subgoal = goal_transition(memory.state, memory.subgoal, observed.state, goal_dims=self.goal_dims)
            fresh, age = memory.age >= self.subgoal_every, memory.age
            fresh = fresh if episode_start is None else fresh | np.asarray(episode_start)
        subgoal = np.where(fresh[:, None], self._from_manager(observed) * self.limit, subgoal)
        action = scaled_actions(self._from_worker(observed.state, subgoal), self.action_space)
        memory = HiroMemory(subgoal, observed.state, np.where(fresh, 0, age) + 1)
        return (action[0] if single else action), memory

    def _read_any(self, observation: Any) -> tuple[bool, Observed]:
        whole = observation["observation"] if isinstance(observation, Mapping) else observation
        single = np.ndim(whole) == len(self.rows.state_space.shape)
        if single and isinstance(observation, Mapping):
            observation = {name: np.asarray(part)[None] for name, part in observation.items()}
        elif single:
            observation = np.asarray(observation)[None]
        return single, self.rows.read(observation)

    def _from_manager(self, observed: Observed, *, noise: float = 0.0) -> Array:
        """Subgoals as shares of their range."""
        state, goal = (torch.from_numpy(part).to(self.device) for part in observed)
        return self.manager.act(self._manager_input(state, goal), noise=noise).cpu().numpy()

    def _from_worker(self, state: Array, subgoal: Array, *, noise: float = 0.0) -> Array:
        tensors = (torch.from_numpy(part).to(self.device) for part in (state, subgoal))
        return self.worker.act(self._worker_input(*tensors), noise=noise).cpu().numpy()

    @torch.no_grad()
    def _worker_mean(self, state: Tensor, subgoal: Tensor) -> Tensor:
        return self.worker.actor(self._worker_input(state, subgoal))

    def _worker_input(self, state: Tensor, subgoal: Tensor) -> Tensor:
        return torch.cat(((state - self._state_centre) / self._state_scale, subgoal / self._limit), -1)

    def _manager_input(self, state: Tensor, goal: Tensor) -> Tensor:
        scaled = (state - self._state_centre) / self._state_scale
        return torch.cat((scaled, (goal - self._goal_centre) / self._goal_scale), -1)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on; the environment's part where it has a ``state_dict``."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        own = {"steps": self.steps, "due": self._due, "subgoal": self.subgoal.copy()}
        generators = {"random": self.random.bit_generator.state, "generator": self.generator.get_state()}
        return {**parts, **own, **generators}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises ValueError or RuntimeError for that of another shape."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.steps, self._due, self.subgoal = (
            state["steps"],
            state["due"],
            np.asarray(state["subgoal"]).copy(),
        )
        self.random.bit_generator.state = state["random"]
        self.generator.set_state(torch.as_tensor(state["generator"]).cpu())


_PARTS = ("rows", "paths", "manager", "worker", "manager_ring", "worker_ring")
