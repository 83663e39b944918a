"""The recipe `meta-world`: soft actor-critic on one task of Meta-World, or on many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from athena_core import AthenaError, Configured, Recipe, Run, one_thread
from athena_core.figures import intervals, learning_curves
from athena_core.stats import Interval
from athena_multitask._evaluate_success import PROTOCOL, SuccessReport, evaluate_success

if TYPE_CHECKING:
    from athena_multitask._meta_world import MetaWorld
    from athena_multitask.sb3 import MultiTaskSAC

ABOVE = 0.95  # the share of goals that counts as solved
LINES = 10  # tasks that one picture shows


@dataclass(kw_only=True)
class MetaWorldRecipe(Recipe):
    """Train on a benchmark of Meta-World, and test on all goals of all tasks by `evaluate_success`.

    With MT1 the algorithm is Stable-Baselines3's SAC; with MT10 and MT50 `MultiTaskSAC`. Training cuts
    episodes short, so that it sees more goals in as many steps; a cut is no termination, and tests run
    episodes of full length. Networks see positions stretched by `MetaWorldFeatures`. A step
    of the recipe is one of an environment. Runs resume bit for bit.

    The last test is written to ``evaluation.json``, with the protocol, Meta-World's version and every
    episode; the summary has the protocol's number. The policy is written to ``model.zip``, as
    Stable-Baselines3 has it.

    Args:
        steps: of all environments together; of MT10, the literature takes 20 million.
        benchmark: ``"MT1"``, ``"MT10"`` or ``"MT50"``.
        task: of MT1.
        heads: as `MultiTaskSAC`'s.
        balancer: the name of a component of this kind, or None.
        n_goals: of each task.
        episode_steps: the length of an episode of training.
        updates: of the networks, for one step of all environments.
        warm_up: steps at random at first.
        batch_size: of all tasks together; None: the least multiple of their number from 256 on.
        buffer_size: steps of replay.
        lr: of all networks and temperatures.
        gamma: the discount. Reaching looks a few steps ahead; where objects are moved, take 0.99.
        tau: the share of the critics that goes into their targets.
        hidden: widths of the layers of all networks.
        log_every: steps between two lines of the log.
        test_every: steps between two tests, a multiple of ``log_every``.
        stop_at: stop when the tasks' mean success has come to it; None: go on.

    Source: Yu et al. 2019, arXiv:1910.10897, section 5. Departs from it: shorter episodes, stretched
    positions, smaller networks.

    >>> MetaWorldRecipe().task, MetaWorldRecipe(benchmark="MT10", heads="multi").heads
    ('reach-v3', 'multi')
    """

    steps: int = 150_000
    benchmark: Literal["MT1", "MT10", "MT50"] = "MT1"
    task: str = "reach-v3"
    heads: Literal["shared", "multi"] = "shared"
    balancer: str | None = None
    n_goals: int = 50
    episode_steps: int = 100
    updates: int = 1
    warm_up: int = 1_000
    batch_size: int | None = None
    buffer_size: int = 1_000_000
    lr: float = 1e-3
    gamma: float = 0.9
    tau: float = 0.005
    hidden: tuple[int, ...] = (128, 128)
    log_every: int = 1_000
    test_every: int = 10_000
    stop_at: float | None = 1.0

    @classmethod
    def example(cls) -> Self:
        small: dict[str, Any] = {"n_goals": 1, "episode_steps": 30, "hidden": (8,), "buffer_size": 200}
        return cls(steps=60, log_every=20, test_every=60, warm_up=20, batch_size=8, **small)

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        with one_thread():
            envs = self.environments(run.seed, self.episode_steps)
            model, curve = self.build(envs, run), SuccessCurve(list(envs.task_names))
            tests = self.environments(run.seed, 500)
            report = self.train(run, model, curve, envs=envs, tests=tests)
            return self.show(run, model, curve, report or self.test(model, tests))

    def environments(self, seed: int, episode_steps: int) -> MetaWorld:
        """The benchmark, with the same goals for training and tests."""
        from athena_multitask._meta_world import MetaWorld

        task = self.task if self.benchmark == "MT1" else None
        options: dict[str, Any] = {"task": task, "n_goals": self.n_goals, "max_episode_steps": episode_steps}
        try:
            return MetaWorld(self.benchmark, seed=seed, **options)
        except ValueError as error:
            raise AthenaError(" ".join(str(error).split())) from error

    def build(self, envs: MetaWorld, run: Run) -> MultiTaskSAC:
        """The algorithm, not yet trained."""
        from athena_multitask.sb3 import MetaWorldFeatures, MultiTaskSAC

        balancer = None
        if self.balancer is not None:
            balancer = Configured("balancer", self.balancer).create(seed=run.seed)
        options: dict[str, Any] = {"learning_rate": self.lr, "gamma": self.gamma, "tau": self.tau}
        options |= {"learning_starts": self.warm_up, "gradient_steps": self.updates}
        options |= {"buffer_size": min(self.buffer_size, self.steps), "batch_size": self.batch_size}
        options |= {"seed": run.seed, "device": run.device}
        policy: dict[str, Any] = {
            "net_arch": list(self.hidden),
            "features_extractor_class": MetaWorldFeatures,
        }
        try:
            return MultiTaskSAC(
                "MlpPolicy", envs, heads=self.heads, balancer=balancer, policy_kwargs=policy, **options
            )
        except ValueError as error:
            raise AthenaError(" ".join(str(error).split())) from error

    def train(
        self, run: Run, model: MultiTaskSAC, curve: SuccessCurve, *, envs: MetaWorld, tests: MetaWorld
    ) -> SuccessReport | None:
        """Train to the end or until the tests succeed; the last test, if this process made one."""
        report = None
        parts = {"model": model, "envs": envs, "curve": curve}
        total = -(-self.steps // self.log_every)
        for step in run.steps(total, unit="steps", units_per_step=self.log_every, **parts):
            if curve.steps and self.stop_at is not None and curve.success >= self.stop_at:
                break
            done = min(step * self.log_every, self.steps)
            model.learn(done - model.num_timesteps, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]
            metrics = training_metrics(model)
            if done % self.test_every == 0 or done == self.steps:
                report = self.test(model, tests)
                curve.note(done, report)
                metrics |= curve.last()
            run.log(done, **metrics)
        return report

    def test(self, model: MultiTaskSAC, tests: MetaWorld) -> SuccessReport:
        """All goals, once each, without noise."""
        policy = lambda obs: model.predict(obs, deterministic=True)[0]  # noqa: E731 (it is called once)
        return evaluate_success(policy, cast(Any, tests))

    def show(
        self, run: Run, model: MultiTaskSAC, curve: SuccessCurve, report: SuccessReport
    ) -> dict[str, float]:
        """Print, draw and write; the final metrics."""
        name = f"{self.benchmark} {self.task}" if self.benchmark == "MT1" else self.benchmark
        title = f"{name}, protocol {report.protocol}"
        run.print(table(report, title=title))
        curve.draw(run, title=title)
        if len(report.tasks) > 1:
            found = {name: Interval(task.success, task.low, task.high) for name, task in report.tasks.items()}
            run.figure("tasks", intervals(found, x_label="success", title=title))
        (run.dir / "evaluation.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        model.save(run.dir / "model.zip")
        solved = [
            steps for steps, row in zip(curve.steps, curve.successes, strict=True) if np.mean(row) > ABOVE
        ]
        tasks = {f"success/{name}": task.success for name, task in report.tasks.items()}
        final = {"success": report.success, "protocol": protocol_number(report.protocol), **tasks}
        return {**final, "steps": curve.steps[-1], **({"steps_to_95": solved[0]} if solved else {})}

    def _check(self) -> None:
        for name in (
            "steps",
            "n_goals",
            "episode_steps",
            "updates",
            "log_every",
            "test_every",
            "buffer_size",
        ):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}. Take more.")
        if self.test_every % self.log_every:
            raise AthenaError(
                f"`test_every` must be a multiple of `log_every`, {self.log_every}; got {self.test_every}. "
                f"Take {-(-self.test_every // self.log_every) * self.log_every}."
            )


@dataclass
class SuccessCurve:
    """The tests of a run: success and mean return of each task over steps.

    >>> SuccessCurve(["a", "b"]).success
    0.0
    """

    tasks: list[str]
    steps: list[int] = field(default_factory=list)
    successes: list[list[float]] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)

    @property
    def success(self) -> float:
        """Of the last test, the mean over the tasks; 0 before the first."""
        return float(np.mean(self.successes[-1])) if self.steps else 0.0

    def note(self, steps: int, report: SuccessReport) -> None:
        """Add a test."""
        self.steps.append(steps)
        self.successes.append([report.tasks[name].success for name in self.tasks])
        self.returns.append([report.tasks[name].mean_return for name in self.tasks])

    def last(self) -> dict[str, float]:
        """The last test as metrics."""
        metrics = {"success": self.success, "mean_return": float(np.mean(self.returns[-1]))}
        if len(self.tasks) == 1:
            return metrics
        return metrics | {
            f"{name}/success": s for name, s in zip(self.tasks, self.successes[-1], strict=True)
        }

    def draw(self, run: Run, *, title: str) -> None:
        """Pictures of both over steps: the mean, and each task where there are few."""
        levels = {"95 %": ABOVE}
        for name, rows, marks in (("success", self.successes, levels), ("return", self.returns, None)):
            values = np.array(rows)
            label = self.tasks[0] if len(self.tasks) == 1 else "mean of the tasks"
            lines: dict[str, Any] = {label: (self.steps, values.mean(1))}
            if 1 < len(self.tasks) <= LINES:
                lines |= {task: (self.steps, values[:, i]) for i, task in enumerate(self.tasks)}
            picture = learning_curves(lines, x_label="steps", y_label=name, title=title, levels=marks)
            run.figure(name, picture)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "successes": self.successes, "returns": self.returns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.successes, self.returns = (list(state[key]) for key in self.state_dict())


def training_metrics(model: MultiTaskSAC) -> dict[str, float]:
    """Losses and temperatures of the updates since the last call; with one task, of the last update."""
    from athena_multitask.sb3._multi_task_sac import METRICS

    by_task = model.task_metrics()
    if not by_task:
        values = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
        return {name: float(values[name]) for name in METRICS if name in values}
    return {f"{task}/{name}": value for task, row in by_task.items() for name, value in row.items()}


def protocol_number(protocol: str = PROTOCOL) -> int:
    """The number of the protocol by which success was counted.

    >>> protocol_number("athena-1")
    1
    """
    return int(protocol.rpartition("-")[2])


def table(report: SuccessReport, *, title: str) -> str:
    """Success by task, with intervals."""
    lines = [f"{title}: success {report.success:.3f} of {len(report.goals)} goals a task (95 % intervals)"]
    width = max(map(len, report.tasks))
    for name, task in report.tasks.items():
        lines.append(f"  {name:{width}}  {task.success:.3f} [{task.low:.3f}, {task.high:.3f}]")
    return "\n".join(lines)
