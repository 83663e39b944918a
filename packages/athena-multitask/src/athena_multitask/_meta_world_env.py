"""One task of Meta-World as a Gymnasium environment that can be resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from athena_multitask._goal_order import GoalOrder
from athena_multitask._gymnasium import Box, Env, ResetNeeded
from athena_multitask._meta_world_tasks import N_FEATURES, set_goal, task_entropy

Array = NDArray[np.float32]
MAX_EPISODE_STEPS = 500  # the simulator refuses to go further


class MetaWorldEnv(Env):
    """One task: a simulator of Meta-World, its goals, the order in which they come, its one-hot code.

    An episode never terminates: it is truncated after ``max_episode_steps``. ``info`` has ``success``, of
    this step alone, and ``goal``, the index of the episode's goal.

    The state is the goal and the actions since: loading it plays them again, for the simulator keeps parts
    of its state in attributes that differ by task.

    Args:
        task: its name.
        simulator: Meta-World's environment of it.
        goals: ``(n, k)``.
        order: which comes next.
        code: ``(c,)``, appended to each observation; empty for none.
        max_episode_steps: the length of an episode.

    Shape: observations ``(39 + c,)`` and actions ``(4,)`` in [-1, 1], both float32.

    >>> from athena_multitask._meta_world_tasks import draw_goals, make_simulator
    >>> simulator = make_simulator("reach-v3", goal_visible=True, reward_version="v2")
    >>> goals = draw_goals(simulator, 2, np.random.default_rng(0))
    >>> order = GoalOrder(2, how="cycle", entropy=[0])
    >>> env = MetaWorldEnv(
    ...     "reach-v3", simulator, goals=goals, order=order, code=np.eye(2)[0], max_episode_steps=9
    ... )
    >>> observation, info = env.reset()
    >>> observation.shape, info
    ((41,), {'goal': 0})
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(
        self,
        task: str,
        simulator: Any,
        *,
        goals: NDArray[np.float64],
        order: GoalOrder,
        code: NDArray[np.floating],
        max_episode_steps: int,
    ) -> None:
        self.task_name, self.simulator, self.goals, self.order = task, simulator, goals, order
        self.code, self.max_episode_steps = code.astype(np.float32), max_episode_steps
        size = N_FEATURES + len(code)
        low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
        low[N_FEATURES:], high[N_FEATURES:] = 0.0, 1.0
        self.observation_space = Box(low, high, dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (4,), dtype=np.float32)
        self.goal: int | None = None
        self.actions: list[Array] = []  # of this episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: begins the order of goals again; the goals themselves stay.
            options: ``{"goal": index}`` takes this goal, and leaves the order where it is;
                ``{"sample": True}`` moves on to another where the order holds one.

        Raises ValueError for a goal that is not there.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.order.restart(task_entropy(seed, self.task_name, stream=1))
        options = options or {}
        if "goal" in options:
            goal = options["goal"]
        else:
            goal = self.order.sample() if options.get("sample") else self.order.next()
        if not 0 <= goal < len(self.goals):
            raise ValueError(
                f"`goal` must lie in [0, {len(self.goals) - 1}]; got {goal}. Choose one of those."
            )
        return self._begin(goal), {"goal": goal}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; raises ResetNeeded after the last, ValueError for a NaN or infinite action."""
        if self.goal is None or len(self.actions) >= self.max_episode_steps:
            raise ResetNeeded(
                f"`{self.task_name}` must be reset before a step; its episode is over. Reset it."
            )
        action = np.array(action, dtype=np.float32)
        if not np.isfinite(action).all():
            raise ValueError(
                f"`action` must be finite; got {action} for {self.task_name}. Look at the policy."
            )
        self.actions.append(action)
        observation, reward, _, _, info = self.simulator.step(action)
        truncated = len(self.actions) == self.max_episode_steps
        told = {"success": bool(info["success"]), "goal": self.goal}
        return self._coded(observation), float(reward), False, truncated, told

    def state_dict(self) -> dict[str, Any]:
        """Task, goals, their order, and the episode so far."""
        actions = np.array(self.actions, dtype=np.float32).reshape(-1, 4)
        episode = {"goal": self.goal, "actions": torch.from_numpy(actions)}
        return {
            "task": self.task_name,
            "goals": torch.tensor(self.goals),
            "order": self.order.state_dict(),
            **episode,
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError for the state of another task, or of other goals."""
        if state["task"] != self.task_name:
            raise ValueError(f"`state` must be of {self.task_name}; got {state['task']}. Load that one's.")
        if not np.array_equal(state["goals"], self.goals):
            raise ValueError(
                f"`state` must have the goals of {self.task_name} here; got others. Take its seed."
            )

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Go on where `state_dict` was taken; the observation there, zeros before the first reset.

        Raises ValueError as `check_state` does.
        """
        self.check_state(state)
        self.order.load_state_dict(state["order"])
        if state["goal"] is None:
            self.goal, self.actions = None, []
            return np.zeros(N_FEATURES + len(self.code), np.float32)
        observation = self._begin(state["goal"])
        for action in np.asarray(state["actions"]):
            observation = self.step(action)[0]
        return observation

    def close(self) -> None:
        self.simulator.close()

    def _begin(self, goal: int) -> Array:
        set_goal(self.simulator, self.goals[goal])
        self.goal, self.actions = goal, []
        return self._coded(self.simulator.reset()[0])

    def _coded(self, observation: NDArray[np.float64]) -> Array:
        return np.concatenate([observation, self.code], dtype=np.float32, casting="same_kind")
