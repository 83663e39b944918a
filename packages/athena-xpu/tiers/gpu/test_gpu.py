"""All kernels on a GPU: the laws, full sizes in three dtypes against float64, and a training run."""

from __future__ import annotations

import pytest
import torch
from bench_kernels import DTYPES, check_step, chosen, define_ops, int8_product, smallest_mask, vocabulary_loss
from kernel_bench import Bench
from kernel_cases import CASES, Case
from kernel_steps import STEPS, Step

from athena_core import kernels, kernels_disabled
from athena_core.testing import Check, kernel_checks
from athena_nn import Decoder, RotaryPositions
from athena_optim import AdamW
from athena_xpu import register
from athena_xpu._plugin import KERNELS, kernels_for

DEVICE = str(chosen("auto") or "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(chosen("auto") is None, reason="needs a CUDA or XPU device"),
]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
define_ops()


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    if DEVICE != "xpu":
        register(DEVICE)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(torch.device(DEVICE), repeats=3, smoke=False)


@pytest.mark.parametrize(
    "check",
    [check for kernel in kernels_for(DEVICE) for check in kernel_checks(kernel)],
    ids=lambda one: one.name,
)
def test_kernel(check: Check) -> None:
    check()


@dtypes
@pytest.mark.parametrize("case", CASES, ids=lambda one: one.name or one.op)
def test_full_size(bench: Bench, case: Case, dtype: torch.dtype) -> None:
    bench.check(case, case.make(bench.draw(dtype)), dtype)


@dtypes
@pytest.mark.parametrize("step", STEPS, ids=lambda one: one.op)
def test_steps_of_full_size(bench: Bench, step: Step, dtype: torch.dtype) -> None:
    check_step(bench, step, dtype, size=2**25 + 3)


@dtypes
def test_masks_of_full_size(bench: Bench, dtype: torch.dtype) -> None:
    assert len(list(smallest_mask(bench, dtype))) == 1  # compared before it is timed


def test_products_of_full_size(bench: Bench) -> None:
    assert len(list(int8_product(bench, torch.bfloat16))) == 1
    assert len(list(vocabulary_loss(bench, torch.bfloat16))) == 2


def losses(device: str, *, steps: int, width: int, nudge: float = 0.0) -> torch.Tensor:
    """What a small decoder loses while it learns to count, its first weights moved by that share."""
    torch.manual_seed(0)
    model = Decoder(
        64, width, num_layers=2, num_heads=4, ff_dim=2 * width, positions=RotaryPositions(width // 4)
    )
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1 + nudge * torch.randn_like(one))
    model.to(device)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    starts = torch.randint(64, (steps, 8, 1))
    found = []
    for start in starts:
        tokens = ((start + torch.arange(33)) % 64).to(device)
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found).cpu()


def test_a_training_run_loses_what_the_reference_loses() -> None:
    """Within the noise: how far a run goes astray whose first weights differ in their last digits."""
    options = {"steps": 200, "width": 128}
    found = losses(DEVICE, **options)
    with kernels_disabled():
        expected, astray = losses(DEVICE, **options), losses(DEVICE, **options, nudge=1e-6)
    assert found[-1] < 0.1 * found[0]
    noise = (astray - expected).abs().cummax(0).values
    assert ((found - expected).abs() <= 10 * noise + 1e-5).all()


def test_every_kernel_runs() -> None:
    """None was refused, as one that cannot be compiled here would be. Runs last."""
    rows = {row.op: row for row in kernels() if row.device == DEVICE}
    assert {op: rows[op].why for op, *_ in KERNELS if rows[op].runs != "kernel"} == {}
