"""Clipping by norm and value against torch's, adaptive clipping against its equation, and the policies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from athena_optim import AdamW, clip_gradients, clip_gradients_adaptively, clip_gradients_by_value


def parameters_with(*gradients: torch.Tensor | None) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(2) if g is None else torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return parameters


@settings(max_examples=40)
@given(
    scale=st.floats(1e-4, 1e4),
    max_norm=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_bit_equal_to_torch(scale, max_norm, dtype):
    draws = [(torch.randn(shape) * scale).to(dtype) for shape in [(3, 4), (5,), (0,), (4, 3)]]
    draws[3] = draws[3].T
    ours, theirs = (parameters_with(*(g.clone() for g in draws), None) for _ in range(2))
    norm = clip_gradients(ours, max_norm)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.equal(a.grad, b.grad)


def test_norm_is_that_of_the_joined_vector_and_at_most_the_bound_after():
    draws = [torch.randn(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)]
    parameters = parameters_with(*(g.clone() for g in draws))
    joined = math.sqrt(sum(x * x for g in draws for x in g.flatten().tolist()))
    assert clip_gradients(parameters, 0.5).item() == pytest.approx(joined, rel=1e-14)
    assert clip_gradients(parameters, math.inf).item() == pytest.approx(0.5, rel=1e-5)


def test_small_gradients_keep_every_bit():
    gradient = torch.tensor([1e-3, -2e-3])
    parameters = parameters_with(gradient.clone())
    clip_gradients(parameters, 1.0)
    assert torch.equal(parameters[0].grad, gradient)


def test_a_parameter_listed_twice_counts_once():
    (parameter,) = parameters_with(torch.tensor([3.0, 4.0]))
    assert clip_gradients([parameter, parameter], 1.0).item() == 5.0
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))


def test_nothing_to_clip():
    assert clip_gradients([], 1.0).item() == 0.0
    assert clip_gradients(iter(parameters_with(None)), 1.0).item() == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_policy_for_numbers_that_are_not_finite(value):
    parameters = parameters_with(torch.tensor([1.0, value]), torch.tensor([2.0]))
    with pytest.raises(RuntimeError, match=r"finite norm.*over 2 tensors"):
        clip_gradients(parameters, 1.0)
    assert parameters[0].grad[0] == 1.0, "gradients stay as they were"
    norm = clip_gradients(parameters, 1.0, nonfinite="zero")
    assert not torch.isfinite(norm)
    assert [p.grad.tolist() for p in parameters] == [[0.0, 0.0], [0.0]]


@pytest.mark.parametrize(
    ("max_norm", "nonfinite", "message"),
    [
        (0.0, "raise", "`max_norm` must be above 0; got 0.0"),
        (-1.0, "raise", "`max_norm`"),
        (math.nan, "raise", "`max_norm`"),
        (1.0, "skip", "`nonfinite` must be"),
    ],
)
def test_bad_options_are_refused(max_norm, nonfinite, message):
    with pytest.raises(ValueError, match=message):
        clip_gradients(parameters_with(torch.ones(2)), max_norm, nonfinite=nonfinite)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_clipping_by_value_is_torchs(dtype):
    draws = [
        torch.randn(3, 4).to(dtype),
        torch.randn(5).to(dtype),
        torch.tensor([math.inf, math.nan]).to(dtype),
    ]
    ours, theirs = (parameters_with(*(g.clone() for g in draws), None) for _ in range(2))
    clip_gradients_by_value(ours, 0.5)
    nn.utils.clip_grad_value_(theirs, 0.5)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)
    assert ours[0].grad.abs().max() <= 0.5


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3), (5,), (), (0, 3), (2, 0)])
def test_adaptive_clipping_follows_its_equation_unit_by_unit(shape):
    """Brock et al. 2021, equation 3, written with loops over the units."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    if weight.ndim > 1 and weight.numel():
        with torch.no_grad():
            weight[0] = 0.0  # may still learn: its norm counts as eps
        gradient[1] *= 1e-6  # small enough as it is
        gradient[2] = 0.0
    expected = gradient.clone()
    for unit, values in zip(expected, weight, strict=True) if weight.ndim > 1 else [(expected, weight)]:
        size = unit.square().sum().sqrt().item()
        bound = 0.02 * max(values.square().sum().sqrt().item(), 1e-3)
        if size > bound:
            unit *= bound / size
    weight.grad = gradient
    clip_gradients_adaptively([weight], 0.02)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=0)


def test_adaptive_clipping_does_not_depend_on_the_scale_of_a_unit():
    """What it is for: weights and gradients times ten are clipped as they were."""
    weight = torch.randn(4, 3, dtype=torch.float64)
    gradient = torch.randn(4, 3, dtype=torch.float64)
    one, ten = nn.Parameter(weight), nn.Parameter(weight * 10)
    one.grad, ten.grad = gradient.clone(), gradient * 10
    clip_gradients_adaptively([one, ten], 0.1)
    torch.testing.assert_close(one.grad * 10, ten.grad)
    assert not torch.equal(one.grad, gradient)


@pytest.mark.parametrize(
    ("clip", "name"), [(clip_gradients_by_value, "max_value"), (clip_gradients_adaptively, "ratio")]
)
@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_bad_bounds_are_refused(clip, name, bound):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with pytest.raises(ValueError, match=f"`{name}` must be above 0; got"):
        clip([weight], bound)
    assert weight.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"max_norm": 0.3}, lambda params: clip_gradients(params, 0.3)),
        ({"max_value": 0.01}, lambda params: clip_gradients_by_value(params, 0.01)),
        ({"adaptive_clip": 0.01}, lambda params: clip_gradients_adaptively(params, 0.01)),
    ],
)
def test_adamw_clips_as_the_functions_do(options, clip):
    draws = [torch.randn(4, 3), torch.randn(5)]
    ours, others = (parameters_with(*(g.clone() for g in draws)) for _ in range(2))
    for params in (ours, others):
        with torch.no_grad():
            for number, param in enumerate(params):
                param.add_(number + 1.0)
    AdamW(ours, **options).step()
    clip(others)
    AdamW(others).step()
    for a, b, before in zip(ours, others, draws, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.grad, b.grad)
        assert not torch.equal(a.grad, before)


def test_one_way_of_clipping_at_most():
    with pytest.raises(ValueError, match="at most one way of clipping; got `max_norm` and `adaptive_clip`"):
        AdamW([nn.Parameter(torch.ones(1))], max_norm=1.0, adaptive_clip=0.1)


@pytest.mark.parametrize("clip", [clip_gradients, clip_gradients_by_value, clip_gradients_adaptively])
def test_sparse_gradients_are_refused_by_name(clip):
    gradients = [torch.ones(2), torch.ones(3, 2).to_sparse()]
    parameters = [nn.Parameter(torch.zeros(gradient.shape)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    with pytest.raises(RuntimeError, match=r"^gradients must be dense; parameter 1 has a sparse one"):
        clip(parameters, 0.1)
    assert torch.equal(gradients[0], torch.ones(2))
