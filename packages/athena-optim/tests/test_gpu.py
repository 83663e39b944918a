"""Optimizers, wrappers, clipping and schedules on a CUDA device: what the CPU computes, step by step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

import athena_core
from athena_core._kernels import OPS
from athena_optim import (
    AdamW,
    Lamb,
    Lion,
    Lookahead,
    Muon,
    ScheduleFreeAdamW,
    clip_gradients,
    clip_gradients_adaptively,
    clip_gradients_by_value,
    evaluation_weights,
    round_stochastically,
    warmup_cosine,
    warmup_cosine_factor,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
#: Of 20 steps in float64, whose sums are added in another order.
CLOSE = {"rtol": 1e-8, "atol": 1e-10}
Make = Callable[..., Optimizer]
#: Arithmetic that would be rougher than the parameters'.
EXACT: dict[str, dict[str, Any]] = {"muon": {"ns_dtype": "float64"}}
NAMES = [component.name for component in athena_core.components("optimizer")]
WRAPPERS = [component.name for component in athena_core.components("optimizer-wrapper")]


def make_model() -> nn.Module:
    """Matrices, filters, vectors, a scalar, and a parameter without a gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)
    ).double()
    model.register_parameter("scale", nn.Parameter(torch.ones((), dtype=torch.float64)))
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    return model


def gradients(model: Any, number: int) -> Tensor:
    """Leave the gradients of step ``number``, of the same inputs on every device; returns the loss."""
    weight = model[2].weight
    x = torch.randn(16, 3, 6, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    model.zero_grad()
    loss = (model(x.to(weight.device, weight.dtype)) * model.scale - 1).square().mean()
    loss.backward()
    return loss.detach()


def train(model: nn.Module, optimizer: Any, steps: Iterable[int]) -> None:
    """With a closure, which all take and SAM needs."""
    for step in steps:
        optimizer.step(partial(gradients, model, step))


def assert_alike(ours: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for (name, mine), other in zip(ours.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(
            mine.cpu(), other[1], **(tolerance or CLOSE), msg=lambda text, name=name: f"{name}: {text}"
        )


def both(make: Make, *, steps: int = 20, **tolerance: float) -> None:
    """Train on both devices; weights, and those for evaluation, must be alike."""
    here = make_model()
    there = copy.deepcopy(here).to(DEVICE)
    optimizers = []
    for model in (here, there):
        optimizers.append(make([p for p in model.parameters() if p.requires_grad]))
        train(model, optimizers[-1], range(steps))
    assert_alike(there, here, **tolerance)
    with evaluation_weights(optimizers[0]), evaluation_weights(optimizers[1]):
        assert_alike(there, here, **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_optimizers(name: str) -> None:
    both(lambda params: athena_core.create("optimizer", name, params, **EXACT.get(name, {})))


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_options(name: str, options: dict[str, Any]) -> None:
    both(lambda params: athena_core.create("optimizer", name, params, **EXACT.get(name, {}), **options))


@pytest.mark.parametrize("inner", ["adamw", "lamb", "lion"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(name: str, inner: str) -> None:
    create = athena_core.create
    both(lambda params: create("optimizer-wrapper", name, create("optimizer", inner, params)))


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": 0.05},
        {"max_value": 0.01},
        {"adaptive_clip": 0.01},
        {"max_norm": 0.05, "nonfinite": "zero"},
        {"nonfinite": "skip"},
        {"amsgrad": True},
    ],
    ids=str,
)
def test_clipping_and_policies(options: dict[str, Any]) -> None:
    both(partial(AdamW, lr=1e-2, **options))


@pytest.mark.parametrize("policy", ["raise", "skip", "zero"])
def test_gradients_that_are_not_finite(policy: Any) -> None:
    weight = nn.Parameter(torch.ones(3, device=DEVICE))
    weight.grad = torch.tensor([1.0, float("nan"), 1.0], device=DEVICE)
    optimizer = AdamW([weight], lr=0.1, weight_decay=0.0, nonfinite=policy)
    if policy == "raise":
        with pytest.raises(RuntimeError, match="finite"):
            optimizer.step()
    else:
        optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 1.0]
    assert optimizer.skipped == (policy == "skip")


@pytest.mark.parametrize(
    "clip",
    [
        partial(clip_gradients, max_norm=0.1),
        partial(clip_gradients_by_value, max_value=0.01),
        partial(clip_gradients_adaptively, ratio=0.01),
    ],
    ids=["norm", "value", "adaptive"],
)
def test_clipping_alone(clip: Callable[..., Any]) -> None:
    here = make_model()
    there = copy.deepcopy(here).to(DEVICE)
    found = []
    for model in (here, there):
        gradients(model, 0)
        found.append(clip(model.parameters()))
    if found[0] is not None:
        torch.testing.assert_close(found[1].cpu(), found[0])
    for mine, other in zip(there.parameters(), here.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if other.grad is not None:
            torch.testing.assert_close(mine.grad.cpu(), other.grad, **CLOSE)


def test_steps_are_torch_s_own() -> None:
    ours, theirs = (copy.deepcopy(make_model()).float().to(DEVICE) for _ in range(2))
    train(ours, AdamW(ours.parameters(), lr=1e-2), range(10))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True), range(10))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_from_one_device_to_the_other(name: str) -> None:
    create = partial(athena_core.create, "optimizer", name, **EXACT.get(name, {}))
    here = make_model()
    optimizer = create(here.parameters())
    train(here, optimizer, range(5))
    there = copy.deepcopy(here).to(DEVICE)
    moved = create(there.parameters())
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    back = copy.deepcopy(here)
    train(here, optimizer, range(5, 10))
    train(there, moved, range(5, 10))
    assert_alike(there, here)
    returned = create(back.parameters())
    returned.load_state_dict(copy.deepcopy(moved.state_dict()))
    back.load_state_dict(there.state_dict())
    train(here, optimizer, range(10, 12))
    train(back, returned, range(10, 12))
    assert_alike(back, here)


@pytest.mark.parametrize("precision", ["param", "float32"])
def test_bfloat16(precision: Any) -> None:
    """Equal up to a rounding of a weight, a part in 128; with a master copy the weight behind it is exact."""
    drawn = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    weights, masters = [], []
    for device in ("cpu", DEVICE):
        weight = nn.Parameter(drawn.to(device, torch.bfloat16))
        optimizer = AdamW([weight], lr=1e-3, precision=precision)
        for step in range(20):
            grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
            weight.grad = grad.to(device, torch.bfloat16)
            optimizer.step()
        weights.append(weight.detach().float().cpu())
        masters.append(optimizer.state[weight].get("master", weight).detach().float().cpu())
    torch.testing.assert_close(weights[1], weights[0], rtol=1 / 64, atol=1e-3)
    if precision == "float32":
        torch.testing.assert_close(masters[1], masters[0], rtol=1e-5, atol=1e-6)


def test_stochastic_rounding_is_right_on_average_and_repeats() -> None:
    def run(seed: int) -> Tensor:
        weight = nn.Parameter(torch.ones(100_000, device=DEVICE, dtype=torch.bfloat16))
        optimizer = AdamW([weight], lr=1e-4, weight_decay=0.0, precision="stochastic", seed=seed)
        for _ in range(20):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach()

    first = run(0)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))
    # 20 steps of 1e-4, each far below the half of bfloat16's spacing, which rounding to nearest loses
    assert first.float().mean().item() == pytest.approx(1 - 20e-4, abs=2e-4)


def test_rounding() -> None:
    values = torch.tensor([1.0, 1.0 + 1 / 512, float("inf"), float("nan")], device=DEVICE).repeat(10_000)
    rounded = round_stochastically(values, torch.Generator(DEVICE).manual_seed(0)).float().view(-1, 4)
    assert (rounded[:, 0] == 1).all()
    assert rounded[:, 1].mean().item() == pytest.approx(1 + 1 / 512, abs=3e-4)
    assert rounded[:, 2].isinf().all()
    assert rounded[:, 3].isnan().all()
    with pytest.raises(ValueError, match="must be on the device of `values`"):
        round_stochastically(values, torch.Generator())


SCALED = {
    "adamw": AdamW,
    "lamb": Lamb,
    "lion": Lion,
    "lookahead": lambda params: Lookahead(AdamW(params), k=2),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scaler_skips_infinite_gradients(name: str) -> None:
    scaled, plain = (copy.deepcopy(make_model()).float().to(DEVICE) for _ in range(2))
    scaler = torch.amp.GradScaler(DEVICE, init_scale=4.0)
    optimizer, other = SCALED[name](scaled.parameters()), SCALED[name](plain.parameters())
    scaler.scale(torch.zeros((), device=DEVICE))  # which makes the scale, here without a loss
    for step in range(4):
        for model in (scaled, plain):
            gradients(model, step)
        for parameter in scaled.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scaler.get_scale())
        if step == 2:
            scaled.scale.grad.fill_(float("inf"))
        else:
            other.step()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0
    for mine, expected in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


UNWAITED: dict[str, Make] = {
    "adamw": AdamW,
    "adamw-clipped": partial(AdamW, max_norm=1.0, nonfinite="zero"),
    "adamw-by-value": partial(AdamW, max_value=1.0),
    "adamw-adaptive": partial(AdamW, adaptive_clip=0.01),
    "lamb": Lamb,
    "lamb-clipped": partial(Lamb, max_norm=1.0, nonfinite="zero"),
    "lion": Lion,
    "muon": Muon,
    "lookahead": lambda params: Lookahead(AdamW(params), k=2),
}


@pytest.mark.parametrize("name", UNWAITED)
def test_steps_never_wait_for_the_device(name: str) -> None:
    model = make_model().float().to(DEVICE)
    optimizer = UNWAITED[name](model.parameters())
    schedule = warmup_cosine(optimizer, warmup_steps=2, total_steps=10)
    train(model, optimizer, range(2))
    gradients(model, 2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            optimizer.step()
            schedule.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


CAPTURABLE: dict[str, Make] = {
    "adamw": AdamW,
    "adamw-foreach": partial(AdamW, foreach=True),
    "adamw-clipped": partial(AdamW, max_norm=0.05, nonfinite="zero"),
    "lamb": Lamb,
    "lion": Lion,
    "muon": Muon,
    "schedule-free-adamw": ScheduleFreeAdamW,
}


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_captured_step_replays(name: str) -> None:
    eager, captured = (make_model().float().to(DEVICE) for _ in range(2))
    expected = CAPTURABLE[name](eager.parameters(), lr=1e-2)
    optimizer = CAPTURABLE[name](captured.parameters(), lr=1e-2, capturable=True)
    train(eager, expected, range(6))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with warnings.catch_warnings(), torch.cuda.stream(side):
        warnings.simplefilter("ignore")  # torch's advice not to warm up so
        train(captured, optimizer, range(3))
        gradients(captured, 3)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    held = {p: p.grad for p in captured.parameters() if p.grad is not None}
    for step in range(3, 6):
        gradients(captured, step)
        for parameter, grad in held.items():  # where the graph reads them
            grad.copy_(parameter.grad)
            parameter.grad = grad
        graph.replay()
    for mine, other in zip(captured.parameters(), eager.parameters(), strict=True):
        # Muon's bfloat16 products are rounded in another order where matrices are batched otherwise
        tolerance = {"rtol": 1e-2, "atol": 1e-3} if name == "muon" else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(mine, other, **tolerance)


def test_a_rate_on_the_device_follows_its_schedule() -> None:
    model = make_model().float().to(DEVICE)
    rate = torch.tensor(0.1, device=DEVICE)
    optimizer = AdamW(model.parameters(), lr=rate, capturable=True)
    schedule = warmup_cosine(optimizer, warmup_steps=2, total_steps=10)
    for step in range(8):
        held = optimizer.param_groups[0]["lr"]
        assert held.device.type == DEVICE
        wanted = 0.1 * warmup_cosine_factor(step, warmup_steps=2, total_steps=10)
        assert held.item() == pytest.approx(wanted, rel=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to capture
            train(model, optimizer, [step])
        schedule.step()


@pytest.mark.parametrize("make", [AdamW, Lamb, Lion], ids=["adamw", "lamb", "lion"])
def test_steps_compile(make: Make) -> None:
    eager, compiled = (make_model().float().to(DEVICE) for _ in range(2))
    torch.compiler.reset()
    expected, optimizer = make(eager.parameters()), make(compiled.parameters())
    step = torch.compile(optimizer.step)
    for number in range(3):
        gradients(eager, number)
        expected.step()
        gradients(compiled, number)
        step()
    for mine, other in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


OWN = sorted(name for name in OPS if name.startswith("athena_optim::"))


@pytest.mark.parametrize("name", OWN)
def test_ops_on_their_samples(name: str) -> None:
    """The reference on the device is the reference on the CPU, in float64."""
    own = OPS[name]
    for args in own.samples(DEVICE, torch.float64, torch.Generator().manual_seed(0)):
        expected, ours = (
            tree_map_only(Tensor, lambda t, to=to: t.to(to, copy=True), args) for to in ("cpu", DEVICE)
        )
        own.overload(*ours)
        own.reference(*expected)
        for index in own.mutated:
            torch.testing.assert_close(
                tree_map_only(Tensor, Tensor.cpu, ours[index]), expected[index], rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize("name", OWN)
def test_samples_can_be_drawn_on_the_device(name: str) -> None:
    """From the generator that `kernel_checks` hands out: the host's, the same for every device."""
    assert list(OPS[name].samples(DEVICE, torch.float32, torch.Generator().manual_seed(0)))
