"""Lion, Muon and schedule-free AdamW on parameters that two processes share: the steps of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

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


def train_both(rank: int, file: str) -> None:
    """Whole and sharded models take the same gradients; every parameter must end up equal, bit for bit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name, make in OPTIMIZERS.items():
        whole, sharded = make_model(), make_model()
        fully_shard(sharded, mesh=mesh)
        optimizers = make(whole.parameters()), make(sharded.parameters())
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = distribute_tensor(p.grad, mesh, q.placements)
            for optimizer in optimizers:
                optimizer.step()
        assert_equal(name, whole, sharded)
        if isinstance(optimizers[0], ScheduleFreeAdamW):
            for optimizer in optimizers:
                optimizer.eval()
            assert_equal(f"{name}, evaluated", whole, sharded)
    dist.destroy_process_group()


def assert_equal(name: str, whole: nn.Module, sharded: nn.Module) -> None:
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        gathered = q.full_tensor()
        assert torch.equal(p, gathered), f"{name}: {tuple(p.shape)} differs by {(p - gathered).abs().max()}"


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_sharded_steps_equal_whole_ones(tmp_path: Path):
    """Matrices are orthogonalised whole, not shard by shard (pitfall 15).

    In a process of its own: workers find what they run by its module's name, which pytest makes up.
    """
    command = [sys.executable, __file__, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


if __name__ == "__main__":
    mp.spawn(train_both, (sys.argv[1],), nprocs=2)
