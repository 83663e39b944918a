"""The recipe `optimizers`: which optimizer keeps its accuracy as batches grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from athena_core import AthenaError, Configured, Recipe, Run, component, load
from athena_optim._groups import param_groups
from athena_optim._recipe_data import Split, read_labelled, split_labelled
from athena_optim._recipe_results import (
    accuracy_figure,
    choose,
    differences,
    loss_figure,
    summary,
    table,
)
from athena_optim._recipe_search import (
    Order,
    Search,
    Setting,
    Training,
    build_optimizer,
    check_places,
    created,
    is_wrapper,
    mixed,
    names_in,
    network,
)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """So many threads inside an op on the CPU, within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(kw_only=True)
class Optimizers(Recipe):
    """Train one small network with several optimizers at several batch sizes, and compare accuracies.

    Every optimizer gets the same learning rates to choose from, the same initial weights, the same
    order of examples, and at every batch size the same number of epochs, so larger batches take
    fewer steps. The rate is chosen by the accuracy on a validation part, over all repeats, anew for each
    optimizer and batch size; what is shown is the accuracy on a test part that chose nothing. An asterisk
    marks a choice at an end of the grid, where a wider one may have found better. A training that diverges
    ends nothing: it loses.

    All repeats are in one run, since the choice and the intervals need them together. They share one
    split of the examples, which ``--seed`` draws: intervals speak of other initial weights and orders.
    ``--seeds`` does the whole again on other splits.

    Args:
        steps: with the smallest batches; larger ones see as many examples.
        data: ``digits`` (needs scikit-learn), ``spirals``, or a file: an ``.npz`` with ``features`` and
            ``labels``, or a ``.csv`` whose first line names the columns, one of them ``label``.
        optimizers: names, such as ``adamw``, or ``lookahead(adamw)`` for one inside a wrapper.
        batch_sizes: at most as many as there are examples to train on.
        learning_rates: the grid.
        repeats: trainings of each setting, each with initial weights and an order of its own.
        evaluations: points of a loss curve.
        width: units of both hidden layers.
        threads: of the CPU; at the default width, waiting for a second one costs more than it does.
        weight_decay: of matrices; null leaves it to each optimizer.
        options: by name of an optimizer or wrapper, what differs from its defaults. Muon's makes one rate
            fit its matrices and the rest.
        schedule: of the learning rate, once a step.
        schedules: by name of an optimizer, the schedule of those that need another; it gets the
            ``warmup_steps`` of ``schedule``.
    """

    steps: int = 320
    data: Literal["digits", "spirals"] | Path = "digits"
    optimizers: tuple[str, ...] = ("adamw", "lamb", "lion", "muon", "schedule-free-adamw")
    batch_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    repeats: int = 5
    evaluations: int = 10
    width: int = 64
    threads: int = 1
    weight_decay: float | None = 0.01
    options: dict[str, dict[str, bool | int | float | str]] = field(
        default_factory=lambda: {"muon": {"adjust_lr": "match_rms_adamw"}}
    )
    schedule: Configured = component(
        "schedule", "warmup-cosine", given=("total_steps",), warmup_steps=0.1, min_ratio=0.0
    )
    schedules: dict[str, str] = field(default_factory=lambda: {"schedule-free-adamw": "warmup-constant"})

    @classmethod
    def example(cls) -> Self:
        return cls(
            steps=4,
            data="spirals",
            optimizers=("adamw",),
            batch_sizes=(8, 16),
            learning_rates=(1e-3, 1e-2),
            repeats=2,
            evaluations=2,
            width=8,
        )

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        split = split_labelled(read_labelled(self.data), seed=run.seed, device=run.device)
        self.check_against(split)
        settings = [
            Setting(optimizer, batch, lr, repeat)
            for repeat, batch, lr, optimizer in product(
                range(self.repeats), sorted(self.batch_sizes), self.learning_rates, self.optimizers
            )
        ]
        epochs = self.steps * min(self.batch_sizes) / len(split.train.labels)
        run.print(
            f"{len(settings):,} trainings of {epochs:.3g} epochs; examples to train on, to choose by, to "
            f"report: {', '.join(f'{len(part.labels):,}' for part in split[:3])}"
        )
        begin = partial(self.begin, split=split, seed=run.seed)
        search = Search(settings, begin=begin, rounds=self.evaluations)
        with cpu_threads(self.threads):
            for step in run.steps(len(settings) * self.evaluations, unit="evaluations", search=search):
                setting, row = search.advance(step)
                index = self.optimizers.index(setting.optimizer)
                run.log(step, **row, **{**setting._asdict(), "optimizer": index})
        return self.show(run, epochs)

    def show(self, run: Run, epochs: float) -> dict[str, float]:
        """Print and draw what the log of a finished search holds; returns the final metrics."""
        found = choose(run.dir / "metrics.jsonl", self.optimizers)
        run.print(
            f"test accuracy, and the learning rate that validation chose (* at an end):\n{table(found)}"
        )
        if self.repeats > 1 and len(found) > 1:
            run.print(differences(found))
        run.figure("accuracy", accuracy_figure(found))
        for batch in sorted({min(self.batch_sizes), max(self.batch_sizes)}):
            run.figure(f"loss_batch_{batch}", loss_figure(found, batch=batch, epochs=epochs))
        return summary(found)

    def begin(self, setting: Setting, *, split: Split, seed: int) -> Training:
        """What a setting starts from: the same weights and order for all settings of a repeat."""
        train = split.train
        seed = mixed(seed, setting.repeat)
        model = network(train.features.shape[1], split.classes, width=self.width, seed=seed)
        model.to(train.features.device)
        groups = self.groups(model, setting.lr)
        optimizer = build_optimizer(setting.optimizer, groups, lr=setting.lr, options=self.options)
        steps = self.steps_at(setting.batch)
        return Training(
            setting,
            split,
            model=model,
            optimizer=optimizer,
            schedule=self.build_schedule(setting.optimizer, optimizer, steps),
            order=Order(len(train.labels), seed=seed),
            steps=steps,
            rounds=self.evaluations,
        )

    def groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """The parameters of any optimizer: one rate for all, also where it has several, as Muon does."""
        return [{**group, "lr": lr} for group in param_groups(model, weight_decay=self.weight_decay)]

    def steps_at(self, batch: int) -> int:
        """Steps that see as many examples as ``steps`` of the smallest batches."""
        return self.steps * min(self.batch_sizes) // batch

    def build_schedule(self, text: str, optimizer: Optimizer, steps: int) -> LRScheduler:
        """The schedule of an optimizer: its own, or that of all."""
        own = self.schedules.get(names_in(text)[-1])
        if own is None:
            return created(self.schedule, optimizer, total_steps=steps)
        warmup = self.schedule.options.get("warmup_steps", 0)
        part = Configured("schedule", own)
        return created(part, optimizer, total_steps=steps, warmup_steps=warmup)

    def check(self) -> None:
        """Raise AthenaError for an option outside its range, before anything is trained."""
        for name in ("optimizers", "batch_sizes", "learning_rates"):
            values = getattr(self, name)
            if not values:
                raise AthenaError(f"`{name}` must hold at least one; got none.")
            if doubled := [value for value, count in Counter(values).items() if count > 1]:
                raise AthenaError(f"`{name}` must hold each value once; got {doubled[0]} twice.")
        for name in ("repeats", "evaluations", "width", "threads"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if min(self.batch_sizes) < 1:
            raise AthenaError(f"`batch_sizes` must be at least 1; got {min(self.batch_sizes)}.")
        largest = max(self.batch_sizes)
        if self.steps_at(largest) < self.evaluations:
            raise AthenaError(
                f"`steps` must leave batches of {largest} a step for each of {self.evaluations} evaluations; "
                f"{self.steps} leave {self.steps_at(largest)}. Raise it, or lower `evaluations`."
            )
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise AthenaError(f"`weight_decay` must be at least 0; got {self.weight_decay}.")
        for optimizer, schedule in self.schedules.items():
            if is_wrapper(optimizer):
                raise AthenaError(
                    f"`schedules` must name optimizers; `{optimizer}` is a wrapper. Name what is inside it."
                )
            load("optimizer", optimizer)
            load("schedule", schedule)
        self.check_parts()

    def check_parts(self) -> None:
        """Raise AthenaError for a name or an option of a part that is refused."""
        for name, options in self.options.items():
            load("optimizer-wrapper" if is_wrapper(name) else "optimizer", name)
            if "lr" in options:
                raise AthenaError(
                    f"`options`: {name}'s `lr` comes from `learning_rates`; leave it out there."
                )
        for text in self.optimizers:
            check_places(text)
        for text, lr, batch in product(self.optimizers, self.learning_rates, self.batch_sizes):
            model = network(2, 2, width=2, seed=0)
            optimizer = build_optimizer(text, self.groups(model, lr), lr=lr, options=self.options)
            self.build_schedule(text, optimizer, self.steps_at(batch))

    def check_against(self, split: Split) -> None:
        """Raise AthenaError for batches larger than the training part."""
        count = len(split.train.labels)
        if max(self.batch_sizes) > count:
            raise AthenaError(
                f"`batch_sizes` must be at most {count}, the examples to train on; got "
                f"{max(self.batch_sizes)}."
            )
