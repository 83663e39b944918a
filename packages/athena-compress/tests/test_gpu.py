"""Compression on a CUDA device: the integers, masks and losses of the CPU, and files that go between them.

Models are in float64 where results are compared closely: in float32 a sum of another order can fall on the
other side of a rounding, which is a whole step of the grid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

import athena_core
from athena_compress import (
    QAT,
    CubicSchedule,
    Distiller,
    Grid,
    LotteryTicket,
    Pruner,
    TeacherCache,
    calibrate,
    equalize,
    fold_batch_norm,
    load,
    parameter_count,
    quantize,
    report,
    save,
    sensitivity,
    smooth,
)
from athena_compress._int8_math import integer_matmul
from athena_core._kernels import OPS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # scales are float32 whatever the model is
SCHEMES: dict[str, dict[str, Any]] = {
    "int8-dynamic": {},
    "int8-static": {},
    "int8-weight-only": {},
    "int4-weight-only": {"group_size": 2},
}


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


def make_net() -> tuple[Net, Net, Tensor]:
    """The model on the CPU and on the device, and inputs on the CPU."""
    torch.manual_seed(0)
    model = Net().double()
    model(torch.randn(8, 4, 4, 4, dtype=torch.float64))  # running statistics that are not the first ones
    return model.eval(), copy.deepcopy(model).eval().to(DEVICE), torch.randn(6, 4, 4, 4, dtype=torch.float64)


def make_layers(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def backward(model: nn.Module, step: int) -> None:
    """Leave the gradients of step number ``step``, the same on every device."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (8,), generator=generator)
    weight = next(model.parameters())
    model.zero_grad()
    functional.cross_entropy(model(inputs.to(weight)), targets.to(weight.device)).backward()


def assert_alike(ours: Any, expected: Any, **tolerance: float) -> None:
    ours = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), ours)
    expected = tree_map_only(Tensor, Tensor.detach, expected)
    torch.testing.assert_close(ours, expected, **(tolerance or CLOSE))


def assert_on_device(model: nn.Module) -> None:
    assert {one.device.type for one in (*model.parameters(), *model.buffers())} == {DEVICE}


def quantized(model: nn.Module, scheme: str, x: Tensor) -> nn.Module:
    ready = calibrate(model, [x, x / 2]) if scheme == "int8-static" else model
    return quantize(ready, scheme, **SCHEMES[scheme])


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_schemes(scheme: str) -> None:
    here, there, x = make_net()
    expected = quantized(here, scheme, x)
    made = quantized(there, scheme, x.to(DEVICE))
    assert_on_device(made)
    assert_alike(made(x.to(DEVICE)), expected(x))
    assert_alike(dict(made.state_dict()), dict(expected.state_dict()))
    assert_alike(expected.to(DEVICE)(x.to(DEVICE)), made(x.to(DEVICE)).cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_schemes_in_narrow_dtypes(scheme: str, dtype: torch.dtype) -> None:
    """On the whole: single roundings may fall the other way."""
    here, there, x = make_net()
    expected = quantized(here, scheme, x)(x)
    made = quantized(there.to(dtype), scheme, x.to(DEVICE, dtype))
    y = made(x.to(DEVICE, dtype))
    assert y.dtype == dtype
    error = (y.cpu().double() - expected).norm() / expected.norm()
    assert error < (0.02 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
@torch.no_grad()
def test_quantized_models_compile(scheme: str) -> None:
    _, there, x = make_net()
    made, x = quantized(there.float(), scheme, x.float().to(DEVICE)), x.float().to(DEVICE)
    torch.compiler.reset()
    error = (torch.compile(made, fullgraph=True)(x) - made(x)).norm() / made(x).norm()
    assert error < 0.02


@pytest.mark.parametrize("observer", [one.name for one in athena_core.components("observer")])
def test_observers(observer: str) -> None:
    ranges = []
    for device in ("cpu", DEVICE):
        made = athena_core.create("observer", observer).to(device)
        for step in range(4):
            x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step)) * (step + 1)
            made(x.to(device))
        ranges.append(made.qparams(Grid(signed=False, symmetric=False)))
    assert {one.device.type for one in ranges[1]} == {DEVICE}
    assert_alike(ranges[1], ranges[0], rtol=1e-3, atol=1)  # of zero points, one


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_integer_products_are_exact(precision: str) -> None:
    """In float32, and in the 19 bits that `high` allows the device's matrix units."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        x = torch.randint(-127, 128, (70, 3000), dtype=torch.int8)
        weight = torch.randint(-127, 128, (40, 3000), dtype=torch.int8)
        x[0], weight[0] = 127, 127
        product = integer_matmul(x.to(DEVICE), weight.to(DEVICE))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(product.cpu().long(), x.long() @ weight.long().T)


OWN = sorted(name for name, one in OPS.items() if name.startswith("athena_compress::") and one.samples)


@pytest.mark.parametrize("name", OWN)
def test_ops_on_their_samples(name: str) -> None:
    """The reference on the device is the reference on the CPU, in float64."""
    own = OPS[name]
    for args in own.samples(DEVICE, torch.float64, torch.Generator().manual_seed(0)):
        assert_alike(own.overload(*args), own.reference(*tree_map_only(Tensor, Tensor.cpu, args)))


@pytest.mark.parametrize("name", OWN)
def test_samples_can_be_drawn_on_the_device(name: str) -> None:
    """From the generator that `kernel_checks` hands out: the host's, the same for every device."""
    assert list(OPS[name].samples(DEVICE, torch.float32, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_files_go_from_one_device_to_the_other(scheme: str, tmp_path: Path) -> None:
    here, there, x = make_net()
    made = quantized(there, scheme, x.to(DEVICE))
    save(made, tmp_path / "there")
    read = load(tmp_path / "there", trust=[Net])
    assert_alike(made(x.to(DEVICE)), read(x))
    save(quantized(here, scheme, x), tmp_path / "here")
    assert_alike(load(tmp_path / "here", trust=[Net]).to(DEVICE)(x.to(DEVICE)), read(x))


@torch.no_grad()
def test_rewrites() -> None:
    here, there, x = make_net()
    there_x = x.to(DEVICE)
    assert_alike(fold_batch_norm(there)(there_x), here(x))
    layers = make_layers().eval()
    moved, inputs = copy.deepcopy(layers).to(DEVICE), torch.randn(32, 6, dtype=torch.float64)
    assert_alike(equalize(fold_batch_norm(moved))(inputs.to(DEVICE)), layers(inputs))
    normed = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)).double()
    expected = smooth(normed, [inputs])
    assert_alike(smooth(copy.deepcopy(normed).to(DEVICE), [inputs.to(DEVICE)])[1].weight, expected[1].weight)


@pytest.mark.parametrize("ranges", ["observed", "learned"])
def test_training_with_roundings(ranges: Any) -> None:
    results = []
    layers = make_layers()
    for device in ("cpu", DEVICE):
        qat = QAT(copy.deepcopy(layers).to(device), ranges=ranges).train()
        optimizer = torch.optim.SGD(qat.parameters(), lr=0.01)
        for step in range(6):
            backward(qat, step)
            optimizer.step()
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
        small = qat.convert()
        results.append(([*qat.parameters()], qat.eval()(x.to(device)), small(x.to(device))))
    assert_alike(results[1], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("importance", [one.name for one in athena_core.components("importance")])
def test_masks(importance: str) -> None:
    masks = []
    for device in ("cpu", DEVICE):
        model = make_layers().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        schedule = CubicSchedule(0.6, steps=4)
        pruner = Pruner(model, importance=importance, schedule=schedule, optimizer=optimizer)
        if importance == "wanda":
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
            pruner.calibrate([x.to(device)])
        for step in range(6):
            backward(model, step)
            optimizer.step()
            pruner.step()
        masks.append((pruner.masks, dict(model.state_dict())))
        assert pruner.finish()
    assert {mask.device.type for mask in masks[1][0].values()} == {DEVICE}
    assert_alike(masks[1], masks[0])


@pytest.mark.parametrize("what", ["2:4", "neurons", "channels", "layers"])
def test_structure(what: str) -> None:
    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.linear(x).tanh()

    results = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(2)
        front = [
            nn.Conv2d(4, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
        ]
        layers = [nn.Linear(32, 16), nn.ReLU(), Residual(16), Residual(16), nn.Linear(16, 5)]
        model = nn.Sequential(*front, *layers).double()
        x = torch.randn(4, 4, 6, 6, dtype=torch.float64)
        model, x = model.to(device).eval(), x.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        model(x).square().sum().backward()
        optimizer.step()
        share = None if what == "2:4" else 0.5
        pruner = Pruner(model, x, what=what, schedule=share, optimizer=optimizer)
        pruner.step()
        optimizer.step()
        results.append((parameter_count(model), dict(model.state_dict()), model(x)))
    assert_alike(results[1], results[0])


@pytest.mark.parametrize("name", [one.name for one in athena_core.components("feature-loss")])
def test_distillation(name: str) -> None:
    losses = []
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).double()
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).double()
    x, labels = torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.randint(4, (5,))
    distiller = Distiller(teacher, student, features={"1": "1"}, feature_loss=name, example_inputs=x)
    for device in ("cpu", DEVICE):
        own = copy.deepcopy(distiller).to(device)
        found = own.loss(x.to(device), labels.to(device))
        found.total.backward()
        grads = [parameter.grad for parameter in own.student.parameters()]
        losses.append((found.total, found.features, grads))
    assert_on_device(own)
    assert {one.device.type for one in own.teacher.parameters()} == {DEVICE}
    assert_alike(losses[1], losses[0])


def test_a_teacher_s_answers_come_to_the_student(tmp_path: Path) -> None:
    teacher, student = (nn.Linear(3, 2).to(DEVICE) for _ in range(2))
    data = torch.randn(10, 3, device=DEVICE)
    cache = TeacherCache.write(tmp_path / "cache", teacher, data.split(4))
    known = Distiller(None, student).loss(
        data[[7, 2]], teacher_outputs=cache[torch.tensor([7, 2], device=DEVICE)]
    )
    torch.testing.assert_close(known.total, Distiller(teacher, student).loss(data[[7, 2]]).total)


def test_a_ticket_rewinds() -> None:
    model = make_layers().to(DEVICE)
    start = copy.deepcopy(model.state_dict())
    ticket = LotteryTicket(model, torch.optim.AdamW(model.parameters()))
    with torch.no_grad():
        model[0].weight.mul_(2)
    pruner = Pruner(model, schedule=0.5)
    pruner.step()
    ticket.rewind(pruner)
    kept = model[0].weight != 0
    assert torch.equal(model[0].weight[kept], start["0.weight"][kept])


def test_reports(tmp_path: Path) -> None:
    _, there, x = make_net()
    x = x.to(DEVICE)
    made = quantized(there, "int8-dynamic", x)
    found = report(made, compared_with=there, example_inputs=x)
    assert "head" in str(found)
    costs = sensitivity(there, [x], scheme="int8-dynamic")
    assert {layer.name for layer in costs.layers} >= {"head", "up"}
    assert all(0 <= layer.value < 1 for layer in costs.layers)


def test_the_recipe_s_measurements() -> None:
    from athena_compress._stage_results import milliseconds, peak_bytes

    model: Callable[..., Any] = make_layers(torch.float32).eval().to(DEVICE)
    x = torch.randn(16, 6, device=DEVICE)
    with torch.inference_mode():
        assert milliseconds(model, x) > 0
        assert peak_bytes(model, x) >= sum(p.nbytes for p in model.parameters())
