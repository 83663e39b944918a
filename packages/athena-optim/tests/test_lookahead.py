"""Lookahead against plain Python, in every mode, and what its slow weights go through."""

from __future__ import annotations

import io
import math
import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from athena_optim import AdamW, Lion, Lookahead, evaluation_weights


def plain_lookahead(theta, gradients, *, k, alpha, mode, lr=0.1, mu=0.9, decay=0.1):
    """Algorithm 1 of arXiv:1907.08610 around SGD with momentum and decay, one number at a time."""
    phi, moment, slow_moment = theta, None, 0.0
    for step, gradient in enumerate(gradients, 1):
        if gradient is not None:
            d = gradient + decay * theta
            moment = d if moment is None else mu * moment + d
            theta -= lr * moment
        if step % k == 0:
            theta = phi = phi + alpha * (theta - phi)
            if mode == "reset" and moment is not None:
                moment = 0.0
            if mode == "pullback" and moment is not None:
                moment = slow_moment = slow_moment + alpha * (moment - slow_moment)
    return theta, phi


@pytest.mark.parametrize("mode", ["keep", "reset", "pullback"])
@pytest.mark.parametrize(("k", "alpha"), [(1, 0.3), (5, 0.5), (7, 1.0)])
def test_fifty_steps_equal_plain_python(mode, k, alpha):
    """Zero and missing gradients among them, and a parameter that comes in the middle of a round."""
    weight, late = (nn.Parameter(torch.tensor(start, dtype=torch.float64)) for start in (1.0, -2.0))
    inner = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = Lookahead(inner, k=k, alpha=alpha, momentum=mode)
    draws = torch.randn(50, 2, dtype=torch.float64).tolist()
    for step, row in enumerate(draws):
        row[0] = None if step % 7 == 3 else 0.0 if step % 7 == 5 else row[0]
        if step < 18:
            row[1] = None
        if step == 17:
            optimizer.add_param_group({"params": [late]})
        for parameter, gradient in zip((weight, late), row, strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    for parameter, column, start in ((weight, 0, 1.0), (late, 1, -2.0)):
        theta, phi = plain_lookahead(start, [row[column] for row in draws], k=k, alpha=alpha, mode=mode)
        assert parameter.item() == pytest.approx(theta, abs=1e-12)
        assert optimizer.state[parameter]["slow"].item() == pytest.approx(phi, abs=1e-12)


def test_slow_weights_start_at_the_first_parameters():
    """Pitfall 7: two steps of +1 from 0, k = 2, alpha = 1/2 end at 1.0; not at 2.0."""
    weight = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
    for _ in range(2):
        weight.grad = torch.tensor(-1.0)
        optimizer.step()
    assert weight.item() == 1.0


def test_slow_weights_start_at_a_model_loaded_after_construction():
    weight = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=1, alpha=0.5)
    weight.data.fill_(10.0)
    weight.grad = torch.tensor(-1.0)
    optimizer.step()
    assert weight.item() == 10.5


def test_a_frozen_parameter_stays_and_starts_anew_when_unfrozen():
    weight = nn.Parameter(torch.zeros(()), requires_grad=False)
    other = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(torch.optim.SGD([weight, other], lr=1.0), k=2, alpha=0.5)

    def step():
        for parameter in (weight, other):
            parameter.grad = torch.tensor(-1.0) if parameter.requires_grad else None
        optimizer.step()

    step()
    weight.data.fill_(4.0)
    weight.requires_grad_(True)
    step()
    assert weight.item() == 4.5
    step()
    weight.requires_grad_(False)
    step()  # synchronises, and leaves the frozen one
    assert weight.item() == 5.5


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: AdamW(p, lr=0.1), "exp_avg"),
        (lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True), "exp_avg"),
        (lambda p: Lion(p, lr=0.1), "exp_avg"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "momentum_buffer"),
    ],
)
def test_momentum_modes_reach_first_moments_alone(make, name):
    """Pitfall 9: `exp_avg` too; second moments and step counts stay."""
    states = {}
    for mode in ("keep", "reset", "pullback"):
        weight = nn.Parameter(torch.ones(3))
        optimizer = Lookahead(make([weight]), k=2, alpha=0.25, momentum=mode)
        for _ in range(2):
            weight.grad = torch.tensor([1.0, 2.0, 3.0])
            optimizer.step()
        states[mode] = optimizer.state[weight]
    assert torch.equal(states["reset"][name], torch.zeros(3))
    torch.testing.assert_close(states["pullback"][name], 0.25 * states["keep"][name])
    for other in states["keep"].keys() - {name, "slow"}:
        assert torch.equal(states["reset"][other], states["keep"][other])
        assert torch.equal(states["pullback"][other], states["keep"][other])


def test_a_momentum_mode_that_reaches_nothing_is_refused():
    """Pitfall 9: not a silent no-op."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.1), k=1, momentum="reset")
    weight.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"momentum='reset'.*got SGD"):
        optimizer.step()


@pytest.mark.parametrize("neutral", [{"k": math.inf}, {"k": 2, "alpha": 1.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_effect_it_is_the_bare_optimizer(neutral, dtype):
    weights = [nn.Parameter(torch.linspace(-3, 3, 9).to(dtype)) for _ in range(2)]
    wrapped, bare = Lookahead(AdamW([weights[0]], lr=0.1), **neutral), AdamW([weights[1]], lr=0.1)
    for _ in range(9):
        gradient = torch.randn(9).to(dtype)
        for weight, optimizer in zip(weights, (wrapped, bare), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)


def test_slow_weights_of_bfloat16_parameters_are_float32_and_come_back_exactly():
    """A part of a small way is not lost, and loading does not cast (pitfall 13)."""
    weight = nn.Parameter(torch.full((4,), 256.0, dtype=torch.bfloat16))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=2.0), k=1, alpha=0.25)
    slow = []
    for _ in range(4):  # 256 + 2 is the next number; a quarter of the way there rounds back to 256
        weight.grad = torch.full_like(weight, -1.0)
        optimizer.step()
        slow.append(optimizer.state[weight]["slow"][0].item())
    assert slow == [256.5, 256.875, 257.15625, 257.8671875]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = nn.Parameter(weight.detach().clone())
    resumed = Lookahead(torch.optim.SGD([twin], lr=2.0), k=1, alpha=0.25)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state[twin]["slow"].dtype == torch.float32
    assert torch.equal(resumed.state[twin]["slow"], optimizer.state[weight]["slow"])


def test_a_skipped_step_does_not_count():
    """Pitfall 11: neither one that the inner optimizer skips, nor one that a GradScaler does."""
    weight = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(Lion([weight], lr=1.0, nonfinite="skip"), k=2, alpha=0.5)
    for gradient in (-1.0, math.nan, -1.0):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        assert optimizer.skipped is math.isnan(gradient)
    assert weight.item() == 1.0
    weight = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (-1.0, math.inf, -1.0):
        optimizer.zero_grad()
        scaler.scale(weight * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert weight.item() == 1.0


def test_slow_weights_are_held_inside_the_context_only():
    weights = [nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([5.0]))]
    optimizer = Lookahead(torch.optim.SGD(weights, lr=1.0), k=5)
    weights[0].grad = torch.ones(1)  # the other has none
    optimizer.step()
    saved = deepcopy(optimizer.state_dict())

    def values():
        return [weight.item() for weight in weights]

    assert values() == [1.0, 5.0]
    with pytest.raises(KeyError), optimizer.slow_weights():
        assert values() == [2.0, 5.0]
        with evaluation_weights(optimizer):
            assert values() == [2.0, 5.0]
        assert values() == [2.0, 5.0]
        # A checkpoint from inside would hold slow weights in the model, and the fast ones nowhere.
        for refused in (optimizer.step, optimizer.state_dict, lambda: optimizer.load_state_dict(saved)):
            with pytest.raises(RuntimeError, match="outside of slow_weights"):
                refused()
        copied_weights, copied = deepcopy((weights, optimizer))
        raise KeyError
    assert values() == [1.0, 5.0]
    assert optimizer.state_dict() == saved
    optimizer.step()
    copied.zero_grad()
    copied.step()
    assert [weight.item() for weight in copied_weights] == [2.0, 5.0]


def test_the_count_goes_through_state_dict_pickle_and_copy():
    weight = nn.Parameter(torch.zeros(()))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=3, alpha=0.5)
    for _ in range(2):
        weight.grad = torch.tensor(-1.0)
        optimizer.step()
    pairs = [deepcopy((weight, optimizer)), pickle.loads(pickle.dumps((weight, optimizer)))]
    loaded = nn.Parameter(weight.detach().clone())
    resumed = Lookahead(torch.optim.SGD([loaded], lr=1.0), k=3, alpha=0.5)
    resumed.load_state_dict(optimizer.state_dict())
    for parameter, copied in [*pairs, (loaded, resumed)]:
        parameter.grad = torch.tensor(-1.0)
        copied.step()
        assert parameter.item() == 1.5


def test_a_foreign_state_dict_is_refused_and_changes_nothing():
    """Pitfall 8: an error that says what to do, not a KeyError."""

    def trained(make):
        weight = nn.Parameter(torch.ones(3))
        optimizer = make([weight])
        weight.grad = torch.ones(3)
        optimizer.step()
        return optimizer

    optimizer = trained(lambda p: Lookahead(AdamW(p)))
    before = deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="Load it into the optimizer that Lookahead wraps"):
        optimizer.load_state_dict(trained(AdamW).state_dict())
    other = deepcopy(before)
    other["state"][0]["slow"] = torch.ones(4)
    with pytest.raises(ValueError, match=r"`slow` of parameter 0 must have its shape \(3,\); got \(4,\)"):
        optimizer.load_state_dict(other)
    with pytest.raises(ValueError, match="with `state` and `param_groups`"):
        optimizer.load_state_dict({"model": 1})
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, as this AdamW; got \[1, 1\]"):
        optimizer.load_state_dict({**before, "param_groups": before["param_groups"] * 2})
    assert repr(optimizer.state_dict()) == repr(before)
    optimizer.optimizer.load_state_dict(trained(AdamW).state_dict())  # the remedy
    assert "slow" not in optimizer.state_dict()["state"][0]
    optimizer.step()
    assert "slow" in optimizer.state_dict()["state"][0]


def test_wrapping_an_optimizer_again_starts_anew():
    weight = nn.Parameter(torch.zeros(()))
    inner = torch.optim.SGD([weight], lr=1.0)
    first = Lookahead(inner, k=5)
    weight.grad = torch.tensor(-1.0)
    first.step()
    second = Lookahead(inner, k=1, alpha=0.5)
    second.step()
    assert weight.item() == 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "`k` must be a whole number from 1 on"),
        ({"k": 1.5}, "`k` must be a whole number from 1 on"),
        ({"k": math.nan}, "`k` must be a whole number from 1 on"),
        ({"alpha": 0.0}, r"`alpha` must lie in \(0, 1\]"),
        ({"alpha": math.nan}, r"`alpha` must lie in \(0, 1\]"),
        ({"momentum": "drop"}, "`momentum` must be 'keep', 'reset' or 'pullback'"),
    ],
)
def test_options_outside_their_ranges_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), **options)


def test_one_lookahead_is_enough():
    inner = Lookahead(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    with pytest.raises(TypeError, match="no Lookahead inside"):
        Lookahead(inner)


def test_capture_in_a_graph_is_refused(monkeypatch):
    optimizer = Lookahead(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="outside of CUDA graph capture"):
        optimizer.step()
