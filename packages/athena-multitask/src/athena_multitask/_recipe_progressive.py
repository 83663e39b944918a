"""The recipe `progressive`: tasks one after another, by networks that grow and by those they compete with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_core.figures import learning_curves
from athena_multitask._continual_results import ContinualResults, heat_maps, plot_accuracies
from athena_multitask._perturbation_sensitivity import Predict, average_perturbation_sensitivity
from athena_multitask._recipe_progressive_learners import Learner, Progressive, learners
from athena_multitask._recipe_progressive_tasks import CLASSES, DigitTask, digit_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(kw_only=True)
class ProgressiveRecipe(Recipe):
    """Learn images of ten classes in several guises, one task after another, and see what is left of each.

    Progressive networks, fine-tuning, EWC, frozen features, and a network a task without any transfer see the
    same batches. All have two hidden layers and a head a task, are told the task in tests, and begin each
    task with a new Adam. After each task all learned so far are tested.

    The images are scikit-learn's 1,797 digits of 8 x 8 pixels as they are, rotated by a quarter, with their
    pixels permuted, inverted; and made-up characters, drawn by rule. 597 images of each are for tests.

    Args:
        steps: of each task.
        tasks: their order.
        width: of hidden layers, of each column too.
        batch: images a step.
        lr: of Adam.
        ewc_strength: lambda of EWC.
        log_every: steps.

    Source: Rusu et al. 2016, arXiv:1606.04671, its baselines and transfer analysis, on images for games.

    >>> ProgressiveRecipe(width=32).tasks
    ('digits', 'glyphs', 'rotated', 'permuted')
    """

    steps: int = 500
    tasks: tuple[str, ...] = ("digits", "glyphs", "rotated", "permuted")
    width: int = 64
    batch: int = 32
    lr: float = 1e-3
    ewc_strength: float = 100.0
    log_every: int = 50

    @classmethod
    def example(cls) -> Self:
        return cls(steps=3, tasks=("digits", "rotated"), width=8, log_every=1)

    def run(self, run: Run) -> Mapping[str, float]:
        for name in ("steps", "width", "batch", "log_every"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("lr", "ewc_strength"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AthenaError(f"`{name}` must be finite and at least 0; got {getattr(self, name)}.")
        with one_thread():
            tasks = digit_tasks(self.tasks, seed=run.seed, device=run.device)
            methods = learners(
                self.tasks, width=self.width, lr=self.lr, ewc_strength=self.ewc_strength, device=run.device
            )
            results = {name: ContinualResults(self.tasks) for name in methods}
            self.train(run, tasks, methods, results)
            return self.show(run, tasks, methods, results)

    def train(
        self,
        run: Run,
        tasks: list[DigitTask],
        methods: dict[str, Learner],
        results: dict[str, ContinualResults],
    ) -> None:
        """All methods side by side, so that a run has one count of steps."""
        parts: dict[str, Any] = {f"{name}, accuracies": result for name, result in results.items()}
        parts |= methods
        for step in run.steps(self.steps * len(tasks), **parts):
            number, done = divmod(step - 1, self.steps)
            task = tasks[number]
            rows = np.random.default_rng([run.seed, step]).integers(len(task.x), size=self.batch)
            x, y = task.x[rows], task.y[rows]
            losses = {}
            for name, learner in methods.items():
                if done == 0:
                    learner.begin(number)
                losses[f"{name} loss"] = learner.step(x, y)
                if done == self.steps - 1:
                    learner.end(task.x)
                    results[name].record(task.name, tested(learner, tasks[: number + 1]))
            if step % self.log_every == 0 or done == self.steps - 1:
                run.log(step, **losses)

    def show(
        self,
        run: Run,
        tasks: list[DigitTask],
        methods: dict[str, Learner],
        results: dict[str, ContinualResults],
    ) -> dict[str, float]:
        """Print, draw; the final metrics."""
        title = f"{self.steps:,} steps a task"
        run.print(table(results))
        run.figure("accuracies", plot_accuracies(results, title=title))
        run.figure("first_task", first_task(results, title))
        progressive = methods["progressive"]
        assert isinstance(progressive, Progressive)
        if len(tasks) > 1:
            self.show_transfer(run, tasks, progressive)
        return {
            f"{name.replace(' ', '_')}_{metric}": value
            for name, result in results.items()
            for metric, value in summary(result).items()
        }

    def show_transfer(self, run: Run, tasks: list[DigitTask], learner: Progressive) -> None:
        """Draw on which columns each task's predictions rely."""
        matrices: dict[str, NDArray[np.float64]] = {}
        for number, task in enumerate(tasks[1:], start=1):

            def above_chance(predict: Predict, task: DigitTask = task) -> float:
                right = int((predict(task.x_test).argmax(1) == task.y_test).sum())
                return max(right / len(task.y_test) - 1 / CLASSES, 1e-6)

            found = average_perturbation_sensitivity(learner.model, above_chance, column=number, steps=12)
            shares = np.full((len(found.sensitivity), len(tasks)), np.nan)
            shares[:, : number + 1] = found.sensitivity.numpy()
            matrices[task.name] = shares
        picture = heat_maps(
            matrices,
            rows=[f"layer {row + 1}" for row in range(len(matrices[tasks[1].name]))],
            columns=self.tasks,
            labels=("", "column of", "perturbation sensitivity"),
            title="on which columns each task relies",
        )
        run.figure("transfer", picture)


def tested(learner: Learner, tasks: list[DigitTask]) -> dict[str, float]:
    """Accuracies by task."""
    return {
        task.name: learner.accuracy(task.x_test, task.y_test, number) for number, task in enumerate(tasks)
    }


def first_task(results: Mapping[str, ContinualResults], title: str) -> Figure:
    """Draw what is left of the first task: of methods that cannot forget, progressive networks alone."""
    task = results["progressive"].tasks[0]
    learned = np.arange(1, len(results["progressive"].tasks) + 1)
    curves = {
        name: (learned, results[name].accuracies[:, 0]) for name in ("progressive", "fine-tuning", "EWC")
    }
    figure = learning_curves(curves, x_label="tasks learned", y_label=f"accuracy on {task}", title=title)
    figure.axes[0].set_xticks(learned)
    return figure


def summary(result: ContinualResults) -> dict[str, float]:
    """The metrics, and the mean accuracy on each task when it had just been learned.

    >>> result = ContinualResults(["pens"])
    >>> result.record("pens", {"pens": 0.9})
    >>> summary(result)
    {'average_accuracy': 0.9, 'learned_accuracy': 0.9}
    """
    return result.metrics() | {"learned_accuracy": float(result.accuracies.diagonal().mean())}


def table(results: Mapping[str, ContinualResults]) -> str:
    """Metrics of each method.

    >>> result = ContinualResults(["pens", "cups"])
    >>> result.record("pens", {"pens": 0.9})
    >>> result.record("cups", {"pens": 0.6, "cups": 0.8})
    >>> print(table({"plain": result}))
    accuracy on 2 tasks   when learned   at the end   forgetting
      plain                    0.850        0.700        0.300
    """
    count = len(next(iter(results.values())).tasks)
    lines = [f"accuracy on {count} tasks   when learned   at the end   forgetting"]
    for name, result in results.items():
        found = summary(result)
        lines.append(
            f"  {name:<20}{found['learned_accuracy']:>10.3f}   {found['average_accuracy']:>10.3f}   "
            f"{found.get('forgetting', 0.0):>10.3f}"
        )
    return "\n".join(lines)
