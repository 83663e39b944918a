"""Accelerate runs every optimizer unchanged: prepared, clipped, saved and resumed as a plain loop would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from cases import CASES, Case
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """No state of Accelerate from test to test, and the CPU."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def make(case: Case) -> tuple[nn.Module, torch.optim.Optimizer, ExponentialLR, DataLoader]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x = torch.randn(48, 4)
    loader = DataLoader(TensorDataset(x, x[:, :2].sin()), batch_size=8)
    optimizer = case.make(model.parameters(), lr=0.05)
    return model, optimizer, ExponentialLR(optimizer, 0.9), loader


def plain_loop(case: Case) -> list[torch.Tensor]:
    model, optimizer, schedule, loader = make(case)
    for x, y in loader:

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)  # noqa: B023
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            return loss

        optimizer.step(closure)
        schedule.step()
    return [p.detach() for p in model.parameters()]


@cases
@pytest.mark.parametrize("cut", [None, 3])
def test_equals_a_plain_loop(case, cut, tmp_path):
    """Also when it is saved after three batches, and loaded into everything made anew."""

    def train(accelerator, model, optimizer, schedule, batches):
        for x, y in batches:

            def closure():
                optimizer.zero_grad()
                loss = mse_loss(model(x), y)  # noqa: B023
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
                return loss

            optimizer.step(closure)
            schedule.step()

    accelerator = Accelerator(cpu=True)
    model, optimizer, schedule, loader = accelerator.prepare(*make(case))
    batches = list(loader)
    train(accelerator, model, optimizer, schedule, batches[:cut])
    if cut is not None:
        accelerator.save_state(str(tmp_path / "saved"))
        accelerator = Accelerator(cpu=True)
        model, optimizer, schedule, loader = accelerator.prepare(*make(case))
        train(accelerator, model, optimizer, schedule, batches[:1])  # state of its own, to be replaced
        accelerator.load_state(str(tmp_path / "saved"))
        train(accelerator, model, optimizer, schedule, batches[cut:])
    for a, b in zip(accelerator.unwrap_model(model).parameters(), plain_loop(case), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", [case for case in CASES if not case.closure], ids=lambda case: case.name)
def test_accumulated_gradients(case):
    """Two half batches a step: Accelerate's optimizer steps on each second call alone."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer, _, loader = make(case)
    twin, plain, _, _ = make(case)
    batches = list(loader)
    model, optimizer = accelerator.prepare(model, optimizer)
    for x, y in batches[:4]:
        with accelerator.accumulate(model):
            accelerator.backward(mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    for first, second in (batches[:2], batches[2:4]):
        plain.zero_grad()
        for x, y in (first, second):
            (mse_loss(twin(x), y) / 2).backward()
        plain.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
