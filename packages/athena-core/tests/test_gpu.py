"""The core on a CUDA device: the choice of it, its memory, placing, runs that resume, ops and kernels."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from fake_kernels import LOG, axpy, square
from rich.console import Console
from torch import nn

from athena_core import (
    AthenaError,
    Interrupted,
    Kernel,
    PlacementError,
    PluginHost,
    backend,
    device,
    hookimpl,
    kernels,
    kernels_disabled,
    load_checkpoint,
    place,
    save_checkpoint,
)
from athena_core._doctor import report
from athena_core.testing import CutRun, kernel_checks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
MIB = 2**20


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.25), nn.ReLU(), nn.Linear(16, 3))


def test_auto_is_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATHENA_DEVICE", raising=False)
    current = torch.device(DEVICE, torch.cuda.current_device())
    assert device() == device("auto") == device(DEVICE) == current
    assert torch.zeros(1, device=device()).device == current
    monkeypatch.setenv("ATHENA_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    with pytest.raises(AthenaError, match=r"there (is|are) "):
        device("cuda:99")


def test_what_the_device_can_do_is_what_the_driver_says() -> None:
    cuda, properties = backend(DEVICE), torch.cuda.get_device_properties(0)
    caps = cuda.caps(0)
    assert (cuda.count(), cuda.available()) == (torch.cuda.device_count(), True)
    assert (caps.name, caps.total) == (properties.name, properties.total_memory)
    assert caps.fp64
    assert caps.bf16_native == torch.cuda.is_bf16_supported(including_emulation=False)
    assert cuda.dist_backend() == "cpu:gloo,cuda:nccl"
    assert cuda.make_scaler().is_enabled()


def test_free_memory_falls_by_what_is_taken() -> None:
    cuda = backend(DEVICE)
    cuda.empty_cache()
    torch.zeros(1, device=DEVICE)
    free, total = cuda.memory(0)
    assert 0 < free <= total
    taken = torch.zeros(64 * MIB, dtype=torch.float32, device=DEVICE)
    cuda.synchronize()
    less, _ = cuda.memory(0)
    # other processes may share the device: half of the 256 MiB is certain enough
    assert free - less > 128 * MIB
    del taken
    cuda.empty_cache()
    assert cuda.memory(0)[0] > less


def test_a_placed_module_and_its_optimizer_go_on_as_on_the_cpu() -> None:
    here = make_model().double().eval()
    there = copy.deepcopy(here)
    parameters = list(there.parameters())
    pairs = [(model, torch.optim.AdamW(model.parameters(), lr=0.1)) for model in (here, there)]
    x = torch.randn(5, 6, dtype=torch.float64)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    for model, optimizer in pairs:
        step(model, optimizer, x)
    place(there, DEVICE)
    place(pairs[1][1], DEVICE)
    assert all(a is b for a, b in zip(there.parameters(), parameters, strict=True))
    assert {p.device.type for p in parameters} == {DEVICE}
    step(*pairs[0], x)
    step(*pairs[1], place(x, DEVICE))
    for ours, expected in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-10, atol=1e-12)


def test_what_does_not_fit_is_refused_before_anything_moves() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2**22, 2**22, device="meta"))  # 64 TiB
    with pytest.raises(PlacementError, match=r"`1.weight` .* need"):
        place(model, DEVICE)
    assert model[0].weight.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x = torch.ones(8, 8, device=DEVICE)
    with backend(DEVICE).autocast(dtype):
        assert (x @ x).dtype == dtype
        with backend(DEVICE).autocast(None):
            assert (x @ x).dtype == torch.float32


def train(run: CutRun) -> None:
    """Dropout draws from the device's generator, data from the host's."""
    model = place(make_model(), run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in run.steps(6, model=model, optimizer=optimizer):
        x = torch.randn(32, 6).to(run.device)
        loss = model(x).square().mean() + torch.rand((), device=run.device)
        optimizer.zero_grad()
        loss.backward()
        run.check_finite(step, model, loss)
        optimizer.step()
        run.log(step, loss=loss)


def logged(folder: Path, *, cut: int = 0) -> list[dict[str, float]]:
    with CutRun(folder, cut=cut, device=DEVICE, seed=3, console=Console(quiet=True)) as run:
        train(run)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_was_cut_resumes_bit_for_bit(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        logged(tmp_path / "cut", cut=3)
    torch.manual_seed(99)  # whatever happens in between
    torch.rand(7, device=DEVICE)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    ends = [
        load_checkpoint(tmp_path / name / "checkpoints" / "step-00000006.pt") for name in ("cut", "whole")
    ]
    for name, tensor in ends[0]["state"]["model"].items():
        assert torch.equal(tensor, ends[1]["state"]["model"][name]), name


def test_a_checkpoint_is_read_on_the_cpu(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "state.pt", {"x": torch.arange(3.0, device=DEVICE)})
    read = load_checkpoint(tmp_path / "state.pt")["x"]
    assert read.device.type == "cpu"
    assert read.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.usefixtures("athena_host")
def test_ops_without_a_kernel_run_their_reference() -> None:
    LOG.clear()
    x, weight = (torch.randn(3, 4, device=DEVICE, requires_grad=True), torch.randn(4, device=DEVICE))
    y = square(x, weight, 0.5)
    torch.testing.assert_close(y.cpu(), x.cpu().square() * weight.cpu() + 0.5)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * x.detach() * weight)
    torch.testing.assert_close(torch.ops.athena_test.square(x, weight, 0.5), y)
    assert set(LOG) == {"reference"}
    values = [torch.ones(3, device=DEVICE)]
    axpy(values, [torch.ones(3, device=DEVICE)], 2.0)
    assert values[0].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.usefixtures("athena_host")
def test_ops_compile() -> None:
    x, weight = torch.randn(3, 4, device=DEVICE), torch.randn(4, device=DEVICE)
    compiled = torch.compile(lambda x: square(x, weight, 0.5).sin(), fullgraph=True)
    torch.testing.assert_close(compiled(x), square(x, weight, 0.5).sin())


SQUARE = Kernel(
    "athena_test::square",
    DEVICE,
    "fake_kernels:kernel",
    autograd="fake_kernels:Formula",
    supports="fake_kernels:supports",
)
AXPY = Kernel("athena_test::axpy", DEVICE, "fake_kernels:axpy_kernel")


class Plugin:
    @hookimpl
    def athena_kernels(self) -> list[Kernel]:
        return [SQUARE, AXPY]


def test_a_kernel_for_the_device_runs_there_alone(athena_host: PluginHost) -> None:
    athena_host.register(Plugin(), "fake", "1.0", "fake")
    x, weight = torch.randn(3, 4), torch.randn(4)

    def log_of(x: torch.Tensor, weight: torch.Tensor) -> list[str]:
        LOG.clear()
        y = square(x, weight)
        torch.testing.assert_close(y.cpu().double(), x.cpu().double().square() * weight.cpu() + 1e-6)
        return list(LOG)

    there = x.to(DEVICE), weight.to(DEVICE)
    assert log_of(*there) == ["kernel"]
    assert log_of(x, weight) == ["reference"]
    assert log_of(*(one.double() for one in there)) == ["reference"]  # which `supports` leaves out
    with kernels_disabled():
        assert log_of(*there) == ["reference"]
    assert {row.runs for row in kernels() if row.device == DEVICE} == {"kernel"}
    trained = there[0].requires_grad_()
    LOG.clear()
    square(trained, there[1]).sum().backward()
    assert LOG == ["kernel", "formula"]


@pytest.mark.parametrize("kernel", [SQUARE, AXPY], ids=["square", "axpy"])
@pytest.mark.usefixtures("athena_host", "seed")
def test_conformance_of_kernels_for_the_device(kernel: Kernel) -> None:
    for check in kernel_checks(kernel):
        check()


def test_a_plugin_s_choice_of_the_device_is_obeyed(
    athena_host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chooser:
        @hookimpl
        def athena_select_device(self) -> str:
            return "cpu"

    monkeypatch.delenv("ATHENA_DEVICE", raising=False)
    assert device().type == DEVICE
    athena_host.register(Chooser(), "chooser", "1.0", "chooser")
    assert device().type == "cpu"


def test_the_doctor_names_the_device() -> None:
    lines, _ = report()
    name = torch.cuda.get_device_properties(0).name
    assert any(line.startswith(f"  {DEVICE}") and name in line for line in lines), lines
    assert any(line.startswith("device auto: cuda") for line in lines), lines
