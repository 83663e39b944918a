"""The recipe `explore`: any environment, any bonus, with PPO or with Q-learning."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import gymnasium as gym
import torch
from gymnasium.spaces import Space

from athena_core import AthenaError, Configured, Recipe, Run, component, one_thread
from athena_core.environments import ReplayableEnv
from athena_explore._bonus import Bonus
from athena_explore._explore_pictures import plot_bonus, plot_returns, plot_visits, record_gif
from athena_explore._recipe_environment import Made, make_environment
from athena_explore._recipe_q_learning import QLearner
from athena_explore._recipe_record import BonusWatch, Record
from athena_explore._spaces import leaves

if TYPE_CHECKING:
    from athena_explore._recipe_ppo import PPOLearner


@dataclass(kw_only=True)
class Explore(Recipe):
    r"""Learn with an intrinsic reward, and see where it led.

    A step of the recipe is one of an environment. A rollout is ``n_steps`` of each of ``n_envs``; the last
    one may be longer than what is left. The progress bar counts rollouts. Runs resume bit for bit where the
    environment is deterministic given a seed and actions, which is checked.

    Args:
        steps: of all environments together.
        env: a Gymnasium id; ``module:id`` imports a module that registers it, as in
            ``minigrid:MiniGrid-DoorKey-8x8-v0``.
        env_options: for ``gymnasium.make``.
        wrappers: classes put around it in this order, each as ``module:Class``.
        rescale: bring observations in a bounded Box of floats to [-1, 1], for PPO.
        goal_return: an episode whose return exceeds it has reached the goal.
        bonus: an intrinsic reward; counts if left out, with 32 bins for each number that is a float.
        coefficient: its weight; 0 learns without it, and still shows it.
        learner: Stable-Baselines3's PPO, or Q-learning with tables, which needs Discrete observations.
        n_envs: environments at once; 8 for PPO if left out, and always 1 for Q-learning.
        n_steps: of each environment in a rollout.
        gamma: discount of the extrinsic rewards.
        intrinsic_gamma: discount of the intrinsic ones, whose stream does not end with an episode.
        lr: of PPO's Adam.
        batch_size: of PPO's minibatches.
        n_epochs: of PPO, over each rollout.
        ent_coef: of PPO's entropy.
        hidden: widths of the layers of PPO's networks.
        step_size: of Q-learning.
        epsilon: the share of random steps of Q-learning.

    Source: Schulman et al. 2017, arXiv:1707.06347; two streams of returns Burda et al. 2018,
    arXiv:1810.12894, section 2.3; the bonus's own. Departs from them: as the bonus and the learners say.

    >>> recipe = Explore(env="FrozenLake-v1", learner="q-learning")
    >>> recipe.bonus.name, recipe.environment().places.visits.bins
    ('counts', (16,))
    """

    steps: int = 50_000
    env: str = "athena_explore.environments:athena/SparseMountainCar-v0"
    env_options: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    rescale: bool = True
    goal_return: float = 0.0
    bonus: Configured = component("bonus", "counts", given=("action_space", "seed", "gamma"), bins=32)
    coefficient: float = 0.5
    learner: Literal["ppo", "q-learning"] = "ppo"
    n_envs: int | None = None
    n_steps: int = 128
    gamma: float = 0.99
    intrinsic_gamma: float = 0.99
    lr: float = 1e-3
    batch_size: int = 256
    n_epochs: int = 10
    ent_coef: float = 0.0
    hidden: tuple[int, ...] = (64, 64)
    step_size: float = 0.5
    epsilon: float = 0.0

    @classmethod
    def example(cls) -> Self:
        return cls(steps=64, n_envs=2, n_steps=16, batch_size=16, n_epochs=1, hidden=(8,))

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        with one_thread():
            made, learner = self.build(run.seed, run.device)
            record = Record(goal_return=self.goal_return, places=made.places)
            watch = BonusWatch(learner.bonus)
            begun = time.perf_counter()
            rollout = self.n_steps * self._n_envs
            rollouts = -(-self.steps // rollout)
            parts = {**learner.parts(), "record": record}
            for step in run.steps(rollouts, unit="steps", units_per_step=rollout, **parts):
                learner.rollout()
                run.log(step * rollout, **record.watch(step * rollout, learner.envs, watch.take()))
            share = watch.seconds / (time.perf_counter() - begun)
            return self.show(run, learner, record, rollouts * rollout, share)

    def environment(self, render_mode: str | None = None) -> Made:
        """The environment, as it is played."""
        return make_environment(
            self.env,
            options=self.env_options,
            wrappers=self.wrappers,
            rescale=self.rescale and self.learner == "ppo",
            render_mode=render_mode,
        )

    def build(self, seed: int, device: torch.device) -> tuple[Made, QLearner | PPOLearner]:
        """The first environment with its map, and the learner, not yet trained."""
        made = [self.environment() for _ in range(self._n_envs)]
        marks = [None if one.places is None else one.places.mark for one in made]
        envs = [
            ReplayableEnv(one.env, seed=seed, index=index, mark=mark)
            for index, (one, mark) in enumerate(zip(made, marks, strict=True))
        ]

        def make_bonus(observation_space: Space[Any], action_space: Space[Any]) -> Bonus:
            # As options: what a bonus hands on as keywords is not in its signature.
            options = {**self.bonus.options, "seed": seed, "gamma": self.intrinsic_gamma}
            return replace(self.bonus, options=options).create(observation_space, action_space)

        both = {"gamma": self.gamma, "intrinsic_gamma": self.intrinsic_gamma, "seed": seed}
        try:
            list(leaves(envs[0].observation_space))  # names what is not supported
            if self.learner == "q-learning":
                bonus = make_bonus(envs[0].observation_space, envs[0].action_space).to(device)
                own = {"coefficient": self.coefficient, "step_size": self.step_size, "epsilon": self.epsilon}
                return made[0], QLearner(envs[0], bonus, n_steps=self.n_steps, options={**both, **own})
            return made[0], self._ppo(envs, make_bonus, {**both, "device": device})
        except (ValueError, AssertionError, NotImplementedError) as error:  # the latter two of the library's
            raise AthenaError(" ".join(str(error).split())) from error

    def _ppo(self, envs: list[ReplayableEnv], make_bonus: Any, options: dict[str, Any]) -> PPOLearner:
        from athena_explore._recipe_ppo import PPOLearner

        names = ("n_steps", "batch_size", "n_epochs", "ent_coef")
        own = {name: getattr(self, name) for name in names}
        own |= {"bonus_coefficient": self.coefficient, "learning_rate": self.lr}
        return PPOLearner(envs, make_bonus, hidden=self.hidden, options={**options, **own})

    @property
    def _n_envs(self) -> int:
        return self.n_envs or (8 if self.learner == "ppo" else 1)

    def _check(self) -> None:
        for name in ("steps", "n_envs", "n_steps", "batch_size", "n_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {value}.")
        for name, value, fits in (
            ("gamma", self.gamma, 0 <= self.gamma <= 1),
            ("lr", self.lr, 0 < self.lr < math.inf),
            ("ent_coef", self.ent_coef, 0 <= self.ent_coef < math.inf),
            ("hidden", list(self.hidden), all(width >= 1 for width in self.hidden)),
        ):
            if not fits:
                raise AthenaError(f"`{name}` {_RANGES[name]}; got {value}.")
        if self.learner == "q-learning" and self._n_envs != 1:
            raise AthenaError(
                f"`n_envs` must be 1 for `learner` q-learning; got {self.n_envs}. Leave it out, or take ppo."
            )

    def show(
        self, run: Run, learner: QLearner | PPOLearner, record: Record, steps: int, bonus_share: float
    ) -> dict[str, float]:
        """Print, draw, record; the final metrics."""
        final = record.final(steps)
        run.print(summary(record, final, bonus=self.bonus.name, share=bonus_share))
        title = f"{self.env.rpartition(':')[2]}, {self.learner}, {self.bonus.name} x {self.coefficient:g}"
        if record.returns:
            run.figure("returns", plot_returns(record.ends, record.returns, steps=steps, title=title))
        run.figure("bonus", plot_bonus(record.steps, record.bonus_means, record.bonus_stds, title=title))
        if record.visits is not None and len(record.visits.bins) <= 2:
            run.figure("visits", plot_visits(record.visits, title=title))
        self._record_best(run, learner)
        return final

    def _record_best(self, run: Run, learner: QLearner | PPOLearner) -> None:
        best = [env.best for env in learner.envs if env.best is not None]
        modes = learner.envs[0].metadata.get("render_modes") or ()
        if not best or "rgb_array" not in modes:
            why = "no episode ended" if not best else f"{self.env} does not draw itself as an array"
            run.print(f"no picture of the best episode: {why}")
            return
        episode = max(best, key=lambda one: (one.total, -len(one.actions)))
        env = self.environment("rgb_array").env
        try:
            path = record_gif(env, episode, run.dir / "figures" / "best_episode.gif")
            run.print(f"best episode: return {episode.total:g} in {len(episode.actions)} steps, {path}")
        except gym.error.DependencyNotInstalled as error:
            run.print(f"no picture of the best episode: {error}")
        finally:
            env.close()


_RANGES = {
    "gamma": "must lie in [0, 1]",
    "lr": "must be a positive number",
    "ent_coef": "must be a finite number of at least 0",
    "hidden": "must hold widths of at least 1",
}


def summary(record: Record, final: Mapping[str, float], *, bonus: str, share: float) -> str:
    """What a run came to, for people.

    >>> record = Record(goal_return=0.0, places=None)
    >>> _ = record.note(8, ended=[(1.0, 4)], bonus={"bonus_mean": 0.5, "bonus_std": 0.1})
    >>> print(summary(record, record.final(8), bonus="rnd", share=0.125))
    episodes   1, of which 1 reached the goal (the first by step 8)
    return     1 in the last tenth, 1 at best
    bonus      rnd: 0.5 ± 0.1 at first, 0.5 ± 0.1 at last
    time       12.5 % in the bonus
    """
    first = "" if record.first_goal is None else f" (the first by step {record.first_goal:,})"
    bonuses = [
        f"{record.bonus_means[index]:.3g} ± {record.bonus_stds[index]:.2g} at {name}"
        for index, name in ((0, "first"), (-1, "last"))
    ]
    lines = [
        f"episodes   {len(record.returns):,}, of which {record.goals:,} reached the goal{first}",
        f"return     {final['return_last_tenth']:.4g} in the last tenth, {final['best_return']:.4g} at best",
        f"bonus      {bonus}: {bonuses[0]}, {bonuses[1]}",
        f"time       {100 * share:.1f} % in the bonus",
    ]
    if "coverage" in final:
        lines.insert(2, f"coverage   {100 * final['coverage']:.1f} % of the cells")
    return "\n".join(lines)
