"""What every schedule promises: exact resume in any order, bounds, late groups, tensor rates."""

from __future__ import annotations

import io
import itertools
import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    PolynomialLR,
    SequentialLR,
)

import athena_optim
from athena_optim import FactorSchedule, one_cycle, warmup_constant, warmup_cosine, wsd

METHODS = [
    "one_cycle",
    "warmup_constant",
    "warmup_cosine",
    "warmup_inverse_sqrt",
    "warmup_linear",
    "warmup_polynomial",
    "wsd",
]
ENDLESS = ("warmup_constant", "warmup_inverse_sqrt")


def make(name: str, **options) -> partial:
    return partial(getattr(athena_optim, name), **options)


def make_factor(name: str, **options) -> partial:
    return partial(getattr(athena_optim, f"{name}_factor"), **options)


def sgd(*rates: float, as_tensor: bool = False) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)]
    for group in groups:
        if as_tensor:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    return torch.optim.SGD(groups, momentum=0.9)


def in_force(schedule: LRScheduler) -> list[tuple[float, float]]:
    return [(float(group["lr"]), group["momentum"]) for group in schedule.optimizer.param_groups]


def advance(schedule: LRScheduler, steps: int) -> list[list[tuple[float, float]]]:
    """What is in force at each of ``steps`` steps, and the schedule left at the one after."""
    found = []
    for _ in range(steps):
        found.append(in_force(schedule))
        schedule.optimizer.step()
        schedule.step()
    return found


def saved(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@st.composite
def lengths(draw, most: int, total: int) -> int | float:
    """A phase of at most ``most`` steps, as steps or as a share."""
    return draw(st.one_of(st.integers(0, most), st.floats(0, most / total)))


@st.composite
def cases(draw, methods: list[str]) -> tuple[str, dict]:
    """A schedule and options that it allows."""
    method = draw(st.sampled_from(methods))
    total = draw(st.integers(1, 60))
    options: dict = {"total_steps": total}
    if method == "one_cycle":
        first = draw(st.integers(0, total))
        options["rise_steps"] = draw(lengths(first, total))
        options["fall_steps"] = draw(st.none() | lengths(total - first, total))
        options["shape"] = draw(st.sampled_from(["cosine", "linear"]))
        options["initial_ratio"] = draw(st.floats(0.001, 1))
    elif method == "wsd":
        first = draw(st.integers(0, total))
        options["warmup_steps"] = draw(lengths(first, total))
        options["decay_steps"] = draw(lengths(total - first, total))
        options["decay"] = draw(st.sampled_from(["1-sqrt", "linear", "cosine", "exponential"]))
    else:
        options["warmup_steps"] = draw(lengths(total, total))
    if method == "warmup_polynomial":
        options["power"] = draw(st.floats(0.1, 5))
    if method not in ENDLESS:
        options["min_ratio"] = draw(st.sampled_from([0.001, 0.1, 1.0]))
        if options.get("decay") != "exponential":
            options["min_ratio"] = draw(st.floats(0, 1))
    return method, options


def load_into(schedule_of, states: tuple[dict, dict], order: str, as_tensor: bool) -> LRScheduler:
    """A schedule resumed from what the optimizer and the schedule saved, in the given order."""
    optimizer = sgd(0.3, 0.7, as_tensor=as_tensor)
    if order == "optimizer, new schedule, schedule":
        optimizer.load_state_dict(states[0])
    schedule = schedule_of(optimizer)
    if order == "new schedule, optimizer, schedule":
        optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    if order == "new schedule, schedule, optimizer":
        optimizer.load_state_dict(states[0])
    return schedule


ORDERS = [
    "optimizer, new schedule, schedule",
    "new schedule, optimizer, schedule",
    "new schedule, schedule, optimizer",
    "new schedule, schedule",
]


@given(cases(METHODS), st.integers(0, 64), st.sampled_from(ORDERS), st.booleans())
def test_resuming_at_any_step_equals_going_on(case, at, order, as_tensor):
    """pytorch#162591, #67586, #119168: a joined warm-up resumes wrongly there, or by order of loading.

    In the second order the groups already have an ``initial_lr`` when the schedule is made anew.
    """
    name, options = case
    if name == "one_cycle":
        options = {**options, "momentum": (0.95, 0.85)}
    schedule_of = make(name, **options)
    schedule = schedule_of(sgd(0.3, 0.7, as_tensor=as_tensor))
    advance(schedule, at)
    states = saved(schedule.optimizer.state_dict()), saved(schedule.state_dict())
    resumed = load_into(schedule_of, states, order, as_tensor)
    assert resumed.get_last_lr() == schedule.get_last_lr()
    assert advance(resumed, 5) == advance(schedule, 5)


@pytest.mark.parametrize("name", METHODS)
def test_every_step_around_the_joints_resumes_exactly(name):
    phases = {"rise_steps": 4} if name == "one_cycle" else {"warmup_steps": 4}
    schedule_of = make(name, total_steps=20, **phases)
    whole = advance(schedule_of(sgd(0.3, 0.7)), 26)
    for at, order in itertools.product(range(24), ORDERS):
        schedule = schedule_of(sgd(0.3, 0.7))
        advance(schedule, at)
        states = saved(schedule.optimizer.state_dict()), saved(schedule.state_dict())
        assert advance(load_into(schedule_of, states, order, False), 2) == whole[at : at + 2]


@given(cases(METHODS))
def test_shares_lie_in_their_bounds(case):
    name, options = case
    total = options["total_steps"]
    shares = [make_factor(name, **options)(step) for step in range(total + 3)]
    assert all(0 < share <= 1 for share in shares[:total])
    if name not in ENDLESS:
        assert shares[total:] == [options["min_ratio"]] * 3


@given(cases([name for name in METHODS if name != "one_cycle"]))
def test_the_warm_up_rises_strictly_to_1_and_the_rest_never_rises(case):
    name, options = case
    total, warmup = options["total_steps"], options["warmup_steps"]
    if isinstance(warmup, float):
        warmup = math.floor(warmup * total + 1e-9)
    shares = [make_factor(name, **options)(step) for step in range(total + 3)]
    assert all(a < b for a, b in itertools.pairwise(shares[: min(warmup + 1, total)]))
    assert all(a >= b for a, b in itertools.pairwise(shares[warmup:total]))
    if warmup < total:
        assert shares[warmup] == 1.0


def joined(name: str, optimizer: torch.optim.Optimizer, warmup: int, fall: int) -> LRScheduler:
    """torch's own schedulers, one after the other, as our ``name``."""
    after = {
        "warmup_constant": lambda: ConstantLR(optimizer, factor=1.0),
        "warmup_cosine": lambda: CosineAnnealingLR(optimizer, T_max=fall),
        "warmup_linear": lambda: LinearLR(optimizer, 1.0, end_factor=0.0, total_iters=fall),
        "warmup_polynomial": lambda: PolynomialLR(optimizer, total_iters=fall, power=1.7),
        "warmup_inverse_sqrt": lambda: LambdaLR(
            optimizer, lambda t: ((warmup + 1) / (warmup + t + 1)) ** 0.5
        ),
    }
    linear = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [linear, after[name]()], milestones=[warmup])


# torch's SequentialLR calls its own deprecated form
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("wsd", "one_cycle")])
@pytest.mark.parametrize(("warmup", "total"), [(4, 20), (1, 9), (9, 10)])
def test_identity_with_torchs_schedulers_joined(name, warmup, total):
    more = {"power": 1.7} if name == "warmup_polynomial" else {}
    ours = make(name, warmup_steps=warmup, total_steps=total, **more)(sgd(0.3, 0.7))
    theirs = joined(name, sgd(0.3, 0.7), warmup, total - warmup)
    for a, b in zip(advance(ours, total), advance(theirs, total), strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-12)
        assert a[1] == pytest.approx(b[1], rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_a_tensor_rate_is_filled_and_follows_the_same_numbers(name):
    phases = {"total_steps": 12} if name == "one_cycle" else {"total_steps": 12, "warmup_steps": 3}
    optimizer = sgd(0.3, 0.7, as_tensor=True)
    tensors = [group["lr"] for group in optimizer.param_groups]
    schedule = make(name, **phases)(optimizer)
    assert advance(schedule, 15) == advance(make(name, **phases)(sgd(0.3, 0.7)), 15)
    assert [group["lr"] for group in optimizer.param_groups] == tensors
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_group_added_late_joins_at_the_next_step(as_tensor):
    """torch's schedulers raise from `zip` there."""
    schedule = warmup_cosine(sgd(1.0, as_tensor=as_tensor), warmup_steps=3, total_steps=10)
    advance(schedule, 5)
    rate = torch.tensor(0.25) if as_tensor else 0.25
    schedule.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": rate})
    assert in_force(schedule)[1][0] == 0.25
    states = schedule.optimizer.state_dict(), schedule.state_dict()
    resumed = warmup_cosine(sgd(1.0, 0.25), warmup_steps=3, total_steps=10)
    resumed.optimizer.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert [float(base) for base in resumed.base_lrs] == [1.0, 0.25]
    schedule.optimizer.step()
    schedule.step()
    for first, late in advance(schedule, 8):
        assert late[0] == pytest.approx(0.25 * first[0])
    assert schedule.optimizer.param_groups[1]["initial_lr"] == 0.25


def test_a_state_taken_earlier_does_not_change():
    schedule = warmup_constant(sgd(1.0), warmup_steps=3)
    state = schedule.state_dict()
    before = deepcopy(state)
    schedule.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    advance(schedule, 2)
    assert state == before


def test_the_state_of_other_groups_is_refused_before_anything_changes():
    one, two = (warmup_constant(sgd(*rates), warmup_steps=3) for rates in [(1.0,), (1.0, 0.5)])
    advance(two, 2)
    before = one.state_dict(), in_force(one)
    with pytest.raises(ValueError, match="as many groups as the optimizer has, 1; got 2"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="as many groups as the optimizer has, 2; got 1"):
        two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r"\['last_epoch'\] are missing"):
        one.load_state_dict({k: v for k, v in two.state_dict().items() if k != "last_epoch"})
    with pytest.raises(ValueError, match="`step` must be at least 0; got -3"):
        one.load_state_dict({**one.state_dict(), "last_epoch": -3})
    assert (one.state_dict(), in_force(one)) == before


def test_the_state_of_torchs_schedule_goes_on_from_its_step():
    """Only what all schedules have is taken: not the factor, nor what that schedule alone has."""
    theirs = LambdaLR(sgd(0.5), lambda step: 1.0)
    advance(theirs, 2)
    schedule = warmup_constant(sgd(0.5), warmup_steps=3)
    schedule.load_state_dict({**theirs.state_dict(), "factor": None})
    assert schedule.get_lr() == [0.375]
    assert not hasattr(schedule, "lr_lambdas")


class Outer(torch.optim.Optimizer):
    """As a wrapper is: an optimizer whose groups are another one's."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([nn.Parameter(torch.zeros(1))], {})

    param_groups = property(lambda self: self.inner.param_groups, lambda self, groups: None)

    def add_param_group(self, group):
        pass

    def step(self, closure=None):
        return self.inner.step(closure)

    def load_state_dict(self, state_dict):
        self.inner.load_state_dict(state_dict)


@pytest.mark.parametrize("outside", [False, True])
def test_a_wrapper_and_what_it_wraps_are_scheduled_alike(outside):
    inner = sgd(0.3, 0.7)
    outer = Outer(inner)
    schedule = one_cycle(outer if outside else inner, total_steps=9, momentum=(0.95, 0.85))
    assert advance(schedule, 11) == advance(
        one_cycle(sgd(0.3, 0.7), total_steps=9, momentum=(0.95, 0.85)), 11
    )
    outer.load_state_dict(inner.state_dict())
    schedule.load_state_dict(schedule.state_dict())
    assert schedule.optimizer.param_groups is inner.param_groups


def test_a_schedule_and_its_optimizer_are_copied_together():
    schedule = wsd(sgd(0.3), warmup_steps=2, total_steps=9)
    advance(schedule, 3)
    other = deepcopy(schedule)
    assert other.optimizer is not schedule.optimizer
    expected = advance(schedule, 5)
    assert in_force(other) == expected[0]
    assert advance(other, 5) == expected


def test_what_is_no_function_is_refused():
    optimizer = sgd(0.5)
    with pytest.raises(TypeError, match="`factor` must be a function of the step; got 'x'"):
        FactorSchedule(optimizer, "x")  # type: ignore[arg-type]
    assert "initial_lr" not in optimizer.param_groups[0]


def test_a_function_of_ones_own_is_a_schedule():
    schedule = FactorSchedule(sgd(0.5), lambda step: 2.0**-step)
    assert [rates[0][0] for rates in advance(schedule, 3)] == [0.5, 0.25, 0.125]
    assert "factor" not in schedule.state_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_a_function_that_returns_no_rate_is_refused(bad):
    schedule = FactorSchedule(sgd(), lambda step: 1.0 if step == 0 else bad)
    schedule.optimizer.step()
    with pytest.raises(
        ValueError, match=r"`factor` must return a finite number of at least 0; got .* step=1"
    ):
        schedule.step()
    optimizer = sgd()
    with pytest.raises(ValueError, match="step=0"):
        FactorSchedule(optimizer, lambda _: bad)
    assert "initial_lr" not in optimizer.param_groups[0]
