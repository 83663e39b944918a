"""SAM against plain Python, the exact return of its parameters, and its two forms."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from athena_optim import SAM, AdamW, CentralizedGradients, Lookahead


def plain_sam(theta, slopes, *, rho, adaptive, lr=0.05, mu=0.9):
    """Equations 2 and 3 of arXiv:2010.01412 (ASAM: 2102.11600) on sum a_i w_i^2, SGD with momentum."""
    moment = None
    for a in slopes:
        gradient = [2 * a_i * w for a_i, w in zip(a, theta, strict=True)]
        sizes = [abs(w) + 0.01 if adaptive else 1.0 for w in theta]
        norm = math.sqrt(sum((t * g) ** 2 for t, g in zip(sizes, gradient, strict=True)))
        scale = rho / norm if norm else 0.0
        moved = [w + scale * t * t * g for w, t, g in zip(theta, sizes, gradient, strict=True)]
        gradient = [2 * a_i * w for a_i, w in zip(a, moved, strict=True)]
        moment = [g if moment is None else mu * moment[i] + g for i, g in enumerate(gradient)]
        theta = [w - lr * m for w, m in zip(theta, moment, strict=True)]
    return theta


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("form", ["closure", "parts"])
def test_fifty_steps_equal_plain_python(adaptive, form):
    """Of two parameters, so that the norm is that of all together; with zero gradients among them."""
    weights = [nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in ([1.0, -2.0], [0.5])]
    optimizer = SAM(torch.optim.SGD(weights, lr=0.05, momentum=0.9), rho=0.3, adaptive=adaptive)
    slopes = torch.randn(50, 3, dtype=torch.float64)
    slopes[::7] = 0
    for a in slopes:

        def closure(a=a):
            optimizer.zero_grad()
            loss = (a * torch.cat(weights) ** 2).sum()
            loss.backward()
            return loss.detach()

        if form == "closure":
            optimizer.step(closure)
            continue
        closure()
        optimizer.perturb()
        assert optimizer.perturbed
        closure()
        optimizer.restore()
        assert not optimizer.perturbed
        optimizer.step()
    expected = plain_sam([1.0, -2.0, 0.5], slopes.tolist(), rho=0.3, adaptive=adaptive)
    torch.testing.assert_close(torch.cat(weights).tolist(), expected, rtol=1e-11, atol=1e-12)


def make(dtype=torch.float32, **options):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    model[0].bias.requires_grad_(False)
    optimizer = SAM(AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1), **options)
    x = torch.randn(8, 5).to(dtype)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss.detach()

    return model, optimizer, closure


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_parameters_return_bit_for_bit(dtype, adaptive):
    model, optimizer, closure = make(dtype, rho=0.5, adaptive=adaptive)
    for _ in range(2):  # the second time into the memory of the first
        before = [p.detach().clone() for p in model.parameters()]
        closure()
        optimizer.perturb()
        length = math.sqrt(
            sum(
                (p - b).double().square().sum().item()
                for p, b in zip(model.parameters(), before, strict=True)
            )
        )
        assert length > 0
        if not adaptive:
            assert length == pytest.approx(0.5, rel=5e-2 if dtype == torch.bfloat16 else 5e-3)
        optimizer.restore()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        optimizer.step()
        assert not torch.equal(model[0].weight, before[0])


def test_small_gradients_of_16_bits_move_as_far():
    """A scale of 1 / 1e-7 has no place in float16; nor the square of 1e-7."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    optimizer = SAM(torch.optim.SGD([weight]), rho=0.5)
    weight.grad = torch.tensor([6e-8, 0.0], dtype=torch.float16)
    optimizer.perturb()
    assert weight.tolist() == [0.5, 0.0]


def test_the_closure_is_called_twice_and_its_first_loss_returned():
    """Pitfall 11: with gradients enabled, though the step is inside no_grad."""
    model, optimizer, closure = make()
    losses, places = [], []

    def counted():
        assert torch.is_grad_enabled()
        places.append((optimizer.perturbed, model[0].weight.detach().clone()))
        losses.append(closure())
        return losses[-1]

    start = model[0].weight.detach().clone()
    with torch.no_grad():
        assert optimizer.step(counted) is losses[0]
    assert [perturbed for perturbed, _ in places] == [False, True]
    assert losses[1] > losses[0]  # uphill
    assert torch.equal(places[0][1], start)


def test_a_closure_that_raises_leaves_the_parameters():
    model, optimizer, closure = make()
    before = deepcopy(model.state_dict())

    def failing():
        if optimizer.perturbed:
            raise KeyError
        return closure()

    with pytest.raises(KeyError):
        optimizer.step(failing)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="`closure` is required"):
        optimizer.step()
    optimizer.step(closure)


def test_a_missing_closure_is_refused_unless_it_changes_nothing():
    """At gradients of 0 both evaluations are one; torch.distributed.checkpoint makes state in such a step."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.AdamW([weight]))
    optimizer.step()
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[weight]["step"] == 1
    weight.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"`closure` is required.*perturb\(\)"):
        optimizer.step()


def test_calls_out_of_order_are_refused():
    _, optimizer, closure = make()
    with pytest.raises(RuntimeError, match=r"`restore` must follow perturb\(\)"):
        optimizer.restore()
    closure()
    saved = optimizer.state_dict()
    optimizer.perturb()
    for action in (
        optimizer.state_dict,
        optimizer.perturb,
        optimizer.step,
        lambda: optimizer.step(closure),
        lambda: optimizer.load_state_dict(saved),
        lambda: deepcopy(optimizer),
    ):
        with pytest.raises(RuntimeError, match=r"must not come between perturb\(\) and restore\(\)"):
            action()


@pytest.mark.parametrize("bad", [0, 1])
def test_non_finite_gradients(bad):
    """The first gradient, or the second: raised, skipped, set to 0, or not looked at."""
    for policy in ("raise", "skip", "zero", None):
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = SAM(torch.optim.SGD([weight], lr=1.0), nonfinite=policy)
        calls = []

        def closure(weight=weight, calls=calls):
            weight.grad = torch.tensor([math.nan if len(calls) == bad else 1.0, 1.0])
            calls.append(1.0)
            return 5.0

        if policy == "raise":
            with pytest.raises(RuntimeError, match="gradients must be finite"):
                optimizer.step(closure)
        else:
            assert optimizer.step(closure) == 5.0
        assert optimizer.skipped is (policy == "skip")
        moved = {"zero": [0.0, 1.0] if bad == 0 else [1.0, 2.0], None: [0.0 if bad == 0 else math.nan, 1.0]}
        assert repr(weight.tolist()) == repr(moved.get(policy, [1.0, 2.0]))


def test_a_scaler_sees_second_gradients_and_may_skip():
    """Pitfall 11: the scale of the first ones does not matter, so a GradScaler unscales once."""
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    scaled, plain = (Lookahead(SAM(torch.optim.SGD([w], lr=0.1), rho=0.1), k=2) for w in weights)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = scaled.optimizer
    for step in range(4):
        factor = math.inf if step == 1 else 1.0
        before = weights[0].detach().clone()
        scaled.zero_grad()
        scaler.scale((weights[0] ** 4).sum()).backward()
        sam.perturb()
        scaled.zero_grad()
        scaler.scale((weights[0] ** 4).sum() * factor).backward()
        sam.restore()
        scaler.step(scaled)
        scaler.update()
        if step == 1:
            assert torch.equal(weights[0], before)
            continue

        def closure():
            plain.zero_grad()
            (weights[1] ** 4).sum().backward()

        plain.step(closure)
    torch.testing.assert_close(*weights)


def test_lbfgs_gets_sharp_gradients_at_each_of_its_evaluations():
    weight = nn.Parameter(torch.tensor([3.0, -1.0]))
    optimizer = SAM(torch.optim.LBFGS([weight], max_iter=5), rho=0.01)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = ((weight - 1) ** 2).sum()
        loss.backward()
        calls.append(optimizer.perturbed)
        return loss.detach()

    assert optimizer.step(closure) == 8.0
    assert calls == [False, True] * (len(calls) // 2)
    assert len(calls) > 2
    assert (weight - 1).abs().max() < 0.05


def test_nesting_evaluates_twice_and_centralises_both():
    model, optimizer, closure = make()
    outer = CentralizedGradients(optimizer)
    means, calls = [], []
    inner_perturb = optimizer.perturb
    optimizer.perturb = lambda: (
        means.append(model[0].weight.grad.mean(1).abs().max().item()),
        inner_perturb(),
    )
    outer.step(lambda: (calls.append(1), closure())[1])
    assert len(calls) == 2
    assert means[0] < 1e-7
    assert model[0].weight.grad.mean(1).abs().max().item() < 1e-7


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_a_radius_outside_its_range_is_refused(rho):
    with pytest.raises(ValueError, match="`rho` must be finite and at least 0"):
        SAM(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), rho=rho)


def test_sparse_gradients_and_a_bad_policy_are_refused():
    weight = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`nonfinite` must be"):
        SAM(torch.optim.SGD([weight]), nonfinite="drop")
    weight.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match="dense"):
        SAM(torch.optim.SGD([weight])).perturb()
    with pytest.raises(RuntimeError, match="dense"):
        SAM(torch.optim.SGD([weight]), nonfinite="skip").step(lambda: weight.detach().sum())


@pytest.mark.parametrize(("policy", "end"), [("raise", None), ("skip", [1.0, 1.0]), ("zero", [1.0, 1.0])])
def test_the_policy_holds_for_second_gradients_between_perturb_and_step_too(policy, end):
    weight = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([weight], lr=1.0), nonfinite=policy)
    weight.grad = torch.ones(2)
    optimizer.perturb()
    weight.grad = torch.tensor([math.nan, 1.0])
    optimizer.restore()
    if end is None:
        with pytest.raises(RuntimeError, match="gradients must be finite"):
            optimizer.step()
        return
    optimizer.step()
    assert weight.tolist() == end
    assert optimizer.skipped is (policy == "skip")
