"""The recipe `multitask-digits`: class, parity and magnitude of digits, by every balancer and weighting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_multitask._balance import Balanced
from athena_multitask._diagnostic_pictures import plot_conflicts, plot_cosines
from athena_multitask._diagnostics import TaskHistory
from athena_multitask._recipe_digits_data import (
    CLASSIFICATION,
    TASKS,
    Examples,
    digits_losses,
    digits_model,
    digits_scores,
    read_digits,
)
from athena_multitask._recipe_digits_results import (
    ALONE,
    RELATIVE,
    results_csv,
    results_table,
    scores_figure,
    summarised,
)
from athena_multitask._recipe_methods import Method, method_names

MOST = 1_000  # images in a batch, of 1,198 to train on


class Training:
    """One model in training on some of the tasks by one method.

    Args:
        method: a name.
        tasks: to train on.
        width: of the shared layers.
        seed: of the initial weights, and of what the method draws.
        lr: of Adam.
        device: of the model.

    >>> training = Training("pcgrad", TASKS, width=8, seed=0, lr=1e-3, device=torch.device("cpu"))
    >>> training.step(Examples(torch.zeros(2, 64), torch.tensor([3, 8]))).tasks
    ('class', 'parity', 'magnitude')
    """

    def __init__(
        self, method: str, tasks: Sequence[str], *, width: int, seed: int, lr: float, device: torch.device
    ) -> None:
        self.tasks = tasks
        self.model = digits_model(width, seed).to(device)
        shared = self.model.shared_parameters()
        last = self.model.encoder[2].parameters()  # type: ignore[index]
        self.method = Method(
            method,
            tasks,
            shared=last if method == "gradnorm" else shared,
            classification=[name for name in tasks if name in CLASSIFICATION],
            seed=seed,
        )
        parameters = [*self.model.parameters(), *self.method.parameters]
        self.optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)

    def step(self, batch: Examples) -> Balanced | None:
        """One step on a batch; what a balancer found."""
        self.optimizer.zero_grad()
        balanced = self.method.backward(self.losses(batch))
        self.optimizer.step()
        if self.method.needs_update:
            with torch.no_grad():
                self.method.update(self.losses(batch))
        return balanced

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        """The tasks' losses of a batch."""
        return digits_losses(self.model(batch.images, tasks=self.tasks), batch)

    @torch.no_grad()
    def scores(self, examples: Examples) -> dict[str, float]:
        """The tasks' scores."""
        return digits_scores(self.model(examples.images, tasks=self.tasks), examples)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and method."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "method": self.method}


class Trainings:
    """All trainings of all seeds, step by step: those of a seed see the same batches and initial weights."""

    def __init__(self, recipe: MultitaskDigits, methods: Sequence[str], run: Run) -> None:
        self.recipe, self.methods = recipe, methods
        self.seeds = [recipe.repeats * run.seed + number for number in range(recipe.repeats)]
        self.data = {seed: read_digits(seed, run.device) for seed in self.seeds}
        self.steps_an_epoch = len(self.data[self.seeds[0]][0].digits) // recipe.batch_size
        chosen: dict[str, tuple[str, Sequence[str]]] = {
            f"{ALONE} {task}": ("static", [task]) for task in TASKS
        }
        chosen |= {name: (name, TASKS) for name in methods}
        self.trainings = {
            (label, seed): Training(
                name, tasks, width=recipe.width, seed=seed, lr=recipe.lr, device=run.device
            )
            for label, (name, tasks) in chosen.items()
            for seed in self.seeds
        }
        self.balancers = [
            name
            for name in methods
            if not isinstance(self.trainings[name, self.seeds[0]].method.part, torch.nn.Module)
        ]
        self.history = TaskHistory(TASKS)

    def step(self, step: int) -> None:
        """Step number ``step``, from 1, of all."""
        epoch, batch = divmod(step - 1, self.steps_an_epoch)
        batches = {seed: self.batch(seed, epoch, batch) for seed in self.seeds}
        for (label, seed), training in self.trainings.items():
            balanced = training.step(batches[seed])
            if batch == self.steps_an_epoch - 1:
                training.method.end_epoch()
            if self.balancers[:1] == [label] and seed == self.seeds[0]:
                self.history.record(step, balanced=balanced)

    def batch(self, seed: int, epoch: int, number: int) -> Examples:
        """A batch of an epoch, in an order that seed and epoch draw."""
        examples = self.data[seed][0]
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(examples.digits), generator=generator)
        size = self.recipe.batch_size
        return examples.take(order[number * size : (number + 1) * size].to(examples.digits.device))

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """By method, held-out scores ``(seeds, tasks)``; first, of each task trained alone."""

        def score(label: str, seed: int, task: str) -> float:
            return self.trainings[label, seed].scores(self.data[seed][1])[task]

        labels: dict[str, list[str]] = {ALONE: [f"{ALONE} {task}" for task in TASKS]}
        labels |= {name: [name] * len(TASKS) for name in self.methods}
        return {
            name: np.array(
                [
                    [score(label, seed, task) for label, task in zip(own, TASKS, strict=True)]
                    for seed in self.seeds
                ]
            )
            for name, own in labels.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """All that steps change."""
        trainings = [training.state_dict() for training in self.trainings.values()]
        return {"trainings": trainings, "history": self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for training, own in zip(self.trainings.values(), state["trainings"], strict=True):
            training.load_state_dict(own)
        self.history.load_state_dict(state["history"])


@dataclass(kw_only=True)
class MultitaskDigits(Recipe):
    """Train one small network on three tasks of digits by every balancer and weighting, and compare.

    The tasks are the digit (ten classes), whether it is odd, and the digit as a number, whose squared error
    is far larger at first than the two cross-entropies. Beside the methods, each task is trained alone, by a
    network of the same size. The *relative change* is the mean over the tasks of how much better a score is
    than alone.

    All repeats are in one run, as their intervals need them together. Each has a split of the images,
    initial weights and batches of its own, the same for all methods, so methods can be compared in pairs;
    every score is in ``results.csv``. No method is tuned: all have the same learning rate and their own
    defaults. GradNorm compares gradients of the last shared layer.

    Args:
        steps: of each training.
        methods: names of balancers and weightings; none: all that are registered. ``static`` is the plain
            sum.
        repeats: seeds, at least 2.
        batch_size: images.
        width: of both shared layers.
        lr: of Adam.
        log_every: steps between two lines of the log, mean held-out scores of all methods.

    Source: the tasks are ours; the relative change is of Maninis et al. 2019, arXiv:1904.08918.

    >>> MultitaskDigits(methods=("pcgrad", "static")).repeats
    10
    """

    steps: int = 360
    methods: tuple[str, ...] = ()
    repeats: int = 10
    batch_size: int = 64
    width: int = 64
    lr: float = 1e-3
    log_every: int = 90

    @classmethod
    def example(cls) -> Self:
        return cls(steps=4, methods=("pcgrad", "famo"), repeats=2, width=8, log_every=2)

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        methods = method_names(self.methods)
        with one_thread():
            trainings = Trainings(self, methods, run)
            for step in run.steps(self.steps, trainings=trainings):
                trainings.step(step)
                if step % self.log_every == 0 or step == self.steps:
                    run.log(step, **flat(trainings.scores()))
            return self.show(run, trainings)

    def check(self) -> None:
        """Raises AthenaError for options out of their range."""
        least = {"steps": 1, "repeats": 2, "batch_size": 1, "width": 1, "log_every": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise AthenaError(
                    f"`{name}` must be at least {bound}; got {getattr(self, name)}. Leave it at its default."
                )
        if not self.lr > 0 or self.batch_size > MOST:
            raise AthenaError(
                f"`lr` must be above 0, `batch_size` at most {MOST}; got {self.lr} and {self.batch_size}. "
                "Leave them at their defaults."
            )

    def show(self, run: Run, trainings: Trainings) -> dict[str, float]:
        """Print, draw, write; the final metrics."""
        scores = trainings.scores()
        results = summarised(scores)
        run.print(results_table(results, seeds=self.repeats))
        (run.dir / "results.csv").write_text(results_csv(scores, trainings.seeds), encoding="utf-8")
        run.figure("scores", scores_figure(results, seeds=self.repeats))
        if trainings.balancers:
            title = f"{trainings.balancers[0]}, seed {trainings.seeds[0]}"
            run.figure("cosines", plot_cosines(trainings.history, title=title))
            run.figure("conflicts", plot_conflicts(trainings.history, title=title))
        final = {f"{name}_relative_change": row[RELATIVE].estimate for name, row in results.items()}
        return flat(scores) | final


def flat(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over seeds by method and task.

    >>> flat({"static": np.ones((2, 3))})
    {'static_class': 1.0, 'static_parity': 1.0, 'static_magnitude': 1.0}
    """
    return {
        f"{name}_{task}": float(mean)
        for name, values in scores.items()
        for task, mean in zip(TASKS, values.mean(0), strict=True)
    }
