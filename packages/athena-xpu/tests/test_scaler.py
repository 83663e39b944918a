"""The gradient scaler without float64: equal to torch's, step for step."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athena_xpu import GradScaler

Scaler = torch.amp.GradScaler


class NoFloat64(TorchDispatchMode):
    """Raises as Alchemist does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in tree_leaves(found)):
            raise RuntimeError("Required aspect fp64 is not supported on the device")
        return found


def problem(optimizers: int = 1, **options):
    """Weights with an optimizer each; gradients that are drawn, and infinite where `spoil` says."""
    torch.manual_seed(0)
    weights = [torch.randn(5, requires_grad=True) for _ in range(optimizers)]
    made = [torch.optim.SGD([weight], lr=0.1, momentum=0.9, **options) for weight in weights]
    return weights, made


def train(scaler, weights, optimizers, *, spoiled=(), steps=8, clip=False):
    """Steps; in those that are spoiled, the first weight's gradient overflows. Returns the scales."""
    generator, scales = torch.Generator().manual_seed(1), []
    for step in range(steps):
        inputs = torch.randn(len(weights), 5, generator=generator)
        loss = sum((weight * x).square().sum() for weight, x in zip(weights, inputs, strict=True))
        scaler.scale(loss).backward()
        if step in spoiled:
            weights[0].grad[0] = math.inf
        for optimizer in optimizers:
            if clip:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizers", [1, 3])
@pytest.mark.parametrize("scale", [2.0**16, 2.0**-3, 1000.0])
def test_equals_torchs(scale, optimizers, fused, clip):
    """Skipped steps, growth and backing off, one optimizer and several, fused steps and clipped gradients."""
    options = {"init_scale": scale, "growth_interval": 3}
    found, expected = problem(optimizers, fused=fused), problem(optimizers, fused=fused)
    kwargs = {"spoiled": (1, 2, 6), "clip": clip}
    ours = train(GradScaler("cpu", **options), *found, **kwargs)
    assert ours == train(Scaler("cpu", **options), *expected, **kwargs)
    assert len(set(ours)) > 2
    for mine, theirs in zip(found[0], expected[0], strict=True):
        assert torch.equal(mine, theirs)


def test_needs_no_float64():
    """torch-xpu-ops#1742: torch's own takes the reciprocal in float64."""
    with NoFloat64():
        train(GradScaler("cpu"), *problem(), spoiled=(1,))
        with pytest.raises(RuntimeError, match="fp64"):
            train(Scaler("cpu"), *problem())


@given(st.integers(-126, 126))
def test_reciprocals_of_powers_of_two_are_exact(exponent):
    """The identity on which the docstring relies."""
    scale = torch.tensor(2.0**exponent, dtype=torch.float32)
    assert scale.reciprocal().item() == 2.0**-exponent


@pytest.mark.parametrize("first", [GradScaler, Scaler])
def test_state_dicts_are_exchanged(first):
    """A run begun with either goes on with the other as if it were the same."""
    second = Scaler if first is GradScaler else GradScaler
    options = {"growth_interval": 3}
    weights, optimizers = problem()
    begun = first("cpu", **options)
    train(begun, weights, optimizers, spoiled=(1,), steps=4)
    other = second("cpu", **options)
    other.load_state_dict(begun.state_dict())
    assert other.state_dict() == begun.state_dict()

    copied, copies = problem()
    copied[0].data.copy_(weights[0])
    copies[0].load_state_dict(deepcopy(optimizers[0].state_dict()))  # it keeps the tensors it is given
    assert train(begun, weights, optimizers) == train(other, copied, copies)
    assert torch.equal(weights[0], copied[0])


def test_switched_off_it_does_nothing():
    weights, optimizers = problem()
    plain, plain_optimizers = problem()
    train(GradScaler("cpu", enabled=False), weights, optimizers)
    train(Scaler("cpu", enabled=False), plain, plain_optimizers)
    assert torch.equal(weights[0], plain[0])
    GradScaler("cpu", enabled=False).unscale_(optimizers[0])


def test_misuse():
    weights, (optimizer,) = problem()
    scaler = GradScaler("cpu")
    with pytest.raises(AssertionError, match="unscale_"):
        scaler.unscale_(optimizer)
    scaler.scale(weights[0].sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"`unscale_`: the optimizer was already unscaled .*once a step"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already stepped"):
        scaler.unscale_(optimizer)


def test_gradients_of_float16_are_refused():
    weight = torch.ones(2, dtype=torch.float16, requires_grad=True)
    scaler = GradScaler("cpu")
    scaler.scale(weight.sum()).backward()
    with pytest.raises(ValueError, match="FP16"):
        scaler.unscale_(torch.optim.SGD([weight], lr=0.1))
