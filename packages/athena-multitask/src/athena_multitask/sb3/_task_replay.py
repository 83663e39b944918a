"""A replay buffer of several tasks, from which each task has as many samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from athena_multitask.sb3._task_of import TaskOf


class TaskReplayBuffer(ReplayBuffer):
    """Stable-Baselines3's replay buffer with as many samples of each task in a batch, in the tasks' order.

    Rows of a task are drawn uniformly where it has several. A transition that a time limit cut is no
    termination, as in the original. Floats of double precision are kept in single precision.

    Args:
        buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage: as there.
        task_of: the tasks of a batch of observations.
        n_tasks: their number.

    Raises ValueError for a batch that is not a multiple of the number of tasks, a task without a row, and a
    row that changes its task.

    >>> from athena_multitask.sb3 import OneHotTask
    >>> box = spaces.Box(-1, 1, (3,))
    >>> buffer = TaskReplayBuffer(20, box, box, "cpu", n_envs=2, n_tasks=2, task_of=OneHotTask(2))
    >>> obs = np.array([[0.5, 0, 1], [0.1, 1, 0]], np.float32)
    >>> buffer.add(obs, obs, np.zeros((2, 3)), np.zeros(2), np.zeros(2, bool), [{}, {}])
    >>> buffer.sample(4).observations[:, 1:].argmax(1)
    tensor([0, 0, 1, 1])
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        n_tasks: int,
        task_of: TaskOf,
    ) -> None:
        space = _single_precision(observation_space)
        super().__init__(buffer_size, space, action_space, device, n_envs, optimize_memory_usage)
        self.n_tasks, self.task_of = n_tasks, task_of
        self.row_tasks: NDArray[np.int64] | None = None

    def assign_rows(self, obs: NDArray[Any]) -> None:
        """Take the tasks of the rows from their observations."""
        tasks = self.task_of(torch.from_numpy(np.asarray(obs))).numpy()
        if self.row_tasks is None:
            counts = np.bincount(tasks, minlength=self.n_tasks)
            if len(counts) > self.n_tasks or not counts.all():
                raise ValueError(
                    f"`env` must have a row of each of the {self.n_tasks} tasks; got tasks {tasks.tolist()}. "
                    "Add the missing ones, or name fewer `tasks`."
                )
            self.row_tasks, self._counts = tasks, counts
            self._rows, self._first = np.argsort(tasks, kind="stable"), np.cumsum(counts) - counts
        elif not np.array_equal(tasks, self.row_tasks):
            raise ValueError(
                f"`env` must keep the task of each row; got {tasks.tolist()} after "
                f"{self.row_tasks.tolist()}. Give each task rows of its own."
            )

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        self.assign_rows(obs)
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(
        self,
        batch_size: int,
        env: VecNormalize | None = None,  # noqa: ARG002 (refused with several tasks)
    ) -> ReplayBufferSamples:
        if batch_size % self.n_tasks:
            raise ValueError(
                f"`batch_size` must be a multiple of the {self.n_tasks} tasks; got {batch_size}. "
                f"Take {-(-batch_size // self.n_tasks) * self.n_tasks}."
            )
        times = np.random.randint(0, self.size(), batch_size)  # noqa: NPY002 (SB3 seeds the global one)
        tasks = np.repeat(np.arange(self.n_tasks), batch_size // self.n_tasks)
        places = self._first[tasks]
        if self.n_envs > self.n_tasks:
            places = places + np.random.randint(0, self._counts[tasks])  # noqa: NPY002 (as above)
        rows = self._rows[places]
        ends = self.dones[times, rows] * (1 - self.timeouts[times, rows])
        data = (
            self.observations[times, rows],
            self.actions[times, rows],
            self.next_observations[times, rows],
            ends[:, None],
            self.rewards[times, rows][:, None],
        )
        # Indexing has copied them.
        return ReplayBufferSamples(*(self.to_torch(part, copy=False) for part in data))


def _single_precision(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space
