"""Distilled students follow their teacher better than students that see labels alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_compress import Distiller

SEEDS = range(6)


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 6))


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of six classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(6, (count,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(count, 8, generator=generator), labels


def fit(parameters, loss, steps: int) -> None:
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def taught(seed: int, teacher: nn.Module, alpha: float, **options) -> float:
    """How far the probabilities of a student of few points are from the teacher's, on new points."""
    torch.manual_seed(seed)
    student = network(6)
    inputs, labels = points(120, seed + 100)
    distiller = Distiller(teacher, student, alpha=alpha, example_inputs=inputs, **options)
    fit(distiller.parameters(), lambda: distiller.loss(inputs, labels).total, steps=150)
    new, _ = points(1000, 999)
    with torch.no_grad():
        logs = F.log_softmax(student(new), -1), F.log_softmax(teacher(new), -1)
    return F.kl_div(*logs, log_target=True, reduction="batchmean").item()


def test_they_follow_it_better_on_every_seed():
    inputs, labels = points(2000, 1)
    teacher = network(64)
    fit(teacher.parameters(), lambda: F.cross_entropy(teacher(inputs), labels), steps=100)
    alone = torch.tensor([taught(seed, teacher, alpha=0.0) for seed in SEEDS])
    soft = torch.tensor([taught(seed, teacher, alpha=0.9) for seed in SEEDS])
    hints = {"features": {"1": "1"}, "feature_loss": "mse", "feature_weight": 0.1}
    both = torch.tensor([taught(seed, teacher, alpha=0.9, **hints) for seed in SEEDS])
    for distilled in (soft, both):
        assert (distilled < alone).all(), f"alone {alone.tolist()}, distilled {distilled.tolist()}"
        assert distilled.mean() < 0.7 * alone.mean()
