"""Meta-World's benchmarks as one Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from athena_multitask._goal_order import GoalOrder, Goals
from athena_multitask._gymnasium import AutoresetMode, SyncVectorEnv
from athena_multitask._meta_world_env import MAX_EPISODE_STEPS, Array, MetaWorldEnv
from athena_multitask._meta_world_tasks import (
    N_GOALS,
    Split,
    benchmark_tasks,
    draw_goals,
    make_simulator,
    require_metaworld,
    task_entropy,
)


class MetaWorld(SyncVectorEnv):
    r"""A benchmark of Meta-World, one environment a task, in its order, seeded whole.

    Multi-task benchmarks (MT1, MT10, MT50) show the goal in the observation, meta-learning ones (ML1, ML10,
    ML45) hide it behind zeros. The one-hot code of the task follows the 39 features:

    .. math:: o = [\,\text{hand}_t, \text{objects}_t, \text{hand}_{t-1}, \text{objects}_{t-1},
        \text{goal}, e_{\text{task}}\,] \in \mathbb{R}^{39 + n}

    Goals are drawn once, from ``seed`` and the task's name, so a task has the same in MT1 as in MT10. The
    test tasks of ML10 and ML45 are other tasks; those of ML1 are other goals of its one task.

    Episodes are truncated after ``max_episode_steps`` and never terminate. A reset comes in the step that
    ends an episode (``metadata["autoreset_mode"]`` is ``SAME_STEP``): its last observation and information
    are ``infos["final_obs"]`` and ``infos["final_info"]``. ``infos["success"]`` is of one step; an episode
    succeeds if any of its steps does, which `evaluate_success` counts.

    Args:
        name: ``"MT1"``, ``"MT10"``, ``"MT50"``, ``"ML1"``, ``"ML10"`` or ``"ML45"``.
        seed: of the goals and their order. ``reset(seed=)`` begins the order again, and keeps the goals.
        task: of MT1 and ML1, such as ``"reach-v3"``.
        split: ``"train"`` or ``"test"``, of the ML benchmarks.
        one_hot: append the code of the task; None: where several tasks share a policy, MT10 and MT50.
        goals: the order of goals, see `GoalOrder`; None: ``"random"`` for MT, ``"hold"`` for ML.
        n_goals: of each task.
        reward_version: ``"v2"``, or ``"v1"`` of the benchmark's first publication.
        max_episode_steps: the length of an episode, up to 500.

    Attributes:
        task_names: of each environment.
        task_goals: of each environment, ``(n_goals, k)``, the numbers which place its object and goal.
        metaworld_version: of the package.

    Shape: observations ``(n, 39 + n)`` with the code, ``(n, 39)`` without, float32; actions ``(n, 4)`` in
    [-1, 1], float32; rewards ``(n,)``, float64.

    Raises ValueError for an option outside its range, AthenaError if Meta-World is absent or of a version
    that is known to be broken.

    Source: Yu et al. 2019, arXiv:1910.10897, section 4 (the benchmarks). Departs from it: goals come from a
    generator of their own, not from NumPy's global one.

    >>> envs = MetaWorld("MT1", task="reach-v3", seed=0)
    >>> observations, infos = envs.reset()
    >>> observations.shape, envs.task_names
    ((1, 39), ('reach-v3',))
    >>> observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    >>> infos["success"]
    array([False])
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        task: str | None = None,
        split: Split = "train",
        one_hot: bool | None = None,
        goals: Goals | None = None,
        n_goals: int = N_GOALS,
        reward_version: Literal["v1", "v2"] = "v2",
        max_episode_steps: int = MAX_EPISODE_STEPS,
    ) -> None:
        self.metaworld_version = require_metaworld()
        _check_options(seed, n_goals, reward_version, max_episode_steps)
        self.task_names = benchmark_tasks(name, task=task, split=split)
        self.name, self.split, self.n_goals = name, split, n_goals
        self.reward_version, self.max_episode_steps = reward_version, max_episode_steps
        multi_task, n = name.startswith("MT"), len(self.task_names)
        how: Goals = goals if goals is not None else "random" if multi_task else "hold"
        coded = one_hot if one_hot is not None else multi_task and n > 1
        # The test goals of ML1 follow those of its training, in one draw without repetition.
        skipped = n_goals if (name, split) == ("ML1", "test") else 0

        def make(index: int) -> MetaWorldEnv:
            task_name = self.task_names[index]
            simulator = make_simulator(task_name, goal_visible=multi_task, reward_version=reward_version)
            generator = np.random.default_rng(task_entropy(seed, task_name, stream=0))
            order = GoalOrder(n_goals, how=how, entropy=task_entropy(seed, task_name, stream=1))
            return MetaWorldEnv(
                task_name,
                simulator,
                goals=draw_goals(simulator, skipped + n_goals, generator)[skipped:],
                order=order,
                code=np.eye(n)[index] if coded else np.zeros(0),
                max_episode_steps=max_episode_steps,
            )

        super().__init__([partial(make, i) for i in range(n)], autoreset_mode=AutoresetMode.SAME_STEP)
        self.action_space.seed(int(seed))  # which takes no integer of NumPy
        self.single_action_space.seed(int(seed))

    @property
    def task_goals(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(env.goals.copy() for env in self._tasks)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: begins the order of goals again as a new `MetaWorld` of this seed has it; or one each.
            options: see `MetaWorldEnv`; ``{"goal": index}`` takes this goal everywhere.
        """
        seeds = [seed] * self.num_envs if seed is None or isinstance(seed, int | np.integer) else seed
        whole = [None if one is None else int(one) for one in seeds]
        return super().reset(seed=whole, options=options)

    def sample_tasks(self) -> tuple[Array, dict[str, Any]]:
        """Move every environment on to another goal, and begin an episode there: a new batch of tasks."""
        return self.reset(options={"sample": True})

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on: tasks in their order, goals, generators, episodes so far."""
        drawn = self.action_space.np_random.bit_generator.state
        return {**self._made, "actions": drawn, "environments": [env.state_dict() for env in self._tasks]}

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Go on where `state_dict` was taken: the observations there, ``(n, 39 + n)``.

        The episodes so far are played again, which takes as long as their steps did: seconds for MT10.

        Raises ValueError for the state of another benchmark, split, version, length of episodes, task or
        seed; nothing is changed then.
        """
        for key, value in self._made.items():
            if state[key] != value:
                raise ValueError(
                    f"`state` must have {key} {value!r}; got {state[key]!r}. Make that `MetaWorld`."
                )
        pairs = list(zip(self._tasks, state["environments"], strict=True))
        for env, saved in pairs:
            env.check_state(saved)
        observations = [env.load_state_dict(saved) for env, saved in pairs]
        self.action_space.np_random.bit_generator.state = state["actions"]
        self._env_obs = observations
        return np.stack(observations)

    @property
    def _made(self) -> dict[str, Any]:
        names = ("name", "split", "reward_version", "metaworld_version", "max_episode_steps")
        return {name: getattr(self, name) for name in names}

    @property
    def _tasks(self) -> list[MetaWorldEnv]:
        return self.envs  # pyright: ignore[reportReturnType] (it holds what `make` returns)


def _check_options(seed: int, n_goals: int, reward_version: str, max_episode_steps: int) -> None:
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0; got {seed}. Take 0.")
    if reward_version not in ("v1", "v2"):
        raise ValueError(f'`reward_version` must be "v1" or "v2"; got {reward_version!r}. Take "v2".')
    if not 1 <= max_episode_steps <= MAX_EPISODE_STEPS:
        raise ValueError(
            f"`max_episode_steps` must lie in [1, {MAX_EPISODE_STEPS}]; got {max_episode_steps}. "
            f"Take {MAX_EPISODE_STEPS}."
        )
    if n_goals < 1:
        raise ValueError(f"`n_goals` must be at least 1; got {n_goals}. Take {N_GOALS}.")
