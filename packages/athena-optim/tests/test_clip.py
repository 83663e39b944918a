"""`clip_gradients` against torch's, and its policy for numbers that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from athena_optim import clip_gradients


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
