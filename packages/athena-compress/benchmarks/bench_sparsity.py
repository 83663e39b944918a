"""Points of accuracy lost at 90 % unstructured sparsity: gradual magnitude, one-shot magnitude, random.

    python bench_sparsity.py [--repeats 5] [--json FILE] [--threads 2]

A ConvNet trained on digits, 5 folds x ``--repeats`` seeds from 0 on. Each variant trains that model 12 more
epochs, with the same batches and rates: dense; pruned gradually to 90 % of all weights of convolutions and
the linear layer, by a cubic schedule over the first half of the steps, by magnitude or at random; or pruned
by magnitude at the first step. Loss is the dense variant's accuracy less the pruned one's. ``ours`` is the
upper end of the 95 % interval of the mean loss, the larger of two: seeds resampled within each fold, or all
scores at once. The last rows are paired differences of accuracy. ``--threads`` is the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import torch
from common import BATCH, FOLDS, accuracy, beside_bar, conv_net, in_processes, interval, split, train
from torch import nn

from athena_compress import CubicSchedule, Pruner, SparsitySchedule
from athena_core.testing.bench import parser, run

SPARSITY = 0.9
EPOCHS, RATE = 12, 5e-3
VARIANTS = ("gradual magnitude", "one-shot magnitude", "gradual random")


def pruned_model(model: nn.Module, variant: str, data: Any, seed: int) -> nn.Module:
    """The model trained further while it is pruned; its zeros are counted."""
    steps = EPOCHS * (len(data.images) // BATCH)
    gradual = CubicSchedule(SPARSITY, steps=steps // 2, every=5)
    schedule: SparsitySchedule | float = gradual if variant.startswith("gradual") else SPARSITY
    pruners: list[Pruner] = []

    def hook(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        importance = variant.rpartition(" ")[2]
        pruners.append(Pruner(model, importance=importance, schedule=schedule, optimizer=optimizer))
        return pruners[0].step

    train(model, data, epochs=EPOCHS, rate=RATE / 2, seed=seed, hook=hook)
    weights = [weight for name, weight in model.named_parameters() if name in pruners[0].masks]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    if abs(zeros - SPARSITY) > 1e-3:
        raise SystemExit(f"{variant}: {zeros:.4f} of the weights are zero, not {SPARSITY}")
    return model


def accuracies(job: tuple[int, int]) -> dict[str, float]:
    fold, seed = job
    data = split(fold)
    torch.manual_seed(seed)
    model = train(conv_net(), data, epochs=EPOCHS, rate=RATE, seed=seed)
    more = seed + 1000
    dense = train(deepcopy(model), data, epochs=EPOCHS, rate=RATE / 2, seed=more)
    found = {"before": accuracy(model, data), "dense": accuracy(dense, data)}
    for variant in VARIANTS:
        torch.manual_seed(more)
        found[variant] = accuracy(pruned_model(deepcopy(model), variant, data, more), data)
    return found


def rows(*, repeats: int) -> list[dict[str, Any]]:
    jobs = [(fold, seed) for seed, fold in product(range(repeats), range(FOLDS))]
    found = in_processes(accuracies, jobs)
    points = {name: torch.tensor([one[name] for one in found]).view(repeats, FOLDS) for name in found[0]}
    made = []
    for variant in VARIANTS:
        loss, pooled = interval(points["dense"] - points[variant])
        upper = max(loss.high, pooled)
        made.append(
            beside_bar(
                variant,
                ours=upper,
                bar=1.0,
                met=upper <= 1.0,
                unit="points lost",
                mean=loss.estimate,
                low=loss.low,
                high=loss.high,
                dense=points["dense"].mean().item(),
                before=points["before"].mean().item(),
                pruned=points[variant].mean().item(),
            )
        )
    for other in VARIANTS[1:]:
        gain, _ = interval(points[VARIANTS[0]] - points[other])
        made.append(
            beside_bar(
                f"{VARIANTS[0]} over {other}",
                ours=gain.low,
                bar=0.0,
                met=gain.low > 0,
                unit="points gained",
                mean=gain.estimate,
                low=gain.low,
                high=gain.high,
            )
        )
    return made


if __name__ == "__main__":
    run(parser(__doc__, repeats=5), rows)
