"""The laws of optimizers around an optimizer: what the conformance kit asks of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_core import Component
from athena_core.testing import Check
from athena_optim._laws import _assert_same, _backward, _model, _saved, _trainable

WrapperFactory = Callable[..., Optimizer]


def _inner(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(_trainable(model), lr=1e-2)


def _step(model: nn.Module, optimizer: Optimizer, step: int) -> Tensor:
    """One step with a closure, which some need; returns the loss before it."""
    loss = optimizer.step(partial(_backward, model, step))  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert isinstance(loss, Tensor), "`step` must return what its first call of the closure returned"
    return loss


def _train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        _step(model, optimizer, step)


def example_wrapper(target: WrapperFactory) -> Optimizer:
    """A wrapper around the AdamW of a small model on the CPU."""
    return target(_inner(_model()))


def _shares_groups(target: WrapperFactory) -> None:
    model = _model()
    inner = _inner(model)
    groups = inner.param_groups
    optimizer = target(inner)
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is groups
    assert inner.param_groups is groups
    inner.load_state_dict(inner.state_dict())  # replaces the list
    assert optimizer.param_groups is inner.param_groups
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.defaults is inner.defaults


def _obeys_schedules(target: WrapperFactory) -> None:
    model = _model()
    inner = _inner(model)
    before = torch.optim.lr_scheduler.ExponentialLR(inner, gamma=0.5)
    optimizer = target(inner)
    after = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
    _train(model, optimizer, range(1))
    before.step()
    after.step()
    torch.testing.assert_close(inner.param_groups[0]["lr"], 1e-2 * 0.5 * 0.1)


def _resumes_exactly(target: WrapperFactory, dtype: torch.dtype) -> None:
    model = _model(dtype)
    optimizer = target(_inner(model))
    _train(model, optimizer, range(7))
    resumed_model = deepcopy(model)
    resumed = target(_inner(resumed_model))
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    _train(model, optimizer, range(7, 14))
    _train(resumed_model, resumed, range(7, 14))
    _assert_same(resumed_model, model)


def _has_plain_state(target: WrapperFactory) -> None:
    model = _model()
    optimizer = target(_inner(model))
    _train(model, optimizer, range(1))
    state = _saved(optimizer.state_dict())
    assert set(state) >= {"state", "param_groups"}
    assert all(isinstance(key, int) for key in state["state"])


def _rests_without_gradients(target: WrapperFactory) -> None:
    model = _model()
    before = deepcopy(model)
    target(_inner(model)).step()
    _assert_same(model, before)


def _runs_closure(target: WrapperFactory) -> None:
    model = _model()
    optimizer = target(_inner(model))
    losses: list[Tensor] = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        losses.append(_backward(model, 0))
        return losses[-1]

    with torch.no_grad():
        loss = optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert loss is losses[0], "`step` must return what its first call of the closure returned"


def _runs_hooks_once(target: WrapperFactory) -> None:
    model = _model()
    inner = _inner(model)
    optimizer = target(inner)
    calls: list[str] = []
    for name, hooked in (("outer", optimizer), ("inner", inner)):
        hooked.register_step_pre_hook(lambda *_, name=name: calls.append(f"before {name}"))
        hooked.register_step_post_hook(lambda *_, name=name: calls.append(f"after {name}"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    _train(model, optimizer, range(1))
    assert calls == ["before outer", "before inner", "after inner", "after outer"]
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls[4:] == ["saving", "saved", "loading", "loaded"]


def _takes_late_groups(target: WrapperFactory) -> None:
    model = _model()
    inner = _inner(model)
    optimizer = target(inner)
    _train(model, optimizer, range(2))
    late = nn.Linear(4, 4, bias=False)
    optimizer.add_param_group({"params": list(late.parameters()), "lr": 0.5})
    assert inner.param_groups[1]["lr"] == 0.5
    before = late.weight.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert late.weight.grad is None
        loss = model(late(torch.ones(2, 4))).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(7):
        optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert not torch.equal(late.weight, before)
    optimizer.load_state_dict(_saved(optimizer.state_dict()))


def _copies(target: WrapperFactory, copy: Callable[..., tuple[nn.Module, Optimizer]]) -> None:
    model = _model()
    optimizer = target(_inner(model))
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


def _serves_scaler(target: WrapperFactory) -> None:
    optimizer = example_wrapper(target)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


def _descends(target: WrapperFactory) -> None:
    model = _model()
    optimizer = target(_inner(model))
    first = _step(model, optimizer, 0)
    for _ in range(49):
        _step(model, optimizer, 0)
    assert _backward(model, 0) < first


def wrapper_checks(component: Component, target: WrapperFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a wrapper, over float32 and bfloat16 where the state matters."""
    for dtype in (torch.float32, torch.bfloat16):
        name = f"resumes exactly after weights_only loading, {str(dtype).removeprefix('torch.')}"
        yield Check(name, partial(_resumes_exactly, target, dtype))
    laws = {
        "an optimizer whose groups are the inner one's list": _shares_groups,
        "obeys schedules made on it and on the inner optimizer": _obeys_schedules,
        "state is integer-keyed tensors and primitives": _has_plain_state,
        "no gradients, no change": _rests_without_gradients,
        "closure runs with gradients enabled, its first value returned": _runs_closure,
        "its hooks and the inner optimizer's run once": _runs_hooks_once,
        "takes groups added late": _takes_late_groups,
        "a deep copy goes on alike": partial(_copies, copy=deepcopy),
        "a pickled copy goes on alike": partial(_copies, copy=_unpickled),
        "lets a GradScaler unscale": _serves_scaler,
        "fifty steps lower a loss": _descends,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
