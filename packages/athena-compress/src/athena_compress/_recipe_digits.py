"""The recipe `digits`: a small convolutional network for scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_compress._digits import Batches, ConvNet, read_digits
from athena_compress._modes import evaluating
from athena_compress._training import Training, check_at_least
from athena_core import Recipe, Run


@dataclass(kw_only=True)
class DigitsNet(Recipe):
    """Train a small convolutional network on scikit-learn's 1,797 images of digits; a fifth is held out.

    The split is always the same. It is a workload of the recipe `compress`, and its saved runs can be
    compressed.

    Args:
        steps: training steps.
        batch: images a step.
        width: channels after the first convolution; later ones have twice and four times as many.
        lr: AdamW's learning rate at the start; it falls to 0 along half a cosine.
        weight_decay: AdamW's.
    """

    steps: int = 400
    batch: int = 64
    width: int = 16
    lr: float = 3e-3
    weight_decay: float = 0.01

    @classmethod
    def example(cls) -> Self:
        return cls(steps=4, width=2)

    def run(self, run: Run) -> Mapping[str, float]:
        check_at_least(1, steps=self.steps)
        model, data = self.build().to(run.device), self.training_data(run.seed)
        training = Training(model, lr=self.lr, weight_decay=self.weight_decay, steps=self.steps)
        for step in run.steps(self.steps, model=model, training=training, data=data):
            batch = tuple(part.to(run.device) for part in data.draw())
            loss, metrics = self.loss(model, batch)
            training.step(run, step, loss)
            run.log(step, loss=loss.detach(), **metrics)
        final, held = self.evaluate(model), len(read_digits()[1].labels)
        run.print(f"accuracy on {held} images held out: {100 * final['accuracy']:.2f} %")
        return final

    def build(self) -> nn.Module:
        """The network, not yet trained."""
        check_at_least(1, width=self.width, batch=self.batch)
        return ConvNet(self.width)

    def training_data(self, seed: int) -> Batches:
        """Batches of images and classes."""
        return Batches(read_digits()[0], batch=self.batch, seed=seed)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the share of right answers."""
        images, labels = batch
        logits = model(images)
        return F.cross_entropy(logits, labels), {"accuracy": (logits.argmax(1) == labels).float().mean()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The share of right answers on the images held out."""
        _, held = read_digits()
        device = next((one.device for one in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        with evaluating(model), torch.no_grad():
            right = model(held.images.to(device)).argmax(1).cpu() == held.labels
        return {"accuracy": right.float().mean().item()}
