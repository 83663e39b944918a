"""The laws of optimizers, schedules and parameter groups: what the conformance kit asks of each."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from athena_core import Component
from athena_core.testing import Check

OptimizerFactory = Callable[..., Optimizer]
ScheduleFactory = Callable[..., LRScheduler]
GroupsFactory = Callable[..., list[dict[str, Any]]]

EXAMPLE_STEPS = 1000
_SIZES = {"total_steps": EXAMPLE_STEPS, "warmup_steps": EXAMPLE_STEPS // 10}


def _model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small model with a matrix, vectors, a tied weight, a frozen one, and one that gets no gradient."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model[2].weight = model[0].weight
    model[3].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return model.to(dtype)


def _backward(model: nn.Module, step: int) -> Tensor:
    """Leave the gradients of step number ``step`` in ``model``; returns the loss."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
    model.zero_grad()
    loss = (model(x) - 1).square().mean()
    loss.backward()
    return loss.detach()


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    """Take these steps with closures, which every optimizer takes and some need."""
    for step in steps:
        optimizer.step(partial(_backward, model, step))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _saved(state: Any) -> Any:
    """``state`` after a trip through a file that may hold tensors and primitives only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_same(ours: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} differs by {(a - b).abs().max().item()}"


def example_optimizer(target: OptimizerFactory) -> Optimizer:
    """An optimizer of a small model on the CPU."""
    return target(_trainable(_model()))


def example_schedule(target: ScheduleFactory) -> LRScheduler:
    """A schedule of 1,000 steps around SGD with learning rate 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    wanted = inspect.signature(target).parameters
    return target(optimizer, **{name: size for name, size in _SIZES.items() if name in wanted})


def example_group(target: GroupsFactory) -> list[dict[str, Any]]:
    """Groups of a small model with tied and frozen parameters."""
    return target(_model())


def _resumes_exactly(target: OptimizerFactory, dtype: torch.dtype) -> None:
    model = _model(dtype)
    optimizer = target(_trainable(model))
    _train(model, optimizer, range(7))
    resumed_model = deepcopy(model)
    resumed = target(_trainable(resumed_model))
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    _train(model, optimizer, range(7, 14))
    _train(resumed_model, resumed, range(7, 14))
    _assert_same(resumed_model, model)


def _has_plain_state(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    _train(model, optimizer, range(1))
    state = _saved(optimizer.state_dict())
    assert set(state) >= {"state", "param_groups"}
    assert all(isinstance(key, int) for key in state["state"])


def _rests_without_gradients(target: OptimizerFactory) -> None:
    model = _model()
    before = deepcopy(model)
    target(_trainable(model)).step()
    _assert_same(model, before)


def _leaves_gradients(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    _backward(model, 0)
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    optimizer.step()
    for parameter, grad in zip(model.parameters(), before, strict=True):
        if parameter.grad is None or grad is None:
            assert parameter.grad is grad
        else:
            assert torch.equal(parameter.grad, grad)


def _runs_closure(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(_backward(model, 0))
        return calls[-1]

    with torch.no_grad():
        loss = optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert loss is calls[0], "`step` must return what its first call of the closure returned"


def _runs_hooks_once(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    _train(model, optimizer, range(1))
    assert calls == ["before", "after"]


def _takes_late_groups(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    _train(model, optimizer, range(2))
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(late, torch.ones(3))
    resumed_model, resumed_late = deepcopy((model, late))
    resumed = target(_trainable(resumed_model))
    resumed.add_param_group({"params": [resumed_late]})
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    late.grad, resumed_late.grad = torch.full((3,), -0.05), torch.full((3,), -0.05)  # momentum outweighs it
    _train(model, optimizer, range(2, 5))
    _train(resumed_model, resumed, range(2, 5))
    _assert_same(resumed_model, model)
    assert torch.equal(resumed_late, late), "a group added late must resume exactly"


def _takes_empty_tensors(target: OptimizerFactory) -> None:
    empty, one = nn.Parameter(torch.empty(0)), nn.Parameter(torch.ones(1))
    optimizer = target([empty, one])
    empty.grad, one.grad = torch.empty(0), torch.ones(1)
    optimizer.step()
    assert torch.isfinite(one).all()


def _uses_own_rates(target: OptimizerFactory) -> None:
    model = _model()
    first, *others = _trainable(model)
    optimizer = target([{"params": [first], "lr": 0.0}, {"params": others}])
    before = deepcopy(model)
    _train(model, optimizer, range(2))
    assert torch.equal(first, next(before.parameters())), "a group of learning rate 0 moved"
    moved = [not torch.equal(a, b) for a, b in zip(others, _trainable(before)[1:], strict=True)]
    assert any(moved), "the group without a rate of its own rests"


def _copies(target: OptimizerFactory, copy: Callable[..., tuple[nn.Module, Optimizer]]) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    _train(model, optimizer, range(3))
    copied_model, copied = copy((model, optimizer))
    _train(model, optimizer, range(3, 10))
    _train(copied_model, copied, range(3, 10))
    _assert_same(copied_model, model)


def _unpickled(value: object) -> tuple[nn.Module, Optimizer]:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _descends(target: OptimizerFactory) -> None:
    model = _model()
    optimizer = target(_trainable(model))
    first = _backward(model, 0)
    for _ in range(50):
        optimizer.step(partial(_backward, model, 0))  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert _backward(model, 0) < first


def _needs_no_closure(target: OptimizerFactory) -> None:
    ends = []
    for with_closure in (True, False):
        model = _model()
        optimizer = target(_trainable(model))
        for step in range(3):
            if with_closure:
                _train(model, optimizer, range(step, step + 1))
            else:
                _backward(model, step)
                assert optimizer.step() is None
        ends.append(model)
    _assert_same(*ends)


def common_checks(make: OptimizerFactory) -> Iterator[Check]:
    """The laws of an optimizer and of a wrapper around one, which ``make`` makes from parameters."""
    for dtype in (torch.float32, torch.bfloat16):
        name = f"resumes exactly after weights_only loading, {str(dtype).removeprefix('torch.')}"
        yield Check(name, partial(_resumes_exactly, make, dtype))
    laws = {
        "state is integer-keyed tensors and primitives": _has_plain_state,
        "no gradients, no change": _rests_without_gradients,
        "closure runs with gradients enabled, its first value returned": _runs_closure,
        "a deep copy goes on alike": partial(_copies, copy=deepcopy),
        "a pickled copy goes on alike": partial(_copies, copy=_unpickled),
        "fifty steps lower a loss": _descends,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, make))


def optimizer_checks(component: Component, target: OptimizerFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of an optimizer, over float32 and bfloat16 where the state matters."""
    yield from common_checks(target)
    laws = {
        "closures are not needed": _needs_no_closure,
        "step leaves gradients as they are": _leaves_gradients,
        "step hooks run once": _runs_hooks_once,
        "a group's own learning rate is used": _uses_own_rates,
        "takes groups added late": _takes_late_groups,
        "takes parameters with no elements": _takes_empty_tensors,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))


def _advance(schedule: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        schedule.optimizer.step()
        schedule.step()
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
    return rates


def _schedule_resumes(target: ScheduleFactory, at: int) -> None:
    schedule = example_schedule(target)
    _advance(schedule, at)
    resumed = example_schedule(target)
    resumed.optimizer.load_state_dict(_saved(schedule.optimizer.state_dict()))  # as a run restores both
    resumed.load_state_dict(_saved(schedule.state_dict()))
    rate, resumed_rate = (s.optimizer.param_groups[0]["lr"] for s in (schedule, resumed))
    assert rate == resumed_rate, f"rate {resumed_rate} in force after loading, {rate} before saving"
    assert _advance(schedule, 20) == _advance(resumed, 20)


def _rates_are_sane(target: ScheduleFactory) -> None:
    schedule = example_schedule(target)
    rates = [float(schedule.optimizer.param_groups[0]["lr"]), *_advance(schedule, EXAMPLE_STEPS + 5)]
    assert all(0 <= rate < float("inf") for rate in rates)
    assert rates[0] > 0, "a first step with rate 0 is wasted"


def _fills_tensor_rate(target: ScheduleFactory) -> None:
    schedule = example_schedule(target)
    rate = torch.tensor(1.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=rate)
    wanted = inspect.signature(target).parameters
    filled = target(optimizer, **{name: size for name, size in _SIZES.items() if name in wanted})
    for expected, got in zip(_advance(schedule, 20), _advance(filled, 20), strict=True):
        assert abs(expected - got) <= 1e-6
    filled.load_state_dict(_saved(filled.state_dict()))
    assert optimizer.param_groups[0]["lr"] is rate


def schedule_checks(component: Component, target: ScheduleFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a schedule, resumed within the warm-up, after it, and past the end."""
    for at in (0, 7, EXAMPLE_STEPS // 2, EXAMPLE_STEPS + 3):
        yield Check(f"resumes exactly at step {at}", partial(_schedule_resumes, target, at))
    yield Check("rates are finite, none negative, the first above 0", partial(_rates_are_sane, target))
    yield Check("a tensor learning rate is filled, not replaced", partial(_fills_tensor_rate, target))


def _holds_each_once(target: GroupsFactory) -> None:
    model = _model()
    held = [id(p) for group in target(model) for p in group["params"]]
    assert len(held) == len(set(held)), "a parameter appears twice"
    assert set(held) == {id(p) for p in _trainable(model)}, "not exactly the trainable parameters"


def _serves_optimizers(target: GroupsFactory) -> None:
    model = _model()
    _train(model, torch.optim.SGD(target(model), lr=0.1), range(2))


def group_checks(component: Component, target: GroupsFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of parameter groups."""
    yield Check("each trainable parameter once, frozen ones never", partial(_holds_each_once, target))
    yield Check("an optimizer takes them", partial(_serves_optimizers, target))
