"""Lion, Muon and schedule-free AdamW on parameters that two processes share: the steps of one process.

This file is also the program of the two processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from athena_core.testing import run_in_two_processes, take_part
from athena_optim import Lion, Muon, ScheduleFreeAdamW

OPTIMIZERS = {
    "lion": lambda params: Lion(params, lr=0.01, weight_decay=0.1),
    "muon": lambda params: Muon(params, lr=0.01),
    "muon, one by one": lambda params: Muon(params, lr=0.01, foreach=False),
    "schedule-free": lambda params: ScheduleFreeAdamW(params, lr=0.01, warmup_steps=3, weight_decay=0.1),
    "schedule-free, loop": lambda params: ScheduleFreeAdamW(params, lr=0.01, foreach=False),
}


def make_model() -> nn.Sequential:
    """Rows that do not divide by two, and a matrix larger than a bucket."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(400, 401), nn.Tanh(), nn.Linear(401, 5))


def train(name: str, rank: int, folder: Path) -> None:
    """Whole and sharded models take the same gradients; every parameter must end up equal, bit for bit."""
    whole, sharded = make_model(), make_model()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(sharded, mesh=mesh)
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in (whole, sharded)]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = distribute_tensor(p.grad, mesh, q.placements)
        for optimizer in optimizers:
            optimizer.step()
    assert_equal("training", whole, sharded)
    if isinstance(optimizers[0], ScheduleFreeAdamW):
        for optimizer in optimizers:
            optimizer.eval()
        assert_equal("evaluated", whole, sharded)


def assert_equal(when: str, whole: nn.Module, sharded: nn.Module) -> None:
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        gathered = q.full_tensor()
        assert torch.equal(p, gathered), f"{when}: {tuple(p.shape)} differs by {(p - gathered).abs().max()}"


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_sharded_steps_equal_whole_ones(tmp_path: Path):
    """Matrices are orthogonalised whole, not shard by shard (pitfall 15)."""
    assert run_in_two_processes(__file__, tmp_path) == {}


if __name__ == "__main__":
    take_part(list(OPTIMIZERS), train)
