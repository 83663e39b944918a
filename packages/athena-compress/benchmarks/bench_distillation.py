"""Accuracy of a small student distilled from a ConvNet beside that of the same student trained alone.

    python bench_distillation.py [--repeats 10] [--json FILE] [--threads 2]

Digits, seeds 0 to ``--repeats`` - 1, no selection; seed s tests on fold s modulo 5. Both students, a
perceptron with 64 hidden neurons, have the same first weights, steps and rates. ``all labels``: both
see the same batches of all 1,437 images with labels, for 60 epochs, long enough that the student alone learns
them by heart; the teacher learned from the same. ``few labels``: the student alone has 100 labelled images;
the other has the teacher's answers on all images and no label. ``ours`` is the lower end of the 95 % interval
of the mean paired difference, to stay above 0; ``t_low`` is that of Student's interval, longer for few seeds.
Student, epochs, temperature 2 and share 0.9 were chosen on seeds 100 to 104, of the same five folds.
``--threads`` is the number of processes.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from common import FOLDS, Split, accuracy, beside_bar, conv_net, in_processes, split, train
from scipy.stats import t as student_t
from torch import Tensor, nn

from athena_compress import Distiller
from athena_core.stats import paired_difference
from athena_core.testing.bench import parser, run

EPOCHS, RATE = 60, 5e-3
LABELLED = 100


def distilled(teacher: nn.Module, student: nn.Module, data: Split, *, labels: bool, seed: int) -> nn.Module:
    distiller = Distiller(teacher, student, temperature=2.0, alpha=0.9)

    def loss(images: Tensor, targets: Tensor) -> Tensor:
        return distiller.loss(images, targets if labels else None).total

    train(distiller, data, epochs=EPOCHS, rate=RATE, seed=seed, loss=loss)
    return student.eval()


def few(data: Split, seed: int) -> Split:
    """100 of the images, repeated to as many as there were, so that the number of steps stays."""
    chosen = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed))[:LABELLED]
    repeated = chosen.repeat(-(-len(data.images) // LABELLED))[: len(data.images)]
    return data._replace(images=data.images[repeated], labels=data.labels[repeated])


def accuracies(seed: int) -> dict[str, float]:
    data = split(seed % FOLDS)
    torch.manual_seed(seed)
    teacher = train(conv_net(), data, epochs=12, rate=5e-3, seed=seed)
    torch.manual_seed(seed + 1000)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    alone = partial(train, epochs=EPOCHS, rate=RATE, seed=seed + 1000)
    taught = partial(distilled, teacher, data=data, seed=seed + 1000)
    made = {
        "teacher": teacher,
        "all labels, alone": alone(deepcopy(first), data),
        "all labels, distilled": taught(deepcopy(first), labels=True),
        "few labels, alone": alone(deepcopy(first), few(data, seed)),
        "few labels, distilled": taught(deepcopy(first), labels=False),
    }
    return {name: accuracy(model, data) for name, model in made.items()}


def rows(*, repeats: int) -> list[dict[str, Any]]:
    found = in_processes(accuracies, range(repeats))
    made = []
    for setting in ("all labels", "few labels"):
        ours, alone = ([one[f"{setting}, {name}"] for one in found] for name in ("distilled", "alone"))
        gain = paired_difference(ours, alone, rng=0, statistic=np.mean)
        spread = np.std(np.subtract(ours, alone), ddof=1) / repeats**0.5
        made.append(
            beside_bar(
                setting,
                ours=gain.low,
                bar=0.0,
                met=gain.low > 0,
                unit="points gained",
                mean=gain.estimate,
                low=gain.low,
                high=gain.high,
                t_low=gain.estimate - float(student_t.ppf(0.975, repeats - 1) * spread),
                alone=float(np.mean(alone)),
                distilled=float(np.mean(ours)),
                teacher=float(np.mean([one["teacher"] for one in found])),
            )
        )
    return made


if __name__ == "__main__":
    run(parser(__doc__, repeats=10), rows)
