"""Accuracies of the learners on Glyphs: 5- and 20-way, 1- and 5-shot, of one small budget each.

``--repeats`` seeds, a Conv-4 of 32 channels, Adam. Metric learners and baselines are trained on 20-way
episodes, each number of shots by itself; gradient learners on the ways and shots that they are tested with,
their inner rate chosen on the validation alphabets. The test is on ``--episodes`` of the test alphabets.
Budgets are equal in steps alone, and all are short: the table shows that the learners learn, and ranks none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from athena_core.testing.bench import parser, run
from athena_meta import (
    ANIL,
    MAML,
    Baseline,
    BaselinePlusPlus,
    Conv4,
    EpisodeSampler,
    FewShotLearner,
    Glyphs,
    HeadFitting,
    MatchingNetwork,
    PrototypicalNetwork,
    RelationModule,
    RelationNetwork,
    evaluate,
    pixel_accuracy,
)

WIDTH = 32
WAYS, SHOTS = (5, 20), (1, 5)
RATES = (0.03, 0.1, 0.4)  # of the inner step
TRAIN, VALIDATION, TEST = (Glyphs(split=split) for split in ("train", "validation", "test"))

Make = Callable[[], FewShotLearner]


def comparing() -> dict[str, Make]:
    """Learners that meet any number of ways."""
    features, n_classes = Conv4(width=WIDTH).features, len(TRAIN.classes)
    made = {"features": features, "n_classes": n_classes, "fitting": HeadFitting(steps=100)}
    return {
        "ProtoNet": lambda: PrototypicalNetwork(Conv4(width=WIDTH)),
        "Matching": lambda: MatchingNetwork(Conv4(width=WIDTH)),
        "Relation": lambda: RelationNetwork(Conv4(width=WIDTH, pools=2).blocks, RelationModule(WIDTH)),
        "Baseline": lambda: Baseline(Conv4(width=WIDTH), **made),
        "Baseline++": lambda: BaselinePlusPlus(Conv4(width=WIDTH), **made),
    }


def descending(way: int, rate: float) -> dict[str, Make]:
    """Learners whose network has so many outputs."""
    options: dict[str, Any] = {"inner_lr": rate, "inner_steps": 3, "transductive": False, "mode": "loop"}
    return {
        "MAML, first order": lambda: MAML(Conv4(width=WIDTH, outputs=way), first_order=True, **options),
        "ANIL": lambda: ANIL(Conv4(width=WIDTH, outputs=way), **options),
    }


def trained(make: Make, *, way: int, shot: int, tasks: int, steps: int, seed: int) -> FewShotLearner:
    """A learner after so many steps of Adam, its rate halved after each third."""
    torch.manual_seed(seed)
    learner = make()
    sampler = EpisodeSampler(TRAIN, n_way=way, k_shot=shot, n_query=5, seed=seed)
    optimizer = torch.optim.Adam(learner.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps // 3), gamma=0.5)
    for episodes in sampler.batches(tasks, number=steps):
        optimizer.zero_grad()
        learner(episodes).backward()
        optimizer.step()
        schedule.step()
    return learner


def scored(
    learner: FewShotLearner, *, way: int, shot: int, episodes: int, data: Glyphs = TEST
) -> dict[str, Any]:
    """Accuracy in percent, and half the widths of its intervals."""
    sampler = EpisodeSampler(data, n_way=way, k_shot=shot, n_query=15, seed=-1)
    found = evaluate(learner, sampler, episodes=episodes, tasks=5)
    estimate, low, high = found.interval()
    classes = found.by_class()
    return {
        "ours": 100 * estimate,
        "by_episode": 50 * (high - low),
        "by_class": 50 * (classes.high - classes.low),
        "unit": "percent",
    }


def rows(*, repeats: int, steps: int, episodes: int, only: list[str]) -> Iterator[dict[str, Any]]:
    for way in WAYS:
        accuracy = 100 * pixel_accuracy(TEST.images, TEST.labels, n_way=way)
        yield {"case": f"{way}-way 1-shot, nearest pixels", "ours": accuracy, "peers": {}, "unit": "percent"}
    chosen = [name for name in (*comparing(), *descending(5, RATES[0])) if not only or name in only]
    for seed, name, shot in product(range(repeats), chosen, SHOTS):
        if name in comparing():
            learner = trained(comparing()[name], way=20, shot=shot, tasks=1, steps=steps, seed=seed)
        for way in WAYS:
            if name in comparing():
                found = scored(learner, way=way, shot=shot, episodes=episodes)
            else:
                found = with_best_rate(name, way=way, shot=shot, steps=steps, seed=seed, episodes=episodes)
            line = case(name, way=way, shot=shot) | found | {"seed": seed}
            print(line, file=sys.stderr, flush=True)  # trainings take long
            yield line


def case(name: str, *, way: int, shot: int) -> dict[str, Any]:
    """The beginning of a row, for which there is no peer."""
    return {"case": f"{way}-way {shot}-shot, {name}", "peers": {}}


def with_best_rate(name: str, *, way: int, shot: int, steps: int, seed: int, episodes: int) -> dict[str, Any]:
    """As :func:`scored`, with the inner rate that does best in validation after a third of them."""
    task = {"way": way, "shot": shot}

    def train(rate: float, steps: int) -> FewShotLearner:
        return trained(descending(way, rate)[name], **task, tasks=4, steps=steps, seed=seed)

    def validated(rate: float) -> float:
        return scored(train(rate, steps // 3), **task, data=VALIDATION, episodes=50)["ours"]

    rate = max(RATES, key=validated)
    return scored(train(rate, steps), **task, episodes=episodes) | {"inner_lr": rate}


if __name__ == "__main__":
    options = parser(__doc__, repeats=1)
    options.add_argument("--steps", type=int, default=300, metavar="N", help="of each training")
    options.add_argument("--episodes", type=int, default=600, metavar="N", help="of each test")
    options.add_argument("--only", nargs="*", default=[], metavar="LEARNER", help="the learners to train")
    run(options, rows)
