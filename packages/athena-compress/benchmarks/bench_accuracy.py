"""Points of accuracy lost to int8 on digits, after training and with training, a ConvNet and a ViT.

    python bench_accuracy.py [--repeats 5] [--json FILE] [--threads 2]

5 folds x ``--repeats`` seeds from 0 on, no selection: each model is trained in float, then executed as
``"int8-dynamic"``, as ``"int8-static"`` (calibrated on the first 16 batches of a training epoch, default
observer), and as ``"int8-static"`` after 5 more epochs in `QAT` at a tenth of the rate. Loss is the float
model's accuracy less the int8 model's, positive if int8 is worse; beside QAT's stands that of the float model
trained as much longer. ``ours`` is the upper end of the 95 % interval of the mean loss, the larger of two:
seeds resampled within each fold, or all scores at once. ``--threads`` is the number of processes.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from itertools import islice, product
from typing import Any

import torch
from common import (
    FOLDS,
    ViT,
    accuracy,
    batches,
    beside_bar,
    conv_net,
    in_processes,
    interval,
    split,
    train,
)
from torch import nn

from athena_compress import QAT, calibrate, quantize
from athena_core.testing.bench import parser, run

MODELS = {"ConvNet": (conv_net, 12, 5e-3), "ViT": (ViT, 25, 4e-3)}
BARS = {"int8-dynamic": 0.5, "int8-static": 0.5, "QAT": 0.2}
FINE_TUNING = 5


def accuracies(job: tuple[str, int, int]) -> dict[str, float]:
    """Accuracy of one trained model, in float and in each form of int8."""
    name, fold, seed = job
    make, epochs, rate = MODELS[name]
    data = split(fold)
    warnings.filterwarnings("ignore", "kept in float")  # the ViT's places, a parameter of its own
    torch.manual_seed(seed)
    model = train(make(), data, epochs=epochs, rate=rate, seed=seed)
    more = {"epochs": FINE_TUNING, "rate": rate / 10, "seed": seed + 1000}
    qat = train(QAT(model.train(), example_inputs=data.images[:2]), data, **more)
    assert isinstance(qat, QAT)
    model.eval()
    seen = [images for images, _ in islice(batches(data.images, data.labels, epochs=1, seed=seed), 16)]
    made: dict[str, nn.Module] = {
        "float": model,
        "int8-dynamic": quantize(model, "int8-dynamic"),
        "int8-static": quantize(calibrate(model, seen), "int8-static"),
        "QAT": qat.convert(),
        "float, trained on": train(deepcopy(model), data, **more),
    }
    return {form: accuracy(one, data) for form, one in made.items()}


def losses(name: str, *, seeds: int) -> list[dict[str, Any]]:
    jobs = [(name, fold, seed) for seed, fold in product(range(seeds), range(FOLDS))]
    found = in_processes(accuracies, jobs)
    points = {
        form: torch.tensor([one[form] for one in found]).view(seeds, FOLDS).double() for form in found[0]
    }
    made = []
    for form, bar in BARS.items():
        loss, pooled = interval(points["float"] - points[form])
        also = {"float": points["float"].mean().item(), "int8": points[form].mean().item()}
        if form == "QAT":
            longer = points["float, trained on"]
            also |= {"float_trained_on": longer.mean().item()}
            also |= {"mean_loss_to_it": (longer - points[form]).mean().item()}
        upper = max(loss.high, pooled)
        made.append(
            beside_bar(
                f"{name}, {form}",
                ours=upper,
                bar=bar,
                met=upper <= bar,
                unit="points",
                mean_loss=loss.estimate,
                low=loss.low,
                high=loss.high,
                high_pooled=pooled,
                **also,
            )
        )
    return made


def rows(*, repeats: int) -> list[dict[str, Any]]:
    return [one for name in MODELS for one in losses(name, seeds=repeats)]


if __name__ == "__main__":
    run(parser(__doc__, repeats=5), rows)
