"""Laws that optimizers obey: each claims its own in tests/cases.py."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    OPTIMIZERS,
    TOLERANCE,
    Case,
    advance,
    assert_same,
    draw_gradients,
    gradient_closure,
    make_parameters,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from athena_optim import SAM, AdamW, CentralizedGradients, Lamb, Lion, Lookahead, Muon

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def claiming(law: str) -> Any:
    """Run a test with the optimizers that claim a law."""
    cases = [case for case in OPTIMIZERS if law in case.laws]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def follow(case: Case, params: list[nn.Parameter], gradients: list[list[Tensor]], **options: Any) -> None:
    """Steps with these gradients."""
    optimizer = case.make(params, **options)
    for given_ in gradients:
        optimizer.step(gradient_closure(params, [g.clone() for g in given_]))


def without_floor(case: Case) -> dict[str, Any]:
    """Options without what is added to a denominator."""
    names = {
        name for name in ("eps", "adamw_eps") if name in case.info.optim_cls.__init__.__code__.co_varnames
    }
    return dict.fromkeys(names, 0.0)


@claiming("gradient scale")
@pytest.mark.parametrize("foreach", [False, None])
@pytest.mark.parametrize("power", [-20, 3, 14])
def test_the_scale_of_gradients_does_not_matter(case, power, foreach):
    """Bit for bit for a power of 2, which changes no rounding."""
    plain, scaled = make_parameters(), make_parameters()
    gradients = [draw_gradients(plain, step) for step in range(5)]
    options = {"weight_decay": 0.1, "foreach": foreach, **without_floor(case)}
    follow(case, plain, gradients, **options)
    follow(case, scaled, [[g * 2.0**power for g in each] for each in gradients], **options)
    assert_same(plain, scaled)


@claiming("permutation")
def test_order_of_elements_does_not_matter(case):
    """Elements are alike: permuted parameters and gradients give the permuted result."""
    order = torch.randperm(35)
    (plain,) = make_parameters(torch.float64, [(7, 5)])
    permuted = nn.Parameter(plain.detach().view(-1)[order].view(5, 7))
    gradients = [draw_gradients([plain], step) for step in range(5)]
    follow(case, [plain], gradients, lr=0.1, weight_decay=0.1)
    follow(case, [permuted], [[g.view(-1)[order].view(5, 7)] for (g,) in gradients], lr=0.1, weight_decay=0.1)
    torch.testing.assert_close(
        permuted.detach().view(-1), plain.detach().view(-1)[order], rtol=1e-13, atol=1e-13
    )


@claiming("permutation")
def test_signs_of_elements_do_not_matter(case):
    """A reflection of the coordinates: theta and gradient negated give the negated result."""
    (plain,) = make_parameters(torch.float32, [(7, 5)])
    flips = torch.where(torch.rand(7, 5) < 0.5, -1.0, 1.0)
    flipped = nn.Parameter(plain.detach() * flips)
    gradients = [draw_gradients([plain], step) for step in range(5)]
    follow(case, [plain], gradients, lr=0.1, weight_decay=0.1)
    follow(case, [flipped], [[g * flips] for (g,) in gradients], lr=0.1, weight_decay=0.1)
    assert_same([flipped.detach() * flips], [plain])


@claiming("rows and columns")
def test_bases_of_rows_and_columns_do_not_matter(case):
    """Rotations of inputs and outputs rotate the step, up to the rounding of the iteration."""
    (plain,) = make_parameters(torch.float64, [(7, 5)])
    left, right = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (7, 5))
    rotated = nn.Parameter(left @ plain.detach() @ right)
    gradients = [draw_gradients([plain], step) for step in range(5)]
    follow(case, [plain], gradients, lr=0.1, ns_dtype="float64")
    follow(case, [rotated], [[left @ g @ right] for (g,) in gradients], lr=0.1, ns_dtype="float64")
    torch.testing.assert_close(rotated.detach(), left @ plain.detach() @ right, rtol=1e-9, atol=1e-9)


def first_step(optimizer_type: type[Optimizer], weights: Tensor, gradient: Tensor, **options: Any) -> Tensor:
    param = nn.Parameter(weights.clone())
    optimizer = optimizer_type([param], weight_decay=0.0, **options)
    param.grad = gradient
    optimizer.step()
    return param.detach() - weights


def test_lambs_step_is_the_rate_times_the_norm_of_the_weights():
    weights, gradient = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    step = first_step(Lamb, weights, gradient, lr=0.1, eps=0.0)
    torch.testing.assert_close(step.norm(), 0.1 * weights.norm(), rtol=1e-12, atol=0)
    larger = first_step(Lamb, 8 * weights, gradient, lr=0.1, eps=0.0)
    torch.testing.assert_close(larger, 8 * step, rtol=1e-12, atol=1e-14)


def test_lions_step_is_the_rate_in_every_element():
    step = first_step(Lion, torch.zeros(6, 4), torch.randn(6, 4), lr=0.1)
    assert step.abs().unique().tolist() == pytest.approx([0.1])


def test_muons_step_moves_all_singular_values_alike():
    """Into the band of the quintic iteration around 1, whatever the gradient's were."""
    gradient = torch.randn(8, 5) @ torch.diag(torch.logspace(0, -2, 5))
    values = torch.linalg.svdvals(first_step(Muon, torch.zeros(8, 5), gradient, lr=1.0))
    ratio = 8 / 5
    assert ((values / ratio**0.5 > 0.5) & (values / ratio**0.5 < 1.3)).all()


@every
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)], ids=str)
def test_lower_precision_moves_as_float64_does(case, dtype, bound):
    """Each tensor's way in ten steps, relative to its length: 1 if it stayed where it was.

    A step of 0.2 meets a rounding of up to 2**-24, or 2**-8, of a weight near 1. Ten add up to about a
    hundredth of the way in bfloat16, and to a sixth in a tensor of one element whose way turned back.
    """
    known = inspect.signature(case.make).parameters
    rates = {name: 0.2 for name in ("lr", "adamw_lr") if name in known}
    starts, ways = [p for p in make_parameters(dtype) if p.numel()], []
    for kind in (torch.float64, dtype):
        params = [nn.Parameter(p.detach().to(kind, copy=True)) for p in starts]
        optimizer = case.make(params, **rates, weight_decay=0.1)
        for step in range(10):
            gradients = [g.to(kind) for g in draw_gradients(starts, step)]
            optimizer.step(gradient_closure(params, gradients))
        ways.append([p.detach().double() - p0.detach() for p, p0 in zip(params, starts, strict=True)])
    for exact, rounded in zip(*ways, strict=True):
        assert (rounded - exact).norm() < bound * exact.norm()


@every
@settings(max_examples=8)
@given(data=st.data())
def test_resuming_anywhere_equals_going_on(case, data):
    """Bit for bit, for any cut, dtype, parameters without gradients, and group added late."""
    steps = data.draw(st.integers(1, 6), "steps")
    cut = data.draw(st.integers(0, steps), "cut")
    dtype = data.draw(st.sampled_from(list(TOLERANCE)), "dtype")
    unused = data.draw(st.lists(st.integers(0, 6), max_size=2), "unused")
    late = data.draw(st.integers(0, steps), "late")
    foreach = data.draw(st.sampled_from([None, False, True]), "foreach")

    def go(optimizer: Optimizer, params: list[nn.Parameter], wanted: range) -> None:
        for step in wanted:
            if step == late:
                optimizer.add_param_group({"params": params[7:], "lr": 0.05, "weight_decay": 0.1})
            advance(optimizer, params, [step], unused=unused if step < 3 else [])

    def start() -> tuple[list[nn.Parameter], Optimizer]:
        params = [*make_parameters(dtype), nn.Parameter(torch.ones(2, 3, dtype=dtype))]
        return params, case.make(params[:7], lr=0.1, weight_decay=0.1, foreach=foreach)

    params, optimizer = start()
    go(optimizer, params, range(cut))
    resumed_params = deepcopy(params)
    resumed = case.make(resumed_params[:7], lr=0.3, foreach=foreach)
    if late < cut:
        resumed.add_param_group({"params": resumed_params[7:]})
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    go(optimizer, params, range(cut, steps))
    go(resumed, resumed_params, range(cut, steps))
    assert_same(snapshot(resumed, resumed_params), snapshot(optimizer, params))


NEUTRAL = {
    "Lookahead, k = infinity": lambda optimizer: Lookahead(optimizer, k=10**9),
    "Lookahead, alpha = 1": lambda optimizer: Lookahead(optimizer, k=2, alpha=1.0),
    "SAM, rho = 0": lambda optimizer: SAM(optimizer, rho=0.0),
    "CentralizedGradients of vectors": CentralizedGradients,
}


@pytest.mark.parametrize("wrapper", NEUTRAL)
@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
def test_a_neutral_wrapper_is_the_bare_optimizer(case, wrapper):
    shapes = [(5,), (3,), ()] if "vectors" in wrapper else None
    bare, inside = (make_parameters(torch.float32, shapes) if shapes else make_parameters() for _ in range(2))
    optimizer, neutral = case.make(bare, lr=0.1), NEUTRAL[wrapper](case.make(inside, lr=0.1))
    advance(optimizer, bare, range(5))
    advance(neutral, inside, range(5))
    assert_same(inside, bare)


def test_wrappers_nest_in_either_order_alike():
    """Gradients and weights are different things: centralizing and averaging do not meet."""
    results = []
    for nested in (
        lambda optimizer: Lookahead(CentralizedGradients(optimizer), k=2),
        lambda optimizer: CentralizedGradients(Lookahead(optimizer, k=2)),
    ):
        params = make_parameters()
        optimizer = nested(AdamW(params, lr=0.1))
        advance(optimizer, params, range(5))
        results.append(params)
    assert_same(*results)
