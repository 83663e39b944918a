"""The recipe `point-maze`: HIRO against flat SAC, where the way to the goal leads away from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_core.figures import learning_curves
from athena_hrl._hiro import HIRO, HiroMemory
from athena_hrl._point_maze import PointMaze, PointMazeVectorEnv
from athena_hrl._point_maze_pictures import plot_ways

if TYPE_CHECKING:
    from athena_hrl._recipe_sac import FlatSAC


@dataclass(kw_only=True)
class PointMazeRecipe(Recipe):
    r"""Learn the way round a wall, with HIRO or with a flat SAC.

    In the maze "u" the goal is two cells below the start and the way to it six cells long; the "dense" reward
    is minus the distance as the crow flies, so that the way leads through worse rewards. A flat learner,
    whose noise is new at each step, stays at the wall; a manager's subgoals lead as far as ``c`` steps.

    A step of the recipe is one of an environment. ``success`` is that of one episode without noise: start and
    goal are always the same, so is the episode. ``reached`` is the share of the latest episodes with noise,
    two for each environment, that came to the goal. ``athena report`` draws both learners over their seeds.
    Runs resume bit for bit.

    Args:
        steps: of all environments together.
        learner: HIRO, or Stable-Baselines3's SAC.
        layout: of the maze.
        reward: "dense" or "sparse".
        speed: cells a step.
        time_limit: steps of an episode.
        n_envs: environments at once.
        subgoal_every: :math:`c` of HIRO.
        subgoal_range: of HIRO, in cells along each axis.
        random_subgoals: the share of HIRO's subgoals that are drawn uniformly.
        correct: HIRO's off-policy correction.
        manager_every: HIRO's updates of the worker for one of the manager.
        manager_gamma: discount of HIRO's manager.
        gamma: discount of a step, of HIRO's worker and of SAC.
        ent_coef: weight of SAC's entropy; learned if left out.
        use_sde: SAC's noise depends on the state and stays the same for ``subgoal_every`` steps.
        lr: of all networks' Adam.
        hidden: widths of the layers of all networks.
        batch_size: of each update.
        steps_per_update: steps of an environment for an update of the network, HIRO's of the worker.
        warm_up: steps at random at first.
        test_every: steps between two tests.

    Source: Nachum et al. 2018, arXiv:1805.08296, section 5 (Ant Maze); Haarnoja et al. 2018,
    arXiv:1812.05905. Departs from them: a point takes the place of the ant; what `HIRO` says.

    >>> recipe = PointMazeRecipe(learner="sac")
    >>> recipe.subgoal_every, recipe.reward
    (10, 'dense')
    """

    steps: int = 40_000
    learner: Literal["hiro", "sac"] = "hiro"
    layout: str = "u"
    reward: Literal["dense", "sparse"] = "dense"
    speed: float = 0.2
    time_limit: int = 200
    n_envs: int = 16
    subgoal_every: int = 10
    subgoal_range: float = 2.0
    random_subgoals: float = 0.5
    correct: bool = True
    manager_every: int = 2
    manager_gamma: float = 0.95
    gamma: float = 0.99
    ent_coef: float | None = None
    use_sde: bool = False
    lr: float = 1e-3
    hidden: tuple[int, ...] = (64, 64)
    batch_size: int = 100
    steps_per_update: int = 8
    warm_up: int = 2_000
    test_every: int = 2_000

    @classmethod
    def example(cls) -> Self:
        small = {"hidden": (8,), "batch_size": 8, "warm_up": 16, "subgoal_every": 3}
        return cls(steps=64, n_envs=2, time_limit=12, test_every=32, **small)

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        with one_thread():
            env = self.environment(self.n_envs)
            learner = self.build(env, seed=run.seed, device=run.device)
            curve = ReachedCurve()
            tests = -(-self.steps // self.test_every)
            parts = {"learner": learner, "curve": curve}
            for test in run.steps(tests, unit="steps", units_per_step=self.test_every, **parts):
                learner.learn(test * self.test_every - learner.steps)
                way = self.walk(learner)
                curve.note(test * self.test_every, success=way.reached, reached=env.reached)
                run.log(test * self.test_every, **curve.last(), length=len(way.points) - 1)
            return self.show(run, learner, curve)

    def environment(self, count: int) -> CountedMaze:
        """As many mazes."""
        options = {"layout": self.layout, "reward": self.reward, "speed": self.speed}
        try:
            return CountedMaze(count, autoreset_mode="Disabled", max_episode_steps=self.time_limit, **options)
        except ValueError as error:
            raise AthenaError(" ".join(str(error).split())) from error

    def build(self, env: CountedMaze, *, seed: int, device: torch.device) -> HIRO | FlatSAC:
        """The learner, not yet trained."""
        if self.learner == "hiro":
            lr = {"actor_lr": self.lr, "critic_lr": self.lr}
            names = ("subgoal_every", "subgoal_range", "random_subgoals", "correct", "manager_every")
            names += ("manager_gamma", "gamma", "batch_size", "steps_per_update", "warm_up")
            own = {name: getattr(self, name) for name in names}
            td3 = {"hidden": self.hidden, **lr}
            return HIRO(env, goal_dims=[0, 1], manager_noise=0.2, td3=td3, seed=seed, device=device, **own)
        from athena_hrl._recipe_sac import FlatSAC

        options = {
            "learning_rate": self.lr,
            "learning_starts": self.warm_up,
            "batch_size": self.batch_size,
            "gamma": self.gamma,
            "buffer_size": 200_000,
            "train_freq": self.steps_per_update,
            "gradient_steps": self.n_envs,
            "ent_coef": "auto" if self.ent_coef is None else self.ent_coef,
            "use_sde": self.use_sde,
            "sde_sample_freq": self.subgoal_every,
            "policy_kwargs": {"net_arch": list(self.hidden)},
            "device": device,
        }
        return FlatSAC(env, seed=seed, options=options)

    def walk(self, learner: HIRO | FlatSAC) -> Way:
        """One episode without noise."""
        env = self.environment(1)
        observation, _ = env.reset(seed=0)
        points, subgoals = [observation["observation"][0]], []
        memory: Any = None
        for _ in range(self.time_limit):
            action, memory = learner.predict(observation, memory)
            if isinstance(memory, HiroMemory) and memory.age[0] == 1:
                subgoals.append(memory.state[0, :2] + memory.subgoal[0])
            observation, _, terminated, *_ = env.step(action)
            points.append(observation["observation"][0])
            if terminated[0]:
                return Way(np.stack(points), np.array(subgoals).reshape(-1, 2), reached=True)
        return Way(np.stack(points), np.array(subgoals).reshape(-1, 2), reached=False)

    def show(self, run: Run, learner: HIRO | FlatSAC, curve: ReachedCurve) -> dict[str, float]:
        """Print and draw; the final metrics."""
        way, final = self.walk(learner), curve.final()
        title = f"{self.layout}, {self.reward} reward, {self.learner}"
        run.print(summary(curve, name=title, length=len(way.points) - 1))
        lines = {"without noise": (curve.steps, np.array(curve.success, dtype=float))}
        lines["while learning"] = (curve.steps, np.array(curve.reached))
        run.figure("success", learning_curves(lines, x_label="steps", y_label="success", title=title))
        maze = PointMaze(layout=self.layout, reward=self.reward, speed=self.speed)
        run.figure("way", plot_ways(maze, [way.points], subgoals=[way.subgoals], title=title))
        return final

    def _check(self) -> None:
        for name in ("steps", "time_limit", "n_envs", "batch_size", "steps_per_update", "test_every"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("subgoal_every", "manager_every"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("gamma", "manager_gamma", "random_subgoals"):
            if not 0 <= getattr(self, name) <= 1:
                raise AthenaError(f"`{name}` must lie in [0, 1]; got {getattr(self, name)}.")
        for name in ("lr", "subgoal_range"):
            if not 0 < getattr(self, name) < math.inf:
                raise AthenaError(f"`{name}` must be a positive number; got {getattr(self, name)}.")
        if not all(width >= 1 for width in self.hidden):
            raise AthenaError(f"`hidden` must hold widths of at least 1; got {list(self.hidden)}.")


class Way(NamedTuple):
    """An episode without noise.

    >>> Way(np.zeros((3, 2)), np.zeros((1, 2)), reached=False).reached
    False
    """

    points: NDArray[np.float32]  # (steps + 1, 2)
    subgoals: NDArray[np.float32]  # (n, 2), places; none of a flat learner
    reached: bool


class CountedMaze(PointMazeVectorEnv):
    """Point mazes that note which episodes came to the goal.

    >>> env = CountedMaze(2, autoreset_mode="Disabled", max_episode_steps=1)
    >>> _ = env.reset(seed=0), env.step(np.zeros((2, 2), dtype=np.float32))
    >>> env.outcomes, env.reached
    ([False, False], 0.0)
    """

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self.outcomes: list[bool] = []  # of the latest episodes, two for each maze

    def step(self, actions: Any) -> Any:
        result = super().step(actions)
        _, _, terminated, truncated, _ = result
        self.outcomes += terminated[terminated | truncated].tolist()
        self.outcomes = self.outcomes[-2 * self.num_envs :]
        return result

    @property
    def reached(self) -> float:
        """The share of the latest episodes that came to the goal; 0 before the first."""
        return float(np.mean(self.outcomes)) if self.outcomes else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "outcomes": list(self.outcomes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.outcomes = [bool(one) for one in state["outcomes"]]


class ReachedCurve:
    """Successes by step.

    >>> curve = ReachedCurve()
    >>> for step, success in ((10, False), (20, True), (30, True)):
    ...     curve.note(step, success=success, reached=0.5)
    >>> curve.final()
    {'success': 1.0, 'reached': 0.5, 'success_last_fifth': 1.0}
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.success: list[bool] = []
        self.reached: list[float] = []

    def note(self, step: int, *, success: bool, reached: float) -> None:
        """One test."""
        self.steps.append(step)
        self.success.append(success)
        self.reached.append(reached)

    def last(self) -> dict[str, float]:
        """The latest test."""
        return {"success": float(self.success[-1]), "reached": self.reached[-1]}

    def final(self) -> dict[str, float]:
        """The latest test, and the mean of the last fifth of them."""
        fifth = max(len(self.success) // 5, 1)
        return {**self.last(), "success_last_fifth": float(np.mean(self.success[-fifth:]))}

    def state_dict(self) -> dict[str, Any]:
        """All tests so far."""
        return {name: list(getattr(self, name)) for name in ("steps", "success", "reached")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in ("steps", "success", "reached"):
            setattr(self, name, list(state[name]))


def summary(curve: ReachedCurve, *, name: str, length: int) -> str:
    """What a run came to, for people.

    >>> curve = ReachedCurve()
    >>> curve.note(2000, success=True, reached=0.25)
    >>> print(summary(curve, name="u, dense reward, hiro", length=41))
    u, dense reward, hiro
      reaches the goal in 41 steps; first by step 2,000
      25 % of the last episodes with noise
    """
    pairs = zip(curve.steps, curve.success, strict=True)
    first = next((f"{step:,}" for step, success in pairs if success), None)
    end = f"reaches the goal in {length} steps" if curve.success[-1] else "does not reach the goal"
    since = "at no test" if first is None else f"first by step {first}"
    return f"{name}\n  {end}; {since}\n  {100 * curve.reached[-1]:.0f} % of the last episodes with noise"
