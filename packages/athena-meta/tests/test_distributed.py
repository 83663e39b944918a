"""Two gloo processes under DistributedDataParallel, each with half of the tasks, against one with all.

This file is also the program of the two processes, which are started once for all checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gradient_models import classes, mlp, normed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from athena_core.testing import run_in_two_processes, take_part
from athena_meta import (
    ANIL,
    MAML,
    GradientLearner,
    ImplicitMAML,
    InnerAdam,
    MAMLPlusPlus,
    MetaSGD,
    Reptile,
)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

Make = Callable[..., GradientLearner]
LEARNERS: dict[str, tuple[Make, Callable[[], nn.Module]]] = {
    "maml": (partial(MAML, inner_lr=0.1, inner_steps=3), mlp),
    "maml, first order": (partial(MAML, inner_lr=0.1, first_order=True), mlp),
    "maml, adam": (partial(MAML, inner=InnerAdam(0.05), inner_steps=2), mlp),
    "maml, checkpointed": (partial(MAML, inner_lr=0.1, inner_steps=2, checkpoint_steps=True), mlp),
    "maml, body": (partial(MAML, inner_lr=0.1, adapted="0.*"), mlp),
    "maml, batch norm": (partial(MAML, inner_lr=0.1, inner_steps=2, transductive=False), normed),
    "anil": (partial(ANIL, inner_lr=0.1), mlp),
    "anil, first order": (partial(ANIL, inner_lr=0.1, first_order=True), mlp),
    "meta-sgd": (partial(MetaSGD, inner_lr=0.1), mlp),
    "maml++": (partial(MAMLPlusPlus, inner_lr=0.1, inner_steps=2, transductive=True), normed),
    "reptile": (partial(Reptile, inner_lr=0.1), mlp),
    "reptile, adam": (partial(Reptile, inner=InnerAdam(0.05, betas=(0.0, 0.999))), mlp),
    "implicit maml": (partial(ImplicitMAML, inner_lr=0.1), mlp),
    "implicit maml, head": (partial(ImplicitMAML, inner_lr=0.1, adapted="3.*"), mlp),
}
WAYS = {
    "vmap": {"mode": "vmap"},
    "chunks": {"mode": "vmap", "chunk_size": 1},
    "loop": {"mode": "loop"},
    "auto": {"mode": "auto"},
}
# Each process chooses a way of its own.
CHECKS = [f"{learner}: {way}" for learner in LEARNERS for way in WAYS if way != "auto" or learner == "maml"]
# The mean of two means of two tasks, in place of one of four: other sums of a few float64 numbers.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def made(check: str) -> GradientLearner:
    learner, way = check.split(": ")
    make, network = LEARNERS[learner]
    torch.manual_seed(0)
    return make(network(), **WAYS[way])


def check_steps(check: str, rank: int, _: Path) -> None:
    """Gradients, and weights after steps with them, are those of one process with all tasks."""
    alone, shared = made(check), made(check)
    wrapped = DistributedDataParallel(shared)
    optimizers = [torch.optim.SGD(learner.parameters(), lr=0.1) for learner in (alone, shared)]
    for step in range(2):
        torch.manual_seed(step)
        episodes = classes(tasks=4)
        for learner, part in ((alone, episodes), (wrapped, episodes.take(2 * rank, 2 * rank + 2))):
            learner.zero_grad()
            learner(part).backward()
        compare(alone, shared, step)
        for optimizer in optimizers:
            optimizer.step()


def compare(alone: nn.Module, shared: nn.Module, step: int) -> None:
    seen = False
    for (name, one), other in zip(alone.named_parameters(), shared.parameters(), strict=True):
        found, expected = (torch.zeros_like(p) if p.grad is None else p.grad for p in (other, one))
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda m, n=name: f"step {step}, {n}: {m}")
        seen = seen or bool(expected.any())
    assert seen, "no gradient"


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What failed in either process."""
    return run_in_two_processes(__file__, tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(failures: dict[str, str], check: str) -> None:
    if check in failures:
        pytest.fail(failures[check], pytrace=False)


if __name__ == "__main__":
    take_part(CHECKS, check_steps)
