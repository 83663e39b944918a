"""A balanced training step of 8 tasks, beside that of TorchJD: time and memory.

A shared encoder 64-256-256-256 with heads 256-1, batches of 256: forward pass, differentiation, method, and
gradients written. The bar of the time is 1.3 times as fast as TorchJD. Memory is the peak of one step above
what was there before it, against the plain step and one matrix of gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchjd.aggregation as theirs
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchjd.autojac import jac_to_grad, mtl_backward

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_multitask import MGDA, AlignedMTL, GradDrop, PCGrad, balance

BATCH = 256


class Model(nn.Module):
    """The model of the table, with a batch of its own."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        sizes = (64, 256, 256, 256)
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.encoder = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(256, 1) for _ in range(tasks))
        self.x, self.y = torch.randn(BATCH, 64), torch.randn(tasks, BATCH, 1)

    def losses(self) -> tuple[Tensor, list[Tensor]]:
        """The features, and one loss a task."""
        features = self.encoder(self.x)
        pairs = zip(self.heads, self.y, strict=True)
        return features, [(head(features) - target).square().mean() for head, target in pairs]


def plain(model: Model) -> None:
    """The sum of the losses, differentiated."""
    model.zero_grad()
    torch.stack(model.losses()[1]).sum().backward()


def by_us(model: Model, method: Any) -> None:
    """A step of ours."""
    model.zero_grad()
    losses = {f"{i}": loss for i, loss in enumerate(model.losses()[1])}
    balance(losses, shared=model.encoder.parameters(), method=method)


def by_torchjd(model: Model, aggregator: theirs.Aggregator) -> None:
    """A step of theirs."""
    model.zero_grad()
    features, losses = model.losses()
    shared = list(model.encoder.parameters())
    heads = [list(head.parameters()) for head in model.heads]
    mtl_backward(losses, features=features, tasks_params=heads, shared_params=shared)
    jac_to_grad(shared, aggregator)


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that was allocated at once in a step, above what there was."""
    step()  # what stays after it is there before the one that is measured
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def rows(*, repeats: int, tasks: int) -> Iterator[dict[str, Any]]:
    """Each method beside theirs and the plain sum; then memory."""
    torch.manual_seed(0)
    model = Model(tasks)
    pairs = {
        "PCGrad": (PCGrad(seed=0), theirs.PCGrad()),
        "MGDA": (MGDA(), theirs.MGDA()),
        "Aligned-MTL": (AlignedMTL(), theirs.AlignedMTL()),
        "GradDrop": (GradDrop(seed=0), theirs.GradDrop()),
    }
    steps: dict[str, list[Callable[[], None]]] = {
        name: [
            lambda ours=ours: by_us(model, ours),
            lambda aggregator=aggregator: by_torchjd(model, aggregator),
            lambda: plain(model),
        ]
        for name, (ours, aggregator) in pairs.items()
    }
    for name, of in steps.items():
        for step in of:
            step()
        found = medians(repeats, *(lambda step=step: 1e3 * seconds(step) for step in of))
        ours, peer, least = found
        yield row(f"{name}, {tasks} tasks", ours=ours, peers={"TorchJD": peer}, limit=least, unit="ms")
    matrix = tasks * sum(one.numel() for one in model.encoder.parameters()) * 4
    for name, of in steps.items():
        ours, peer, least = (peak_bytes(step) / 2**20 for step in of)
        peers = {"TorchJD": peer, "bar": least + matrix / 2**20}
        yield row(f"{name}, peak memory", ours=ours, peers=peers, unit="MiB", matrix=matrix / 2**20)


if __name__ == "__main__":
    options = parser(__doc__, repeats=30)
    options.add_argument("--tasks", type=int, default=8, metavar="N")
    run(options, rows)
