"""The stages of the recipe `compress`: each takes a model, changes it step by step, and gives it on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from athena_compress._distiller import Distiller
from athena_compress._pruner import Pruner
from athena_compress._qat import QAT
from athena_compress._sparsity_schedule_cubic import CubicSchedule
from athena_compress._training import Training
from athena_compress._workload import Batch, Workload, autocast_dtype
from athena_core import Run, backend


@dataclass
class Stage(ABC):
    """Some steps that change a model.

    Args:
        name: of the model that comes out.
        steps: how many.
        run: the run that it is a part of.
        workload: what says what is learned.
        lr, weight_decay: of AdamW.
        options: of the stage's own method.
    """

    name: str
    steps: int
    run: Run
    workload: Workload
    lr: float
    weight_decay: float
    options: dict[str, Any] = field(default_factory=dict)

    def begin(self, model: nn.Module, teacher: nn.Module | None) -> None:
        """Take the model; ``teacher`` is the one that was trained whole."""
        self.model, self.teacher = model.train(), teacher
        self.prepare()

    def prepare(self) -> None:
        self.training = Training(self.model, lr=self.lr, weight_decay=self.weight_decay, steps=self.steps)

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What this stage makes small, and what is logged beside it."""

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch; returns what is to be logged."""
        with backend(self.run.device).autocast(autocast_dtype(self.workload)):
            loss, metrics = self.loss(batch)
        self.training.step(self.run, step, loss)
        return {"loss": loss.detach(), **metrics}

    def end(self) -> nn.Module:
        """The model that goes on."""
        return self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "training": self.training.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.training.load_state_dict(state["training"])


class TrainStage(Stage):
    """The model is trained whole."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.workload.loss(self.model, batch)


class PruneStage(TrainStage):
    """Units are removed along a cubic schedule over the first two thirds, and the rest is trained on.

    An importance that needs inputs of layers is shown those of ``batches``, before anything is removed.
    """

    def prepare(self) -> None:
        super().prepare()
        options = dict(self.options)
        batches = options.pop("batches")
        rising = max(1, self.steps * 2 // 3)
        schedule = CubicSchedule(options.pop("sparsity"), steps=rising, every=max(1, rising // 10))
        self.pruner = Pruner(self.model, schedule=schedule, optimizer=self.training.optimizer, **options)
        if self.pruner.importance.needs_inputs:
            self.pruner.calibrate(batches)

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        metrics = super().step(step, batch)
        self.pruner.step()
        return metrics

    def end(self) -> nn.Module:
        self.pruner.finish()
        return super().end()

    def state_dict(self) -> dict[str, Any]:
        return {"pruner": self.pruner.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pruner.load_state_dict(state["pruner"])  # first: it gives the model its shapes
        super().load_state_dict(state)


class DistilStage(Stage):
    """The pruned model learns from the one that was trained whole."""

    def prepare(self) -> None:
        super().prepare()
        self.distiller = Distiller(self.teacher, self.model, **self.options)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        *inputs, targets = batch
        losses = self.distiller.loss(tuple(inputs), targets)
        agree = F.cross_entropy(losses.output.detach().flatten(0, -2).float(), targets.flatten())
        return losses.total, {"cross_entropy": agree}


class QuantizationStage(TrainStage):
    """The model is trained on with the roundings of int8 in place."""

    def prepare(self) -> None:
        self.model = QAT(self.model, **self.options).train()
        super().prepare()

    def end(self) -> nn.Module:
        assert isinstance(self.model, QAT)
        return self.model.convert()
