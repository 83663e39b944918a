"""What the benchmarks of accuracy share: the digits in folds, a small ConvNet and ViT, and their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from athena_core.stats import Interval, bootstrap_interval

FOLDS = 5
BATCH = 64

Job = TypeVar("Job")
Result = TypeVar("Result")
Loss = Callable[[Tensor, Tensor], Tensor]


class Split(NamedTuple):
    """Images ``(count, 1, 8, 8)`` and their labels, to train on and to test on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def split(fold: int) -> Split:
    """One of 5 folds of scikit-learn's 1,797 digits as the test set, always the same, in [-1, 1]."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(digits.data, digits.target)
    train, test = map(torch.from_numpy, [*folds][fold])
    return Split(images[train], labels[train], images[test], labels[test])


def conv_net(widths: tuple[int, int, int] = (16, 32, 64)) -> nn.Module:
    """Three convolutions of 3x3, each with batch norm and ReLU, pooled to 4x4, 2x2 and one place."""
    layers: list[nn.Module] = []
    for channels, width in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1], 10))


class ViT(nn.Module):
    """A vision transformer: patches of 2x2, so 16 tokens, blocks of torch's own, the mean of all tokens."""

    def __init__(self, width: int = 64, *, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def batches(images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once an epoch, in an order drawn anew, the remainder of an epoch left out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield images[chosen], labels[chosen]


def train(
    model: nn.Module,
    data: Split,
    *,
    epochs: int,
    rate: float,
    seed: int,
    loss: Loss | None = None,
    hook: Callable[[torch.optim.Optimizer], Callable[[], Any]] | None = None,
) -> nn.Module:
    """Train with AdamW, its rate on a half cosine down to 0, and return the model in evaluation mode.

    Args:
        loss: of a batch's images and labels; None: the cross-entropy of the model's output.
        hook: given the optimizer, what to call after each of its steps.
    """
    steps = epochs * (len(data.images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    after = hook(optimizer) if hook else None
    model.train()
    for images, labels in batches(data.images, data.labels, epochs=epochs, seed=seed):
        optimizer.zero_grad()
        (F.cross_entropy(model(images), labels) if loss is None else loss(images, labels)).backward()
        optimizer.step()
        schedule.step()
        if after:
            after()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    """Percent of the test images that get their label."""
    return 100 * (model(data.test_images).argmax(1) == data.test_labels).double().mean().item()


def in_processes(task: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
    """``task`` of each job, in as many processes of one thread as there are threads; in the jobs' order."""
    count = torch.get_num_threads()
    with ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(task, jobs))


def interval(scores: Any) -> tuple[Interval, float]:
    """The mean of scores ``(seeds, folds)``, with its 95 % interval, and the upper end of a second one.

    The first resamples seeds within each fold, so it speaks of new seeds on these images; with few seeds it
    is a little short. The second resamples all scores at once, as if folds were drawn too.
    """
    import numpy as np

    scores = np.asarray(scores)
    stratified = bootstrap_interval(scores, rng=0, statistic=np.mean)
    return stratified, bootstrap_interval(scores.reshape(-1), rng=0, statistic=np.mean).high


def beside_bar(case: str, *, ours: float, bar: float, unit: str, met: bool, **also: Any) -> dict[str, Any]:
    """A row of a table whose values may be 0 or below, so that a ratio would say nothing."""
    return {"case": case, "ours": ours, "peers": {"bar": bar}, "met": met, "unit": unit, **also}
