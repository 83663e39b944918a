"""Inner updates against torch.optim, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from gradient_models import DOUBLE

from athena_meta import Descent, ElementwiseDescent, InnerAdam, InnerMomentum

PAIRS = [
    (Descent(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    (InnerMomentum(0.1, momentum=0.8), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
    (InnerMomentum(0.1, momentum=0.0), lambda p: torch.optim.SGD(p, lr=0.1)),
    (InnerAdam(0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    (
        InnerAdam(0.1, betas=(0.0, 0.5), eps=1e-2),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.5), eps=1e-2),
    ),
]


@pytest.mark.parametrize(
    ("update", "peer"), PAIRS, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_steps_are_those_of_torch(update, peer):
    weight = torch.randn(5, dtype=DOUBLE)
    theirs = weight.clone().requires_grad_()
    optimizer = peer([theirs])
    parameters = {"weight": weight}
    state = update.start(parameters)
    for step in range(6):
        theirs.grad = theirs.detach() ** 3
        theirs.grad[0] = 0  # an element that never has a gradient
        gradient = parameters["weight"] ** 3
        gradient[0] = 0
        optimizer.step()
        parameters, state = update(parameters, {"weight": gradient}, state, step)
    torch.testing.assert_close(parameters["weight"], theirs.detach())
    assert repr(update).count("lr=0.1")


def test_elementwise_rates_are_parameters_of_the_type_of_what_they_move():
    update = ElementwiseDescent(0.2)
    update.prepare({"a.b": torch.zeros(2, dtype=DOUBLE), "c": torch.zeros(())}, steps=3)
    assert {name: rate.dtype for name, rate in update.rates.items()} == {"a/b": DOUBLE, "c": torch.float32}
    assert all(bool((rate == 0.2).all()) for rate in update.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Descent(-1.0), "`lr` must be finite and at least 0; got -1.0"),
        (lambda: ElementwiseDescent(float("nan")), "`lr` must be finite"),
        (lambda: InnerMomentum(-1.0), "`lr` must be finite"),
        (lambda: InnerMomentum(momentum=1.0), r"`momentum` must lie in \[0, 1\); got 1.0"),
        (lambda: InnerAdam(float("inf")), "`lr` must be finite"),
        (lambda: InnerAdam(betas=(0.9, 1.0)), r"`betas` must both lie in \[0, 1\)"),
        (lambda: InnerAdam(eps=0.0), "`eps` must be above 0"),
    ],
)
def test_refused_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
