"""Lion, Muon and schedule-free AdamW against the libraries that people use today."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_optim import Lion, Muon, ScheduleFreeAdamW

lion_pytorch = pytest.importorskip("lion_pytorch")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
schedulefree = pytest.importorskip("schedulefree")

SHAPES = [(7, 5), (5,), (64, 64), (64, 64), (130, 64), (400, 400)]


def make_parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def train_both(ours, theirs, optimizer, peers, *, steps: int = 50) -> float:
    """The largest difference after some steps on the same gradients."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(a.dtype)
            b.grad = a.grad.clone()
        optimizer.step()
        for peer in peers:
            peer.step()
    return gap(ours, theirs)


def gap(ours, theirs) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_equals_lion_pytorch(weight_decay):
    ours, theirs = make_parameters(), make_parameters()
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": weight_decay}
    peer = lion_pytorch.Lion(theirs, **options)
    assert train_both(ours, theirs, Lion(ours, **options), [peer]) < 1e-12


def test_lion_equals_pytorch_optimizer():
    ours, theirs = make_parameters(), make_parameters()
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    peer = pytorch_optimizer.Lion(theirs, **options)
    assert train_both(ours, theirs, Lion(ours, **options), [peer]) < 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup_steps": 20, "weight_decay": 0.1},
        {"warmup_steps": 20, "r": 1.0, "weight_lr_power": 1.0, "betas": (0.7, 0.9)},
    ],
    ids=["plain", "warm-up", "powers"],
)
@pytest.mark.parametrize("foreach", [None, False])
def test_schedule_free_equals_schedulefree(options, foreach):
    ours, theirs = make_parameters(), make_parameters()
    optimizer = ScheduleFreeAdamW(ours, lr=0.01, foreach=foreach, **options)
    peer = schedulefree.AdamWScheduleFree(theirs, lr=0.01, **options)
    peer.train()
    assert train_both(ours, theirs, optimizer, [peer]) < 1e-12
    optimizer.eval()
    peer.eval()
    assert gap(ours, theirs) < 1e-12


def test_schedule_free_keeps_what_schedulefree_rounds_away():
    """Its evaluations move bfloat16 parameters, ours do not."""
    ours, theirs = make_parameters(torch.bfloat16), make_parameters(torch.bfloat16)
    optimizer = ScheduleFreeAdamW(ours, lr=0.1)
    peer = schedulefree.AdamWScheduleFree(theirs, lr=0.1)
    peer.train()
    train_both(ours, theirs, optimizer, [peer], steps=5)
    drifts = []
    for params, each in ((ours, optimizer), (theirs, peer)):
        before = [p.detach().clone() for p in params]
        for _ in range(20):
            each.eval()
            each.train()
        drifts.append(gap(params, before))
    assert drifts[0] == 0 < drifts[1]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_and_adamw_equal_pytorch_optimizer(nesterov):
    """Directions are bfloat16, so those of products in another order differ by their rounding."""
    ours, theirs = make_parameters(torch.float32), make_parameters(torch.float32)
    matrices, others = [p for p in theirs if p.ndim == 2], [p for p in theirs if p.ndim != 2]
    optimizer = Muon(
        ours,
        lr=0.01,
        nesterov=nesterov,
        weight_decay=0.1,
        adamw_lr=1e-3,
        adamw_betas=(0.9, 0.95),
        adamw_weight_decay=0.0,
    )
    peer = pytorch_optimizer.Muon(
        [
            {"params": matrices, "use_muon": True, "lr": 0.01, "weight_decay": 0.1, "nesterov": nesterov},
            {"params": others, "use_muon": False, "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8},
        ]
    )
    assert train_both(ours, theirs, optimizer, [peer], steps=10) < 1e-2


def test_muon_equals_torchs_in_fifty_steps():
    ours, theirs = make_parameters(torch.float32), make_parameters(torch.float32)
    optimizer = Muon(ours, lr=0.01, adjust_lr="match_rms_adamw", foreach=False, adamw_lr=1e-3)
    peers = [
        torch.optim.Muon([p for p in theirs if p.ndim == 2], lr=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in theirs if p.ndim != 2], lr=1e-3, foreach=False),
    ]
    assert train_both(ours, theirs, optimizer, peers) == 0
