"""Weightings in two gloo processes, which must remember what one process with all of the batch does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from athena_core.testing import run_in_two_processes, take_part
from athena_multitask import DWA, FAMO, GradNorm

TASKS = ["a", "b"]


def each(step: int) -> Tensor:
    """Losses of both tasks in both processes, ``(processes, tasks)``."""
    generator = torch.Generator().manual_seed(step)
    return torch.rand(2, 2, generator=generator) + 0.1


def named(values: Tensor) -> dict[str, Tensor]:
    return dict(zip(TASKS, values.unbind(), strict=True))


def dwa_remembers_the_mean(rank: int) -> None:
    dwa = DWA(TASKS)
    for step in range(4):
        dwa(named(each(step)[rank]))
        if step % 2:
            dwa.end_epoch()
    first, second = (torch.stack([each(step), each(step + 1)]).mean((0, 1)) for step in (0, 2))
    ratios = second / first / 2
    torch.testing.assert_close(dwa.epoch_weights, 2 * ratios.softmax(0))


def famo_weighs_by_the_mean(rank: int) -> None:
    famo, logits = FAMO(TASKS), []
    for step in range(5):
        famo(named(each(step)[rank]))
        expected = (famo.logits - each(step).mean(0).log()).softmax(0)
        torch.testing.assert_close(famo.weights, expected)
        famo.update(named(each(step + 50)[rank]))
        logits.append(famo.logits.clone())
    assert equal_in_both(torch.stack(logits))
    assert logits[-1].any()


def gradnorm_keeps_weights_equal(rank: int) -> None:
    weight = nn.Parameter(torch.ones(3))
    gradnorm = GradNorm(TASKS, shared=[weight])
    for step in range(5):
        gradnorm(named(weight.sum() * each(step)[rank])).backward()
    torch.testing.assert_close(gradnorm.initial, 3 * each(0).mean(0))
    assert equal_in_both(gradnorm.balance)
    assert gradnorm.balance[0] != 1


def gradnorm_trains_alike_in_ddp(rank: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    model, gradnorm = DistributedDataParallel(layer), GradNorm(TASKS, shared=layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(step))[rank]
        gradnorm(named(model(x).square().mean(0))).backward()
        optimizer.step()
    assert equal_in_both(layer.weight.detach())


def gradnorm_refuses_a_static_graph(rank: int) -> None:
    layer = nn.Linear(3, 2)
    model = DistributedDataParallel(layer, static_graph=True)
    gradnorm = GradNorm(TASKS, shared=layer.parameters())
    with pytest.raises(ValueError, match="`static_graph=True`"):
        gradnorm(named(model(torch.ones(4, 3)).square().mean(0)))


def equal_in_both(values: Tensor) -> bool:
    gathered = [torch.empty_like(values) for _ in range(2)]
    torch.distributed.all_gather(gathered, values)
    return torch.equal(*gathered)


CHECKS = {
    check.__name__: check
    for check in (
        dwa_remembers_the_mean,
        famo_weighs_by_the_mean,
        gradnorm_keeps_weights_equal,
        gradnorm_trains_alike_in_ddp,
        gradnorm_refuses_a_static_graph,
    )
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_in_two_processes(__file__, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", CHECKS)
def test_in_two_processes(failed: dict[str, str], name: str) -> None:
    assert name not in failed, failed[name]


def check(name: str, rank: int, folder: Path) -> None:
    CHECKS[name](rank)


if __name__ == "__main__":
    take_part(list(CHECKS), check)
