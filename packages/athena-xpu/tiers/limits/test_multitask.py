"""Balancers and weightings take steps within the limits of the A series, to the numbers of the host."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from athena_core import components, create
from athena_multitask import FAMO, GradNorm, MultiTaskModel, balance
from athena_xpu import ArcLimits

TASKS = ("depth", "segment", "normals")
Step = Callable[[MultiTaskModel, dict[str, Tensor]], None]


def model() -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh())
    return MultiTaskModel(encoder, heads={name: nn.Linear(6, 2) for name in TASKS})


def gradients(model: MultiTaskModel, step: Step) -> list[Tensor]:
    """What two steps leave in ``.grad``, on the host."""
    generator = torch.Generator().manual_seed(1)
    x, *targets = (torch.randn(8, width, generator=generator) for width in (3, 2, 2, 2))
    there = next(model.parameters()).device
    for _ in range(2):
        outputs = model(x.to(there))
        errors = [outputs[name] - target.to(there) for name, target in zip(TASKS, targets, strict=True)]
        step(model, {name: error.square().mean() for name, error in zip(TASKS, errors, strict=True)})
    return [parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None]


def assert_alike(make: Callable[[MultiTaskModel], Step]) -> None:
    here = model()
    there = copy.deepcopy(here)
    expected = gradients(here, make(here))
    assert len(expected) == len(list(here.parameters()))
    with ArcLimits() as limits:
        there.to(limits.device)
        found = gradients(there, make(there))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [one.name for one in components("balancer")])
def test_balancers(name: str) -> None:
    def make(_: MultiTaskModel) -> Step:
        method = create("balancer", name)

        def step(model: MultiTaskModel, losses: dict[str, Tensor]) -> None:
            balance(losses, shared=model.encoder.parameters(), method=method)

        return step

    assert_alike(make)


@pytest.mark.parametrize("name", [one.name for one in components("task-weighting")])
def test_weightings(name: str) -> None:
    def make(model: MultiTaskModel) -> Step:
        device = next(model.parameters()).device
        if name == "gradnorm":
            weighting: nn.Module = GradNorm(TASKS, shared=model.encoder.parameters())
        else:
            weighting = create("task-weighting", name, TASKS)
        weighting.to(device)

        def step(_: MultiTaskModel, losses: dict[str, Tensor]) -> None:
            weighting(losses).backward()
            if isinstance(weighting, FAMO):
                weighting.update({name: loss.detach() / 2 for name, loss in losses.items()})

        return step

    assert_alike(make)
