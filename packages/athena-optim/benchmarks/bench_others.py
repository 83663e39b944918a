"""Lion, Muon, schedule-free AdamW and SAM against their peers: 29.3 M parameters in 97 tensors.

    python bench_others.py [--repeats 21] [--json FILE] [--threads 2]

All step in turn in one process, on the same gradients; outputs are compared first, where a peer leaves
the gradients as they are. The limit is memory traffic, which Muon's products exceed many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import lion_pytorch
import pytorch_optimizer
import schedulefree
import torch
from common import bandwidth, compare, decoder_shapes
from torch import nn
from torch.optim import Optimizer

from athena_core.testing.bench import parser, run
from athena_optim import SAM, AdamW, Lion, Muon, ScheduleFreeAdamW


class Together(Optimizer):
    """Several optimizers that step one after another."""

    def __init__(self, *optimizers: Optimizer) -> None:
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = optimizers

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def torch_muon(params: list[nn.Parameter]) -> Optimizer:
    matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
    return Together(torch.optim.Muon(matrices), torch.optim.AdamW(others, fused=True))


def peer_muon(params: list[nn.Parameter]) -> Optimizer:
    adamw = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    return pytorch_optimizer.Muon(
        [
            {"params": [p for p in params if p.ndim == 2], "use_muon": True, "lr": 1e-3, "weight_decay": 0.1},
            {"params": [p for p in params if p.ndim != 2], "use_muon": False, **adamw},
        ]
    )


def peer_schedule_free(params: list[nn.Parameter]) -> Optimizer:
    optimizer = schedulefree.AdamWScheduleFree(params)
    optimizer.train()
    return optimizer


def peer_sam(params: list[nn.Parameter]) -> Optimizer:
    fused = partial(torch.optim.AdamW, fused=True)
    return pytorch_optimizer.SAM(params, fused, rho=0.05, lr=1e-3)


@cache
def gradients_again(optimizer: Optimizer) -> Callable[[], torch.Tensor]:
    """A closure that puts the first gradients back, at no cost: SAM's own work alone is timed."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    grads, loss = [p.grad for p in params], torch.zeros(())

    def closure() -> torch.Tensor:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        return loss

    return closure


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    step = partial(compare, shapes=decoder_shapes(), repeats=repeats, speed=bandwidth())
    yield step(
        "lion",
        ours=partial(Lion, lr=1e-4),
        peers={
            "lion_pytorch": partial(lion_pytorch.Lion, lr=1e-4),
            "pytorch_optimizer": partial(pytorch_optimizer.Lion, lr=1e-4),
        },
        bytes_per_parameter=20,  # read g, theta, m; write theta, m
        equal={"lion_pytorch": 1e-6, "pytorch_optimizer": 1e-6},
    )
    yield step(
        "muon",
        ours=Muon,
        peers={"torch": torch_muon, "pytorch_optimizer": peer_muon},
        bytes_per_parameter=20,
        equal={"torch": 1e-3, "pytorch_optimizer": 1e-3},  # a rate of 1e-3 times bfloat16's rounding
    )
    yield step(
        "schedule-free adamw",
        ours=ScheduleFreeAdamW,
        peers={"schedulefree": peer_schedule_free, "pytorch_optimizer": pytorch_optimizer.ScheduleFreeAdamW},
        bytes_per_parameter=28,  # read g, y, z, v; write y, z, v
        equal={},  # both peers divide the gradients in place
    )
    yield step(
        "sam(adamw) without its two passes",
        ours=lambda params: SAM(AdamW(params, lr=1e-3)),
        peers={"pytorch_optimizer": peer_sam},
        bytes_per_parameter=28 + 4 + 12 + 12,  # AdamW; the gradients' norm; there and back
        equal={"pytorch_optimizer": 1e-4},
        step=lambda optimizer: optimizer.step(gradients_again(optimizer)),
    )


if __name__ == "__main__":
    run(parser(__doc__, repeats=21), rows)
