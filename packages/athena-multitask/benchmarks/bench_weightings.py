"""Weightings of losses: whole training steps of a shared encoder with 8 heads, beside the plain sum.

A step is forward, the weighting, backward and Adam, of an encoder 64-256-256-256, heads 256-1 and a batch of
256. The bar is 1.1 times the plain sum in the same run, 1.5 times for GradNorm, which compares the gradients
of the encoder's last layer. FAMO goes forward a second time, after the step; its last row leaves that out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_multitask import (
    DWA,
    FAMO,
    GradNorm,
    RandomWeighting,
    ScaleInvariant,
    StaticWeighting,
    UncertaintyWeighting,
)

TASKS = [f"task-{number}" for number in range(8)]
WIDTH, BATCH = 256, 256
STEPS = 5  # of one measure
KINDS: dict[str, tuple[Callable[..., nn.Module], float]] = {
    "static": (StaticWeighting, 1.1),
    "uncertainty": (UncertaintyWeighting, 1.1),
    "DWA": (DWA, 1.1),
    "random": (RandomWeighting, 1.1),
    "scale-invariant": (ScaleInvariant, 1.1),
    "FAMO": (FAMO, 1.1),
    "GradNorm": (GradNorm, 1.5),
}


class Learner:
    """A model, its optimizer and a weighting, or the plain sum."""

    def __init__(self, make: Callable[..., nn.Module] | None = None, *, again: bool = True) -> None:
        torch.manual_seed(0)
        last = nn.Linear(WIDTH, WIDTH)
        layers = [nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), last, nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, 1) for name in TASKS})
        self.inputs, self.targets = torch.randn(BATCH, 64), torch.randn(len(TASKS), BATCH, 1)
        self.again = again
        options = {"shared": last.parameters()} if make is GradNorm else {}
        self.weighting = make(TASKS, **options) if make else None
        learned = [*self.encoder.parameters(), *self.heads.parameters()]
        learned += self.weighting.parameters() if self.weighting is not None else []
        self.optimizer = torch.optim.Adam(learned, lr=1e-4)

    def losses(self) -> dict[str, Tensor]:
        features = self.encoder(self.inputs)
        return {
            name: (head(features) - target).square().mean()
            for (name, head), target in zip(self.heads.items(), self.targets, strict=True)
        }

    def step(self) -> None:
        losses = self.losses()
        loss = sum(losses.values()) if self.weighting is None else self.weighting(losses)
        self.optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]  # of no task, the sum would be 0
        self.optimizer.step()
        if isinstance(self.weighting, FAMO):
            with torch.no_grad():  # without the second forward, the losses before stand in for those after
                self.weighting.update(self.losses() if self.again else losses)

    def steps(self) -> None:
        for _ in range(STEPS):
            self.step()


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """Each weighting beside the plain sum; FAMO also without the second forward that it needs."""
    cases = [(name, make, bar, True) for name, (make, bar) in KINDS.items()]
    for name, make, bar, again in [*cases, ("FAMO, one forward", FAMO, 1.1, False)]:
        ours, plain = Learner(make, again=again), Learner()
        for learner in (ours, plain):
            learner.steps()
        times = medians(repeats, lambda: seconds(ours.steps), lambda: seconds(plain.steps))  # noqa: B023 (called at once)
        weighted, summed = (1000 * time / STEPS for time in times)
        peers = {"bar": bar * summed}
        yield row(name, ours=weighted, peers=peers, unit="ms", plain=summed, times=weighted / summed)


if __name__ == "__main__":
    run(parser(__doc__, repeats=15), rows)
