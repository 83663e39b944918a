"""Schedule-free AdamW against its paper, and the two kinds of weights that it holds."""

from __future__ import annotations

import io
import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athena_optim import ScheduleFreeAdamW

MODES = [{"foreach": False}, {"foreach": True}, {"differentiable": True}, {"capturable": True}, {}]


def plain_schedule_free(
    start: list[float],
    gradients: list[list[float] | None],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> tuple[list[float], list[float]]:
    """y and x after algorithm 1 of arXiv:2405.15682, which keeps x and z; None is a missing gradient."""
    x, z, v, t, total, largest = list(start), list(start), [0.0] * len(start), 0, 0.0, 0.0
    beta1, beta2 = betas
    for gradient in gradients:
        if gradient is None:
            continue
        t += 1
        rate = lr * min(1.0, t / warmup_steps) if warmup_steps else lr
        largest = max(largest, rate)
        weight = t**r * largest**weight_lr_power
        total += weight
        c = weight / total
        for i, g in enumerate(gradient):
            y = (1 - beta1) * z[i] + beta1 * x[i]
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            z[i] -= rate * (g / (math.sqrt(v[i] / (1 - beta2**t)) + eps) + weight_decay * y)
            x[i] = (1 - c) * x[i] + c * z[i]
    return [(1 - beta1) * b + beta1 * a for a, b in zip(x, z, strict=True)], x


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # differentiable
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.0, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0},
        {"weight_decay": 0.3, "warmup_steps": 20, "r": 0.0, "weight_lr_power": 2.0},
        {"weight_decay": 0.3, "warmup_steps": 20, "r": 1.0, "weight_lr_power": 0.0},
    ],
    ids=["plain", "warm-up", "powers"],
)
def test_fifty_steps_equal_plain_python(mode, options):
    """Zero and missing gradients among them: each parameter counts its own steps (pitfall 6)."""
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-8, **options}
    start = [1.0, -2.0, 3.0]
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    held = parameter.clone() if mode.get("differentiable") else parameter
    optimizer = ScheduleFreeAdamW([held], **options, **mode)
    draws = torch.randn(50, 3, dtype=torch.float64)
    gradients = [None if step % 7 == 3 else (step % 7 != 5) * draws[step] for step in range(50)]
    for gradient in gradients:
        held.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    y, x = plain_schedule_free(start, [None if g is None else g.tolist() for g in gradients], **options)
    # 50 steps of about 10 roundings each, of numbers near 1; x is y and z over 0.8
    torch.testing.assert_close(held.tolist(), y, rtol=0, atol=1e-12)
    with optimizer.evaluation_weights():
        torch.testing.assert_close(held.tolist(), x, rtol=0, atol=1e-12)


def test_x_is_the_mean_of_z():
    """With equal weights, c = 1/t: x is the plain mean of z after each step. z goes 0.9, 0.8, 0.7."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = ScheduleFreeAdamW([weight], lr=0.1, eps=0.0)
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    with optimizer.evaluation_weights():
        assert weight.item() == pytest.approx(0.8, abs=1e-15)
    # y = 0.1 z + 0.9 x
    assert weight.item() == pytest.approx(0.1 * 0.7 + 0.9 * 0.8, abs=1e-15)


def make(dtype: torch.dtype = torch.float32, **options):
    generator = torch.Generator().manual_seed(0)
    model = nn.ParameterList(
        torch.randn(s, generator=generator).to(dtype) for s in [(7, 5), (5,), (400, 400)]
    )
    unused = nn.Parameter(torch.ones(2, dtype=dtype))
    model.append(unused)
    return model, ScheduleFreeAdamW(model.parameters(), lr=0.01, warmup_steps=4, weight_decay=0.1, **options)


def train(model, optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in list(model)[:-1]:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def same(ours, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_evaluation_changes_nothing_not_by_rounding(dtype):
    """A hundred evaluations, after each step and before the first, leave the path bit for bit."""
    (model, optimizer), (other, undisturbed) = make(dtype), make(dtype)
    for step in range(4):
        for _ in range(25):
            before = deepcopy(list(model))
            with optimizer.evaluation_weights():
                if step > 1:  # after one step x, y and z are the same
                    assert not torch.equal(model[2], before[2])
            assert same(model, before)
        train(model, optimizer, range(step, step + 1))
        train(other, undisturbed, range(step, step + 1))
    assert same(model, other)
    assert all("y" not in state for state in optimizer.state.values())


def test_switching_twice_is_switching_once():
    model, optimizer = make()
    train(model, optimizer, range(3))
    y = deepcopy(list(model))
    optimizer.train()
    assert same(model, y)
    optimizer.eval()
    x = deepcopy(list(model))
    optimizer.eval()
    assert same(model, x)
    with optimizer.evaluation_weights():
        assert same(model, x)
    assert not optimizer.training
    assert same(model, x)
    optimizer.train()
    assert same(model, y)


def test_weights_come_back_when_evaluation_raises():
    model, optimizer = make()
    train(model, optimizer, range(2))
    y = deepcopy(list(model))
    with pytest.raises(KeyError), optimizer.evaluation_weights():
        raise KeyError
    assert same(model, y)


def test_step_in_evaluation_is_an_error_before_the_closure_runs():
    model, optimizer = make()
    train(model, optimizer, range(1))
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"`train\(\)` of the schedule-free optimizer"):
        optimizer.step(lambda: pytest.fail("the closure ran"))


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_resumes_bit_for_bit_whichever_weights_were_saved(evaluating, dtype, at):
    model, optimizer = make(dtype)
    train(model, optimizer, range(at))
    if evaluating:
        optimizer.eval()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed_model, resumed = make(dtype)
    train(resumed_model, resumed, range(50, 52))  # what it held before is gone
    resumed_model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.training is not evaluating
    for each in (optimizer, resumed):
        each.train()
    train(model, optimizer, range(at, at + 3))
    train(resumed_model, resumed, range(at, at + 3))
    assert same(resumed_model, model)
    for each in (optimizer, resumed):
        each.eval()
    assert same(resumed_model, model)


def test_late_parameter_warms_up_and_averages_by_itself():
    """One that joins at step 10, in evaluation, takes the path it would have taken alone (pitfall 6)."""
    gradients = torch.randn(20, 3)
    early, late, alone = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer, single = (ScheduleFreeAdamW([p], lr=0.1, warmup_steps=5) for p in (early, alone))
    for step, gradient in enumerate(gradients):
        if step == 10:
            optimizer.eval()
            optimizer.add_param_group({"params": [late]})
            optimizer.train()
        early.grad = late.grad = gradient.clone()
        optimizer.step()
    for gradient in gradients[10:]:
        alone.grad = gradient.clone()
        single.step()
    assert torch.equal(late, alone)
    optimizer.eval()
    single.eval()
    assert torch.equal(late, alone)


def test_a_rate_of_zero_moves_nothing():
    """No weight so far: the average's share is 0, not 0/0."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = ScheduleFreeAdamW([weight], lr=0.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    assert torch.equal(weight, torch.ones(3))
    optimizer.step()
    optimizer.eval()
    # x forgets the step without a rate: it is z. At t = 2 both moments of equal gradients are 1.
    torch.testing.assert_close(weight.data, torch.full((3,), 0.5), rtol=0, atol=1e-6)


def test_a_schedule_acts_through_the_rate():
    """The average weighs by the largest rate so far, so a decaying one keeps equal weights."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = ScheduleFreeAdamW([weight], lr=0.4, eps=0.0)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
    optimizer.eval()
    assert weight.item() == pytest.approx((0.6 + 0.4 + 0.3) / 3, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lists_and_loop_agree(dtype):
    (model, optimizer), (other, looped) = make(dtype), make(dtype, foreach=False)
    train(model, optimizer, range(6))
    train(other, looped, range(6))
    bound = 1e-6 if dtype == torch.float32 else 2e-2  # the loop rounds each product apart
    for a, b in zip(model, other, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"betas": (0.0, 0.9)}, r"betas\[0\]"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        ({"r": -1.0}, "`r`"),
        ({"weight_lr_power": float("nan")}, "weight_lr_power"),
    ],
)
def test_refuses_options_outside_their_ranges(options, name):
    with pytest.raises(ValueError, match=name):
        ScheduleFreeAdamW([nn.Parameter(torch.zeros(1))], **options)
    with pytest.raises(ValueError, match=name):
        ScheduleFreeAdamW([{"params": nn.Parameter(torch.zeros(1)), **options}])


class NoCopies(TorchDispatchMode):
    """Forbids ops that take numbers of the host's memory to a device, which a CUDA graph cannot capture."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        devices = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        assert not (copies and "cpu" in devices), (func, devices)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["number", "tensor", "tensor on the host"])
def test_a_capturable_step_copies_nothing_from_the_host(kind):
    """Of fake tensors, which have a device and no values."""
    with FakeTensorMode():
        param = nn.Parameter(torch.ones(3, device="cuda"))
        optimizer = ScheduleFreeAdamW([param], warmup_steps=3, r=1.0, capturable=True)
        if kind != "number":  # only now: whether it is below 0 is asked of the values
            place = "cuda" if kind == "tensor" else "cpu"
            optimizer.param_groups[0]["lr"] = torch.tensor(0.1, device=place)
        for _ in range(2):
            param.grad = torch.ones_like(param)
            optimizer.step()
        with NoCopies():
            optimizer.step()
        assert all(one.device.type == "cuda" for one in optimizer.state[param].values())


def test_refuses_lists_when_capturable():
    with pytest.raises(RuntimeError, match="capturable"):
        ScheduleFreeAdamW([nn.Parameter(torch.zeros(1))], foreach=True, capturable=True)
