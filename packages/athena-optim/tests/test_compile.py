"""`torch.compile(optimizer.step)`: the eager numbers, and a bounded number of graphs."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from cases import CASES, OPTIMIZERS, draw_gradients, make_parameters
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import ExponentialLR

from athena_optim import SAM, AdamW, Lamb, Lion, Lookahead

SHAPES = [(7, 5), (5,), (7, 5), (3, 2)]
GRADIENT_STEPS = [case for case in CASES if not case.closure]
OURS = [case for case in OPTIMIZERS if not issubclass(case.type, torch.optim.AdamW)]

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # dynamo's own imports


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


@pytest.mark.parametrize("case", GRADIENT_STEPS, ids=lambda case: case.name)
def test_compiled_equals_eager(case):
    """Twenty steps with a rate that changes, after two eager ones; no more graphs from the fourth on."""
    params = make_parameters(torch.float32, SHAPES)
    optimizer = case.make(params, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.01)  # a number would be a constant of the graph
    for step in range(2):
        give(params, step)
        optimizer.step()
    twins, twin = deepcopy((params, optimizer))
    counter = CompileCounterWithBackend("aot_eager")
    schedules = ExponentialLR(optimizer, 0.9), ExponentialLR(twin, 0.9)
    compiled = torch.compile(optimizer.step, backend=counter)
    for step in range(20):
        give(params, step)
        give(twins, step)
        compiled()
        twin.step()
        for schedule in schedules:
            schedule.step()
        if step == 3:
            graphs = counter.frame_count
    assert counter.frame_count == graphs
    bound = max(1e-5, case.precision)
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_a_step_is_one_graph(case):
    """Torch's own AdamW breaks the graph where its step begins."""
    params = make_parameters(torch.float32, SHAPES)
    optimizer = case.make(params, lr=torch.tensor(0.01))
    give(params, 0)
    optimizer.step()
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(lambda: optimizer.step(), backend=counter, fullgraph=True)
    for number in range(6):
        give(params, number)
        step()
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "case", [case for case in OURS if case.name in ("lamb", "lion")], ids=lambda case: case.name
)
def test_inductor_agrees(case):
    params = make_parameters(torch.float32, SHAPES[:2])
    twins = deepcopy(params)
    compiled_one, eager = (case.make(each, lr=torch.tensor(0.01)) for each in (params, twins))
    step = torch.compile(compiled_one.step)
    for number in range(3):
        give(params, number)
        give(twins, number)
        step()
        eager.step()
    bound = max(1e-5, case.precision)
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.mark.parametrize(
    "make",
    [AdamW, Lion, partial(Lamb, normalize_gradients=True), lambda params, **o: Lookahead(AdamW(params, **o))],
    ids=["adamw", "lion", "lamb", "lookahead"],
)
def test_a_compiled_step_says_that_it_was_skipped(make):
    """The choice is the host's, so it breaks the graph."""
    params = make_parameters(torch.float32, SHAPES[:2])
    optimizer = make(params, lr=torch.tensor(0.01), nonfinite="skip")
    give(params, 0)
    optimizer.step()
    step = torch.compile(optimizer.step, backend="eager")
    for number, bad in enumerate([False, True, False]):
        give(params, number)
        if bad:
            params[0].grad[0, 0] = torch.nan
        before = deepcopy(params)
        step()
        assert optimizer.skipped is bad
        assert bad == all(map(torch.equal, params, before))


def test_a_compiled_step_of_sam_without_closure():
    params = make_parameters(torch.float32, SHAPES[:2])
    twins = deepcopy(params)
    ours, theirs = (SAM(Lion(each, lr=torch.tensor(0.01))) for each in (params, twins))
    compiled = torch.compile(ours.step, backend="eager")
    for number in range(4):
        for optimizer, weights, step in ((ours, params, compiled), (theirs, twins, theirs.step)):
            give(weights, number)
            optimizer.perturb()
            give(weights, number + 10)
            optimizer.restore()
            step()
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b)


def give(params, step: int) -> None:
    """Fill the gradients in place, as `zero_grad(set_to_none=False)` and a backward pass do."""
    for param, gradient in zip(params, draw_gradients(params, step), strict=True):
        if param.grad is None:
            param.grad = gradient
        else:
            param.grad.copy_(gradient)
