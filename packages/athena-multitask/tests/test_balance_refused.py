"""What `balance` refuses, in one line, and tasks that are not finite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from shared_tasks import Losses, Summed, Tasks
from torch import nn

from athena_multitask import Balancer, GradVac, NashMTL, PCGrad, balance


def model_and_losses() -> tuple[Tasks, Losses]:
    model = Tasks()
    return model, model.losses(torch.randn(5, 3, dtype=torch.float64))


BAD: dict[str, tuple[Callable[[Tasks, Losses], object], type[Exception], str]] = {
    "no losses": (
        lambda model, _: balance({}, shared=model.shared(), method=Summed()),
        ValueError,
        "`losses` must hold the loss of a task; got none",
    ),
    "losses without names": (
        lambda model, losses: balance(list(losses.values()), shared=model.shared(), method=Summed()),
        TypeError,
        r"`losses` must be scalars by name; got a list",
    ),
    "a number": (
        lambda model, losses: balance(losses | {"b": 1.5}, shared=model.shared(), method=Summed()),
        TypeError,
        r"`losses\['b'\]` must be a tensor; got a float",
    ),
    "modules for parameters": (
        lambda model, losses: balance(losses, shared=nn.Sequential(model.first), method=Summed()),
        TypeError,
        r"`shared` must hold parameters; got a Linear. Give `encoder.parameters\(\)`",
    ),
    "one parameter": (
        lambda model, losses: balance(losses, shared=model.first.weight, method=Summed()),
        TypeError,
        r"`shared` must hold parameters; got a Tensor. Give `encoder.parameters\(\)`",
    ),
    "a complex parameter": (
        lambda _, losses: balance(
            losses, shared=[nn.Parameter(torch.ones(2, dtype=torch.complex64))], method=Summed()
        ),
        ValueError,
        "`shared` must hold real parameters; got a complex one",
    ),
    "not scalar": (
        lambda model, losses: balance(
            losses | {"b": torch.ones(3, requires_grad=True) * 2}, shared=model.shared(), method=Summed()
        ),
        ValueError,
        r"`losses\['b'\]` must be a scalar; got the shape \(3,\)",
    ),
    "another device": (
        lambda model, losses: balance(
            losses | {"b": losses["b"].to("meta")}, shared=model.shared(), method=Summed()
        ),
        ValueError,
        r"`losses\['b'\]` must lie on cpu as `shared` does; got meta",
    ),
    "shared on two devices": (
        lambda model, losses: balance(
            losses, shared=[*model.shared(), nn.Parameter(torch.ones(1, device="meta"))], method=Summed()
        ),
        ValueError,
        "`shared` must lie on one device; got cpu, meta",
    ),
    "not of the shared": (
        lambda model, losses: balance(
            losses | {"b": model.heads["b"].weight.sum()}, shared=model.shared(), method=Summed()
        ),
        ValueError,
        r"`losses\['b'\]` must depend on a parameter of `shared`",
    ),
    "of nothing": (
        lambda model, losses: balance(
            losses | {"b": losses["b"].detach()}, shared=model.shared(), method=Summed()
        ),
        ValueError,
        r"`losses\['b'\]` must depend on a parameter of `shared`",
    ),
    "nothing shared": (
        lambda _, losses: balance(losses, shared=[], method=Summed()),
        ValueError,
        "`shared` must hold a parameter that requires a gradient; got none",
    ),
    "all frozen": (
        lambda model, losses: balance(
            losses, shared=[one.requires_grad_(False) for one in model.unused.parameters()], method=Summed()
        ),
        ValueError,
        "`shared` must hold a parameter that requires a gradient; got none",
    ),
    "unknown task": (
        lambda model, losses: balance(
            losses, shared=model.shared(), method=Summed(), heads={"a": [], "b": []}
        ),
        ValueError,
        r"`losses` must be of tasks in `heads`, \['a', 'b'\]; got 'c'",
    ),
    "no method": (
        lambda model, losses: balance(losses, shared=model.shared(), method="pcgrad"),
        TypeError,
        "`method` must be a `Balancer` or a function of a matrix; got 'pcgrad'",
    ),
    "a class": (
        lambda model, losses: balance(losses, shared=model.shared(), method=PCGrad),
        TypeError,
        "`method` must be a `Balancer`",
    ),
    "a direction of another shape": (
        lambda model, losses: balance(losses, shared=model.shared(), method=lambda matrix: matrix.sum(1)),
        ValueError,
        r"`method` must return a direction of \(46,\); got \(3,\)",
    ),
    "unknown policy": (
        lambda model, losses: balance(losses, shared=model.shared(), method=Summed(), nonfinite="ignore"),
        ValueError,
        '`nonfinite` must be "raise" or "skip"; got \'ignore\'',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_balanced_is_refused_in_one_line(case: str) -> None:
    call, error, message = BAD[case]
    model, losses = model_and_losses()
    with pytest.raises(error, match=message) as raised:
        call(model, losses)
    assert "\n" not in str(raised.value)
    assert all(one.grad is None for one in model.parameters())


def spoiled(losses: Losses, name: str, how: str) -> Losses:
    factor = {"loss": float("nan"), "gradient": 1.0}[how]
    bad = losses[name] * factor
    if how == "gradient":
        bad.register_hook(lambda gradient: gradient * float("inf"))
    return losses | {name: bad}


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_task_that_is_not_finite_is_named(how: str) -> None:
    model, losses = model_and_losses()
    with pytest.raises(ValueError, match=r'got b not to be\. Mend the cause, or pass `nonfinite="skip"`'):
        balance(spoiled(losses, "b", how), shared=model.shared(), method=PCGrad(seed=0))
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_skipped_changes_nothing(how: str) -> None:
    model, losses = model_and_losses()
    method = PCGrad(seed=0)
    before = method.state_dict()["generator"]
    model.first.weight.grad = torch.ones_like(model.first.weight)
    balanced = balance(spoiled(losses, "b", how), shared=model.shared(), method=method, nonfinite="skip")
    assert balanced.nonfinite == ("b",)
    assert balanced.weights is None
    assert model.first.weight.grad.eq(1).all()
    assert sum(one.grad is not None for one in model.parameters()) == 1
    assert method.state_dict()["generator"].equal(before)


def test_a_loss_that_is_nan_without_a_gradient_is_found() -> None:
    """The mean of no samples is NaN, its gradient zero."""
    weight = nn.Parameter(torch.ones(3))
    losses = {"a": weight.square().mean(), "b": (weight[:0] * 2).mean()}
    with pytest.raises(ValueError, match="got b not to be"):
        balance(losses, shared=[weight], method=Summed())


@pytest.mark.parametrize("make", [GradVac, lambda: NashMTL(update_every=2)], ids=["gradvac", "nash-mtl"])
def test_what_is_remembered_of_tasks_is_not_used_for_others(make: Callable[[], Balancer]) -> None:
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    losses = {"a": weight.square().sum(), "b": weight.prod(), "c": weight.exp().sum()}

    def step(method: Balancer, *names: str) -> None:
        chosen = {name: losses[name] for name in names}
        balance(chosen, shared=[weight], method=method, retain_graph=True)

    method, resumed = make(), make()
    step(method, "a", "b")
    resumed.load_state_dict(method.state_dict())
    weight.grad = None
    for one in (method, resumed):
        for others in (("a", "c"), ("b", "a"), ("a", "b", "c")):
            with pytest.raises(ValueError, match=r"must be of the tasks \['a', 'b'\] in this order, .*; got"):
                step(one, *others)
        assert weight.grad is None
    step(method, "a", "b")
    nash = NashMTL()  # keeps nothing
    step(nash, "a", "b")
    step(nash, "c", "a")
