"""Every registered optimizer, wrapped and not, clips and steps within the limits of the A series."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import AthenaError, components, create, load
from athena_xpu import ArcLimits, GradScaler

OPTIMIZERS = [component.name for component in components("optimizer")]
WRAPPERS = [component.name for component in components("optimizer-wrapper")]
SCHEDULES = [component.name for component in components("schedule")]


def model_on(device: torch.device | str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Embedding(7, 6), nn.Linear(6, 10), nn.GELU(), nn.LayerNorm(10), nn.Linear(10, 3)
    )
    return layers.to(device, dtype)


def optimizer_of(name: str, model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    groups = create("param-groups", "muon-groups", model) if name == "muon" else model.parameters()
    return create("optimizer", name, groups, lr=1e-2, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> list[Tensor]:
    """Parameters after some steps, each by a closure, as SAM needs."""
    draws = torch.Generator().manual_seed(1)
    device = next(model.parameters()).device
    for _ in range(steps):
        x, y = (torch.randint(high, (8,), generator=draws).to(device) for high in (7, 3))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return [parameter.detach() for parameter in model.parameters()]


def assert_alike(
    run: Callable[[torch.device | str], list[Tensor]], dtype: torch.dtype = torch.float32
) -> ArcLimits:
    """The device's numbers are the host's; returns what was counted before they were read."""
    expected = run("cpu")
    with ArcLimits() as limits:
        found = run(limits.device)
        syncs = limits.syncs.copy()
        found = [one.cpu() for one in found]
    # where steps are as large as the rate whatever the gradient, a rounding near 0 may turn one
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 3e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    limits.syncs = syncs
    return limits


def variants(name: str) -> Iterator[dict[str, Any]]:
    known = inspect.signature(load("optimizer", name)).parameters
    yield {}
    for option in ({"max_norm": 0.5}, {"foreach": False}, {"capturable": True}, {"weight_decay": 0.1}):
        if option.keys() <= known.keys():
            yield option


# Options choose ways that do not depend on the dtype.
CASES = [
    *((name, options, torch.float32) for name in OPTIMIZERS for options in variants(name)),
    *((name, {}, torch.bfloat16) for name in OPTIMIZERS),
]


@pytest.mark.parametrize(("name", "options", "dtype"), CASES, ids=str)
def test_every_optimizer(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    def run(device: torch.device | str) -> list[Tensor]:
        model = model_on(device, dtype)
        return train(model, optimizer_of(name, model, **options))

    waits = 4 if "max_norm" in options else 0  # once a step: is the norm finite?
    if name == "lamb" and options == {"foreach": False}:
        waits = 4 * 7  # the plain loop reads the counter of each tensor
    assert assert_alike(run, dtype).syncs.total() == waits


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_wrapper(name: str, wrapper: str) -> None:
    def run(device: torch.device | str) -> list[Tensor]:
        model = model_on(device)
        return train(model, create("optimizer-wrapper", wrapper, optimizer_of(name, model)))

    assert_alike(run)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_go_to_the_device(name: str) -> None:
    """Saved on the host, loaded there, and stepped on; float64 counters of the host become what it holds."""

    def run(device: torch.device | str) -> list[Tensor]:
        model = model_on("cpu")
        first = optimizer_of(name, model)
        train(model, first, 2)
        moved = model_on(device)
        moved.load_state_dict(model.state_dict())
        second = optimizer_of(name, moved)
        second.load_state_dict(first.state_dict())
        return train(moved, second, 2)

    assert_alike(run)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_stays_on_the_host(schedule: str) -> None:
    known = inspect.signature(load("schedule", schedule)).parameters
    given = {"total_steps": 4, "warmup_steps": 1, "max_lr": 0.1, "decay_steps": 1}
    options = {name: value for name, value in given.items() if name in known}

    def run(device: torch.device | str) -> list[Tensor]:
        model = model_on(device)
        optimizer = optimizer_of("adamw", model)
        rates = create("schedule", schedule, optimizer, **options)
        for _ in range(3):
            train(model, optimizer, 1)
            rates.step()
        return [*model.parameters()]

    assert not assert_alike(run).syncs


def scaled(scaler: torch.amp.GradScaler, device: torch.device | str, worst: float = 1.0) -> list[Tensor]:
    """Parameters after steps of scaled gradients, one of them by ``worst`` times as large."""
    model = model_on(device)
    optimizer = optimizer_of("adamw", model)
    for factor in (1.0, worst, 1.0):
        optimizer.zero_grad()
        loss = model(torch.arange(7).to(device)).square().mean() * factor
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return [*(parameter.detach() for parameter in model.parameters()), torch.tensor(scaler.get_scale())]


@pytest.mark.parametrize("worst", [1.0, float("inf")])
def test_the_gradient_scaler_needs_no_float64(worst: float) -> None:
    assert_alike(lambda device: scaled(GradScaler("cpu"), device, worst))


def test_torchs_gradient_scaler_does() -> None:
    """Pitfall of torch-xpu-ops#1742; once it passes, Athena's own is needed no more."""
    with ArcLimits() as limits, pytest.raises(AthenaError, match="float64"):
        scaled(torch.amp.GradScaler("cpu"), limits.device)
