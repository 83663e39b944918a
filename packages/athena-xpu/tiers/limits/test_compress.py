"""Quantized layers, observers, pruning masks and distillation within the limits of the A series."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import athena_compress._prepare as _prepare
from athena_compress import (
    QAT,
    CubicSchedule,
    Distiller,
    Grid,
    Pruner,
    calibrate,
    equalize,
    fold_batch_norm,
    quantize,
    report,
    sensitivity,
    smooth,
)
from athena_core import components, create
from athena_xpu import ArcLimits

SCHEMES: dict[str, dict[str, Any]] = {
    "int8-dynamic": {},
    "int8-static": {},
    "int8-weight-only": {},
    "int4-weight-only": {"group_size": 2},
}


@pytest.fixture(autouse=True)
def _meta_holds_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere its tensors are shapes alone, which cannot be quantized."""
    monkeypatch.setattr(_prepare, "check_weights", lambda _: None)


class Net(nn.Module):
    """One of each: convolutions with batch norm, attention, an embedding, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Embedding(64, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.stem(x)).flatten(2).transpose(1, 2)
        x = x + self.places(torch.arange(x.shape[1], device=x.device) % 64)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


def make_layers() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
    device = next(model.parameters()).device
    model.zero_grad()
    functional.cross_entropy(model(inputs.to(device)), targets.to(device)).backward()


def quantized(model: nn.Module, scheme: str, x: Tensor) -> nn.Module:
    ready = calibrate(model, [x, x / 2]) if scheme == "int8-static" else model
    return quantize(ready, scheme, **SCHEMES[scheme])


def test_every_registered_scheme_is_here() -> None:
    assert {one.name for one in components("quantization-scheme")} <= SCHEMES.keys()


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_schemes(scheme: str) -> None:
    model, x = Net().eval(), torch.randn(6, 4, 4, 4)
    expected = quantized(copy.deepcopy(model), scheme, x)
    with ArcLimits() as limits:
        there = x.to(limits.device)
        made = quantized(model.to(limits.device), scheme, there)
        assert {one.device for one in (*made.parameters(), *made.buffers())} == {limits.device}
        found, moved = made(there).cpu(), copy.deepcopy(expected).to(limits.device)(there).cpu()
    for ours in (found, moved):  # on the whole: single roundings may fall the other way
        assert (ours - expected(x)).norm() < 0.02 * expected(x).norm()


@pytest.mark.parametrize(("symmetric", "axis"), [(True, 1), (False, None)])
@pytest.mark.parametrize("name", [one.name for one in components("observer")])
def test_observers_choose_the_hosts_ranges(name: str, symmetric: bool, axis: int | None) -> None:
    """Their histograms are searched in float64, which they find on the host; both give the same bits."""
    grid = Grid(signed=symmetric, symmetric=symmetric, axis=axis)
    found = []
    with ArcLimits() as limits:
        for device in ("cpu", limits.device):
            observer = create("observer", name, axis=axis).to(device)
            for step in range(3):
                x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step)) * (step + 1)
                observer(x.to(device))
            scale, zero_point = observer.qparams(grid)
            assert scale.device.type == zero_point.device.type == torch.device(device).type
            found.append((scale.cpu(), zero_point.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("importance", [one.name for one in components("importance")])
def test_masks(importance: str) -> None:
    masks = []
    with ArcLimits() as limits:
        for device in ("cpu", limits.device):
            model = make_layers().to(device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            schedule = CubicSchedule(0.6, steps=3)
            pruner = Pruner(model, importance=importance, schedule=schedule, optimizer=optimizer)
            if importance == "wanda":
                pruner.calibrate([torch.randn(16, 6, generator=torch.Generator().manual_seed(9)).to(device)])
            for step in range(4):
                backward(model, step)
                optimizer.step()
                pruner.step()
            masks.append({name: mask.cpu() for name, mask in pruner.masks.items()})
            assert pruner.finish()
    for name, mask in masks[0].items():  # two scores that differ in the last bit may change places
        assert (masks[1][name] != mask).float().mean() <= 0.05, name


@pytest.mark.parametrize("what", ["2:4", "neurons", "channels"])
def test_structure(what: str) -> None:
    front = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*front, nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    here, x, share = copy.deepcopy(model), torch.randn(4, 4, 6, 6), None if what == "2:4" else 0.5
    Pruner(here, x, what=what, schedule=share).step()
    with ArcLimits() as limits:
        there = x.to(limits.device)
        Pruner(model.to(limits.device), there, what=what, schedule=share).step()
        found = model(there).cpu()
    torch.testing.assert_close(found, here(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranges", ["observed", "learned"])
def test_training_with_roundings(ranges: Any) -> None:
    x = torch.randn(16, 6)
    with ArcLimits() as limits:
        qat = QAT(make_layers().to(limits.device), ranges=ranges).train()
        optimizer = torch.optim.SGD(qat.parameters(), lr=0.01)
        for step in range(3):
            backward(qat, step)
            optimizer.step()
        small, there = qat.convert(), x.to(limits.device)
        error = (small(there) - qat.eval()(there)).norm() / qat(there).norm()
        assert error.item() < 0.05


@pytest.mark.parametrize("name", [one.name for one in components("feature-loss")])
def test_distillation(name: str) -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    x, labels = torch.randn(5, 3, 6, 6), torch.randint(4, (5,))
    distiller = Distiller(teacher, student, features={"1": "1"}, feature_loss=name, example_inputs=x)
    expected = distiller.loss(x, labels).total.item()
    with ArcLimits() as limits:
        loss = distiller.to(limits.device).loss(x.to(limits.device), labels.to(limits.device)).total
        loss.backward()
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_rewrites_and_reports() -> None:
    layers, x = make_layers().eval(), torch.randn(8, 6)
    normed = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4))
    expected = layers(x), smooth(normed, [x])(x)
    model, pictures = Net().eval(), torch.randn(2, 4, 4, 4)
    with ArcLimits() as limits, torch.no_grad():
        there = x.to(limits.device)
        equal = equalize(fold_batch_norm(copy.deepcopy(layers).to(limits.device)))(there).cpu()
        smoothed = smooth(normed.to(limits.device), [there])(there).cpu()
        torch.testing.assert_close((equal, smoothed), expected, rtol=1e-4, atol=1e-5)
        model, pictures = model.to(limits.device), pictures.to(limits.device)
        made = quantize(model, "int8-dynamic")
        assert "head" in str(report(made, compared_with=model, example_inputs=pictures))
        costs = sensitivity(model, [pictures], scheme="int8-dynamic")
        assert all(0 <= layer.value < 1 for layer in costs.layers)
