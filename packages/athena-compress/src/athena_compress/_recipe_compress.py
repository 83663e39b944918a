"""The recipe `compress`: train, prune, distil, quantize, and what each stage costs and gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn

from athena_compress._calibrate import calibrate
from athena_compress._chain import Chain
from athena_compress._named import build
from athena_compress._quantize import quantize
from athena_compress._report import report
from athena_compress._stages import DistilStage, PruneStage, QuantizationStage, Stage, TrainStage
from athena_compress._training import check_at_least
from athena_compress._workload import Start, begin
from athena_core import AthenaError, Configured, Recipe, Run, component


@dataclass(kw_only=True)
class Compress(Recipe):
    """Make a model smaller and faster in stages, and measure each: score, size, time and memory.

    The model is trained, or taken from a saved run; then units are pruned away step by step while it is
    trained on; the smaller model learns from the whole one; and it is quantized. A stage of 0 steps is
    left out. Each stage's model is saved in the run's folder, under ``stages``, where
    `athena_compress.load` reads it.

    Args:
        steps: of training the whole model; left out with ``model``.
        model: the folder of a saved run whose model is compressed, of the recipe `digits` or `lm` or any
            with `build`, `training_data`, `loss` and `evaluate`.
        task: without ``model``, the recipe whose model is trained.
        sparsity: share of the units of each kind that is pruned.
        what: kinds of units: channels, neurons, heads, or layers.
        importance: what says which units matter least, by name.
        prune_steps: steps of pruning and training on.
        distil_steps: steps of learning from the whole model.
        temperature: of the whole model's answers.
        alpha: weight of the whole model's answers, beside 1 - alpha of the labels.
        qat_steps: steps of training with int8's roundings in place.
        scheme: how the model is quantized at the end, by name; null leaves it in float.
        calibration_batches: batches whose ranges a static scheme sees, and whose sizes `wanda`.
        lr: AdamW's learning rate at the start of each stage; it falls to 0 along half a cosine.
        qat_lr: the same while roundings are in place.
        weight_decay: AdamW's.
    """

    steps: int = 400
    model: Path | None = None
    task: Configured = component("recipe", "digits")
    sparsity: float = 0.5
    what: tuple[str, ...] = ("channels", "neurons", "heads")
    importance: str = "magnitude"
    prune_steps: int = 300
    distil_steps: int = 300
    temperature: float = 4.0
    alpha: float = 0.7
    qat_steps: int = 0
    scheme: str | None = "int8-static"
    calibration_batches: int = 8
    lr: float = 3e-3
    qat_lr: float = 1e-4
    weight_decay: float = 0.01

    @classmethod
    def example(cls) -> Self:
        task = Configured("recipe", "digits", {"width": 4})
        return cls(task=task, steps=2, prune_steps=3, distil_steps=2, qat_steps=2, calibration_batches=1)

    def run(self, run: Run) -> Mapping[str, float]:
        self.check()
        start = begin(self.task, self.model, run.device)
        stages = self.stages(run, start)
        self.rehearse(stages, start)
        data = start.workload.training_data(run.seed)
        chain = Chain(run, start, stages)
        for step in run.steps(sum(stage.steps for stage in stages), chain=chain, data=data):
            batch = tuple(part.to(run.device) for part in data.draw())
            run.log(step, **chain.step(step, batch))
        model = chain.close()
        if self.scheme is not None and not self.qat_steps:
            model = self.quantized(model, start, run)
            chain.note(self.scheme, model)
        chain.show()
        run.print(str(report(model)))
        return chain.final()

    def check(self) -> None:
        """Raise AthenaError for an option outside its range."""
        names = ("steps", "prune_steps", "distil_steps", "qat_steps")
        check_at_least(0, **{name: getattr(self, name) for name in names})
        check_at_least(1, calibration_batches=self.calibration_batches)
        if not 0 <= self.sparsity < 1:
            raise AthenaError(f"`sparsity` must lie in [0, 1); got {self.sparsity}.")
        if self.model is None and self.steps == 0:
            raise AthenaError("`steps` must be at least 1 without a saved `model` to start from; got 0.")
        if self.qat_steps and self.scheme != "int8-static":
            raise AthenaError(f"`qat_steps` trains for `scheme` int8-static; got {self.scheme}. Set either.")

    def stages(self, run: Run, start: Start) -> list[Stage]:
        """The stages that take steps, in their order."""
        inputs = example_input(start, run.device)
        prune = {
            "sparsity": self.sparsity,
            "what": self.what,
            "importance": self.importance,
            "example_inputs": inputs,
            "batches": self.calibration(run, start),
        }
        distil = {"temperature": self.temperature, "alpha": self.alpha}
        planned = [
            (TrainStage, "dense", 0 if start.trained else self.steps, self.lr, {}),
            (PruneStage, "pruned", self.prune_steps if self.sparsity else 0, self.lr, prune),
            (DistilStage, "distilled", self.distil_steps, self.lr, distil),
            (QuantizationStage, "int8-static", self.qat_steps, self.qat_lr, {"example_inputs": inputs}),
        ]
        return [
            kind(name, steps, run, start.workload, lr, self.weight_decay, options)
            for kind, name, steps, lr, options in planned
            if steps
        ]

    def calibration(self, run: Run, start: Start) -> list[tuple[torch.Tensor, ...]]:
        """Training batches in an order of their own, without their targets."""
        data = start.workload.training_data(run.seed + 1)
        drawn = [data.draw()[:-1] for _ in range(self.calibration_batches)]
        return [tuple(part.to(run.device) for part in inputs) for inputs in drawn]

    def quantized(self, model: nn.Module, start: Start, run: Run) -> nn.Module:
        """The model by the scheme, calibrated where that needs it."""
        assert self.scheme is not None
        with refusals():
            return quantize(calibrate(model, self.calibration(run, start)), self.scheme)

    def rehearse(self, stages: list[Stage], start: Start) -> None:
        """Begin the stages on copies of the model: what they refuse is known before anything is trained."""
        if self.scheme is not None:
            build("quantization-scheme", self.scheme)
        with refusals():
            for stage in stages:
                stage.begin(copy.deepcopy(start.model), copy.deepcopy(start.model))


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a method refuses into the one line that the command line shows."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise AthenaError(" ".join(str(error).split())) from error


def example_input(start: Start, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Two rows of what the workload trains on, without their targets."""
    return tuple(part[:2].to(device) for part in start.workload.training_data(0).draw()[:-1])
