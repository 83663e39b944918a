"""The laws of inner updates: what the conformance kit asks of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from athena_core import Component
from athena_core.testing import Check
from athena_meta._inner_update import InnerUpdate, Tensors

UpdateFactory = Callable[[], InnerUpdate]

STEPS = 3
SHAPES = {"body.weight": (3, 2), "body.bias": (3,), "scale": ()}


def _tensors(*lead: int, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def _prepared(target: UpdateFactory) -> InnerUpdate:
    update = target()
    update.prepare(_tensors(), steps=STEPS)
    return update.double()


def example_inner_update(target: UpdateFactory) -> InnerUpdate:
    """An update made without arguments, for parameters of three shapes."""
    return _prepared(target)


def _run(update: InnerUpdate, parameters: Tensors, *, steps: int = STEPS) -> Tensors:
    """Some steps down :math:`\\sum \\phi^2 / 2 + \\phi`, whose gradient is :math:`\\phi + 1`."""
    state = update.start(parameters)
    for step in range(steps):
        gradients = {name: value + 1 for name, value in parameters.items()}
        parameters, state = update(parameters, gradients, state, step)
    return parameters


def _close(ours: Tensors, other: Tensors) -> None:
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


def _is_pure(target: UpdateFactory) -> None:
    update, parameters, gradients = _prepared(target), _tensors(), _tensors(seed=1)
    state = update.start(parameters)
    given = (parameters, gradients, state)
    before = deepcopy(given)
    first = update(parameters, gradients, state, 0)
    assert given[0].keys() == before[0].keys() == first[0].keys(), "names were changed"
    for now, then in zip(given, before, strict=True):
        _close(now, then)
    again = update(parameters, gradients, state, 0)
    for one, other in zip(first, again, strict=True):
        _close(one, other)


def _goes_down(target: UpdateFactory) -> None:
    start = _tensors()
    end = _run(_prepared(target), start)
    for name, value in start.items():
        assert end[name].shape == value.shape, f"{name} changed its shape"
        assert end[name].dtype == value.dtype, f"{name} changed its type"
        nearer = (end[name] + 1).abs() < (value + 1).abs()
        assert bool(nearer.all()), f"{name} did not go down"


def _tasks_are_apart(target: UpdateFactory) -> None:
    update, stacked = _prepared(target), _tensors(4)
    together = _run(update, stacked)
    for task in range(4):
        alone = _run(update, {name: value[task] for name, value in stacked.items()})
        _close({name: value[task] for name, value in together.items()}, alone)


def _leaves_out_what_has_no_gradient(target: UpdateFactory) -> None:
    update, parameters = _prepared(target), _tensors()
    state = update.start(parameters)
    used = {"scale": parameters["scale"]}
    moved, _ = update(used, {"scale": torch.ones((), dtype=torch.float64)}, state, 0)
    assert moved.keys() == used.keys(), f"moved {', '.join(moved)}, with a gradient for scale alone"


def _has_derivatives(target: UpdateFactory) -> None:
    update = _prepared(target)
    names = [*SHAPES]
    leaves = [value.requires_grad_() for value in _tensors().values()]

    def end(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(_run(update, dict(zip(names, values, strict=True))).values())

    assert torch.autograd.gradcheck(end, leaves), "the derivative of the steps is wrong"


def _is_finite_at_zero(target: UpdateFactory) -> None:
    update = _prepared(target)
    parameters = {name: value.requires_grad_() for name, value in _tensors().items()}
    state = update.start(parameters)
    moved = parameters
    for step in range(STEPS):
        gradients = {name: 0 * value for name, value in moved.items()}
        moved, state = update(moved, gradients, state, step)
    total = sum((value.sum() for value in moved.values()), torch.zeros(()))
    for gradient in torch.autograd.grad(total, list(parameters.values())):
        assert bool(gradient.isfinite().all()), f"a zero gradient has the derivative {gradient}"


def _goes_on_after_its_steps(target: UpdateFactory) -> None:
    end = _run(_prepared(target), _tensors(), steps=STEPS + 2)
    assert all(bool(value.isfinite().all()) for value in end.values())


def _resumes(target: UpdateFactory) -> None:
    update = _prepared(target)
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.mul_(0.5)
    file = io.BytesIO()
    torch.save(update.state_dict(), file)
    file.seek(0)
    fresh = _prepared(target)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    _close(_run(fresh, _tensors()), _run(update, _tensors()))


def inner_update_checks(component: Component, target: UpdateFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of an inner update that is made without arguments."""
    laws = {
        "it changes no argument and repeats itself": _is_pure,
        "it goes down, in shape and type": _goes_down,
        "tasks stacked are tasks alone": _tasks_are_apart,
        "what has no gradient is left out": _leaves_out_what_has_no_gradient,
        "its derivatives are those of differences": _has_derivatives,
        "zero gradients have finite derivatives": _is_finite_at_zero,
        "it goes on after the steps it was prepared for": _goes_on_after_its_steps,
        "a fresh one resumes from the state": _resumes,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
