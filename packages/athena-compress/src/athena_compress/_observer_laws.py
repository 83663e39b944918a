"""The laws of observers: what the conformance kit asks of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from athena_compress._grid import Grid
from athena_compress._observer import Observer
from athena_core import Component
from athena_core.testing import Check

ObserverFactory = Callable[..., Observer]

UNSIGNED: dict[str, Any] = {"signed": False, "symmetric": False}
GRIDS: tuple[dict[str, Any], ...] = (
    *({}, UNSIGNED, {"bits": 4}),
    *({"bits": 2, **UNSIGNED}, {"signed": False, "symmetric": True}),
)


def _batches(n: int = 3) -> list[Tensor]:
    """Batches ``(5, 3, 7)`` of different ranges, with zeros and an outlier."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(5, 3, 7, generator=generator) * (step + 1) + step for step in range(n)]
    batches[0][0] = 0
    batches[-1][1, 1, 1] = -40
    return batches


def _fed(target: ObserverFactory, batches: list[Tensor], axis: int | None = None) -> Observer:
    observer = target(axis=axis)
    for batch in batches:
        observer(batch)
    return observer


def _saved(state: Any) -> Any:
    """``state`` after a trip through a file that may hold tensors and primitives only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_same(ours: Observer, other: Observer) -> None:
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), f"buffer {name} differs"
    for options in ({}, UNSIGNED):
        grid = Grid(axis=ours.axis, **options)
        for mine, its in zip(ours.qparams(grid), other.qparams(grid), strict=True):
            assert torch.equal(mine, its), f"{mine} is not {its}"


def example_observer(target: ObserverFactory) -> Observer:
    """An observer that has seen three batches."""
    return _fed(target, _batches())


def _passes_through(target: ObserverFactory) -> None:
    for training in (True, False):
        observer = target().train(training)
        x = _batches()[0].requires_grad_()
        before = x.detach().clone()
        y = observer(x)
        assert torch.equal(y.detach(), before), "the values changed"
        y.sum().backward()
        assert x.grad is not None, "the gradient was cut"
        assert torch.equal(x.grad, torch.ones_like(x)), "the gradient changed"
        observer.qparams(Grid())  # seen in both modes


def _commutes(target: ObserverFactory, axis: int | None) -> None:
    batches = _batches()
    if target().COMMUTES:
        _assert_same(_fed(target, batches, axis), _fed(target, batches[::-1], axis))


def _resumes(target: ObserverFactory, axis: int | None) -> None:
    batches = _batches(5)
    observer = _fed(target, batches[:3], axis)
    fresh = target(axis=axis)
    fresh.load_state_dict(_saved(observer.state_dict()))
    _assert_same(fresh, observer)
    for batch in batches[3:]:
        fresh(batch)
        observer(batch)
    _assert_same(fresh, observer)


def _copies(target: ObserverFactory) -> None:
    observer = _fed(target, _batches())
    copied = deepcopy(observer)
    _assert_same(copied, observer)
    copied(torch.full((2, 2), 1000.0))
    _assert_same(observer, _fed(target, _batches()))


def _fits_grids(target: ObserverFactory, axis: int | None) -> None:
    observer = _fed(target, _batches(), axis)
    shape = () if axis is None else (3,)
    for options in GRIDS:
        grid = Grid(axis=axis, **options)
        scale, zero_point = observer.qparams(grid)
        assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int32)
        assert scale.shape == zero_point.shape == shape
        assert bool((scale > 0).all() & scale.isfinite().all()), f"scale {scale}"
        assert bool(((grid.low <= zero_point) & (zero_point <= grid.high)).all()), f"zero point {zero_point}"


def _takes_odd_inputs(target: ObserverFactory) -> None:
    inputs = [torch.zeros(4), torch.full((3,), 2.0), torch.full((3,), -2.0), torch.tensor(1e-40)]
    inputs += [torch.tensor([1e38, -1e38]), torch.randn(4, 6).t(), torch.ones(3, dtype=torch.bfloat16)]
    for x in inputs:
        observer = target()
        observer(torch.empty(0))  # neither data nor an error
        observer(x)
        for options in ({}, UNSIGNED):
            scale, _ = observer.qparams(Grid(**options))
            assert bool((scale > 0) & scale.isfinite()), f"scale {scale} of {x}"


def _refuses(target: ObserverFactory) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        observer = _fed(target, _batches())
        try:
            observer(torch.tensor([1.0, bad]))
        except ValueError:
            _assert_same(observer, _fed(target, _batches()))
        else:
            raise AssertionError(f"{bad} was taken")
    for observer in (target(), example_observer(target)):
        observer.reset()
        assert _complaint(observer).startswith("no calibration data"), "gave a scale without data"


def _complaint(observer: Observer) -> str:
    try:
        observer.qparams(Grid())
    except ValueError as error:
        return str(error)
    return ""


def observer_checks(component: Component, target: ObserverFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of an observer, of one range and of one for each channel."""
    for axis in (None, 1):
        where = "one range" if axis is None else "a range a channel"
        yield Check(f"a fresh one resumes from the state, {where}", partial(_resumes, target, axis))
        yield Check(f"order does not matter, where so promised, {where}", partial(_commutes, target, axis))
        yield Check(f"scales and zero points fit every grid, {where}", partial(_fits_grids, target, axis))
    laws = {
        "values and gradients go through unchanged": _passes_through,
        "a deep copy goes its own way": _copies,
        "constant, zero, tiny, huge and strided values have a scale": _takes_odd_inputs,
        "NaN, infinity and missing data are refused": _refuses,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
