"""The laws of optimizers around an optimizer: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_core import Component
from athena_core.testing import Check
from athena_optim._laws import _assert_same, _model, _saved, _train, _trainable, common_checks

WrapperFactory = Callable[..., Optimizer]


def _inner(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(_trainable(model), lr=1e-2)


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


def _train_with(late: nn.Linear, model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    """Take steps whose gradients reach a layer before the model; the optimizer must zero them all."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert late.weight.grad is None
        loss = model(late(torch.ones(2, 4))).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(steps):
        optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _takes_late_groups(target: WrapperFactory) -> None:
    model, late = _model(), nn.Linear(4, 4, bias=False)
    inner = _inner(model)
    optimizer = target(inner)
    _train(model, optimizer, range(2))
    optimizer.add_param_group({"params": list(late.parameters()), "lr": 0.5})
    assert inner.param_groups[1]["lr"] == 0.5
    before = late.weight.detach().clone()
    _train_with(late, model, optimizer, 7)
    assert not torch.equal(late.weight, before)
    resumed_model, resumed_late = deepcopy((model, late))
    resumed = target(_inner(resumed_model))
    resumed.add_param_group({"params": list(resumed_late.parameters())})
    resumed.load_state_dict(_saved(optimizer.state_dict()))
    _train_with(late, model, optimizer, 7)
    _train_with(resumed_late, resumed_model, resumed, 7)
    _assert_same(resumed_model, model)
    _assert_same(resumed_late, late)


def _serves_scaler(target: WrapperFactory) -> None:
    optimizer = example_wrapper(target)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


def wrapper_checks(component: Component, target: WrapperFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a wrapper: those that it shares with optimizers, around AdamW, and its own."""
    yield from common_checks(lambda params: target(torch.optim.AdamW(params, lr=1e-2)))
    laws = {
        "an optimizer whose groups are the inner one's list": _shares_groups,
        "obeys schedules made on it and on the inner optimizer": _obeys_schedules,
        "its hooks and the inner optimizer's run once": _runs_hooks_once,
        "takes groups added late": _takes_late_groups,
        "lets a GradScaler unscale": _serves_scaler,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
