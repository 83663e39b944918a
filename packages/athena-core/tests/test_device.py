"""The choice of a device, and the backend interface, with the CPU and invented devices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from fake_devices import Eager, Meta

from athena_core import AthenaError, DeviceBackend, DeviceCaps, backend, device
from athena_core._backends import CPU, CUDA, MPS
from athena_core._rng import rng_state, set_rng_state


@pytest.fixture(autouse=True)
def _empty(athena_host, monkeypatch):
    monkeypatch.delenv("ATHENA_DEVICE", raising=False)


@pytest.fixture
def eager(athena_host):
    plugin = Eager()
    athena_host.register(plugin, "eager")
    return plugin


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


def test_auto_is_the_cpu_without_an_accelerator(no_accelerator):
    assert device() == device("auto") == device("cpu") == device("cpu:0") == torch.device("cpu")


def test_order_explicit_environment_hook(eager, monkeypatch, no_accelerator):
    eager.choice = "meta"
    assert device() == torch.device("meta")
    monkeypatch.setenv("ATHENA_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    assert device("meta") == device(torch.device("meta")) == torch.device("meta")


def test_accelerator_before_the_cpu_and_with_its_current_index(monkeypatch):
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)
    assert device() == device("cuda") == torch.device("cuda:1")
    assert device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(AthenaError, match=r"device `cuda:7`: there are 2 devices.*cuda:0"):
        device("cuda:7")


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (
            "cudda:0",
            r"device `cudda:0`: no installed package has a backend for `cudda`\. Did you mean `cuda`\?",
        ),
        ("cpu:x", r"device `cpu:x`: write `cpu` or `cpu:INDEX`; got index 'x'"),
        ("cpu:", r"got index ''"),
        ("cpu:-1", r"got index '-1'"),
        ("cpu:1", r"there is 1 device, cpu:0.*Did you mean `cpu:0`"),
        ("xpu", r"no installed package has a backend for `xpu`\. Did you mean `cpu`"),
        ("cuda:7", r"no cuda device can be used here\. There is: cpu"),
        ("", r"no installed package has a backend for ``"),
    ],
)
def test_bad_requests_are_one_line(request_, line, no_accelerator):
    with pytest.raises(AthenaError, match=line) as caught:
        device(request_)
    assert "\n" not in str(caught.value)


def test_absent_is_never_a_silent_cpu(monkeypatch, no_accelerator):
    monkeypatch.setenv("ATHENA_DEVICE", "cuda")
    with pytest.raises(AthenaError, match="ATHENA_DEVICE `cuda`: no cuda device"):
        device()


def test_an_accelerator_without_a_backend_is_an_error(monkeypatch):
    found = torch.device("xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    with pytest.raises(AthenaError, match=r"torch\.accelerator `xpu`.*no installed package has a backend"):
        device()


def test_a_broken_backend_is_no_candidate_and_keeps_its_error(eager, no_accelerator):
    assert device() == torch.device("cpu")
    with pytest.raises(RuntimeError, match="driver version mismatch"):
        device("vulkan")


def test_import_probes_no_device():
    """Pitfall: module-level probing initialises a driver, and forks after it fail."""
    code = (
        "import torch; calls = []\n"
        "for name in ('is_available', 'device_count', 'current_accelerator'):\n"
        "    setattr(torch.accelerator, name, lambda *a, **k: calls.append(name))\n"
        "import athena_core._device, athena_core._backends, athena_core._place\n"
        "assert not calls, calls\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_backend_is_found_by_type():
    assert isinstance(backend("cpu:0"), CPU)
    assert isinstance(backend(torch.device("cuda", 1)), CUDA)
    assert isinstance(backend("mps"), MPS)


def test_memory_that_the_driver_does_not_tell_is_none(monkeypatch):
    """Pitfall: the query raises on integrated GPUs (pytorch#164429)."""

    def refuse(index):
        raise RuntimeError("not supported on this device")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse, raising=False)
    assert CUDA().memory(0) is None
    free, total = CPU().memory() or (1, 1)
    assert 0 < free <= total


def test_cuda_capabilities_come_from_properties(monkeypatch):
    """Pitfalls: emulated bfloat16 is not native; a device's name says nothing."""
    turing = {
        "name": "A100",
        "major": 7,
        "minor": 5,
        "total_memory": 2**34,
        "is_integrated": 0,
        "gcnArchName": "",
    }
    for properties, native, matrix in [(turing, False, True), ({**turing, "major": 8}, True, True)]:
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda i, p=properties: type("P", (), p), raising=False
        )
        caps = CUDA().caps(0)
        assert (caps.bf16_native, caps.matrix_unit, caps.total, caps.fp64) == (native, matrix, 2**34, True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    radeon = {**turing, "major": 10, "gcnArchName": "gfx1030"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: type("P", (), radeon), raising=False)
    assert not CUDA().caps(0).matrix_unit


def test_cpu_only_torch_beside_a_driver_is_diagnosed(monkeypatch, no_accelerator):
    """Pitfall: a dependency sync that replaces the accelerator's wheel leaves a silent CPU."""
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(AthenaError, match=r"without CUDA.*pytorch.org"):
        device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "CUDA_VISIBLE_DEVICES" in CUDA().diagnose()[0]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert CUDA().diagnose() == []


def test_autocast_refuses_what_torch_would_ignore():
    """Pitfall: torch disables autocast with a warning for other dtypes (torch-xpu-ops#2680)."""
    cpu, x = backend("cpu"), torch.ones(2, 2)
    for dtype, expected in [(torch.bfloat16,) * 2, (None, torch.float32), (torch.float32, torch.float32)]:
        with cpu.autocast(dtype):
            assert (x @ x).dtype == expected
    with pytest.raises(ValueError, match=r"`dtype` must be .* got torch\.float64"):
        cpu.autocast(torch.float64)


def test_profile_on_the_cpu(tmp_path):
    folder = tmp_path / "new" / "profile"
    for size in (8, 16):  # a trace that is there is replaced
        with backend("cpu").profile(folder) as profiler:
            _ = torch.ones(size, size) @ torch.ones(size, size)
    assert "aten::mm" in {event.key for event in profiler.key_averages()}
    trace = json.loads((folder / "trace.json").read_text("utf-8"))
    assert "aten::mm" in {event["name"] for event in trace["traceEvents"]}
    assert [path.name for path in folder.iterdir()] == ["trace.json"]


def test_profile_of_what_torch_does_not_record(tmp_path):
    for own in (Meta(), MPS()):
        with pytest.raises(AthenaError, match=f"{own.type}: this torch .* records nothing of it"):
            own.profile(tmp_path / own.type).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_an_absent_type_tells_why(eager, no_accelerator, monkeypatch):
    monkeypatch.setattr(Meta, "count", lambda self: 0)
    with pytest.raises(AthenaError, match=r"There is: cpu\. See `athena doctor`\."):
        device("meta")
    monkeypatch.setattr(Meta, "notes", lambda self: ["there is nothing"])
    monkeypatch.setattr(Meta, "diagnose", lambda self: ["turn it on: meta --on"])
    with pytest.raises(AthenaError, match=r"There is: cpu\. there is nothing; turn it on: meta --on"):
        device("meta")


def test_scaler_only_scales_float16():
    cpu = backend("cpu")
    assert cpu.make_scaler().is_enabled()
    assert not cpu.make_scaler(torch.bfloat16).is_enabled()


def test_collectives_take_host_tensors_too():
    """Pitfall: gloo has no accelerator tensors and nccl or xccl no host ones (torch-xpu-ops#2113)."""
    assert CPU().dist_backend() == "gloo"
    assert CUDA().dist_backend() == "cpu:gloo,cuda:nccl"
    with pytest.raises(AthenaError, match=r"meta: this torch .* has no collectives"):
        Meta().dist_backend()


def test_generator_state_round_trip():
    cpu = backend("cpu")
    cpu.seed_all(3)
    state = cpu.rng_state()
    first = torch.rand(4)
    cpu.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)
    cpu.seed_all(3)
    assert torch.equal(torch.rand(4), first)


def test_generator_states_of_other_devices_are_refused(no_accelerator):
    with pytest.raises(AthenaError, match="states are of 1 devices and 0 are here"):
        CUDA().set_rng_state([torch.zeros(1)])


def test_synchronize_and_empty_cache_on_the_cpu():
    backend("cpu").synchronize()
    backend("cpu").empty_cache()


def test_caps_are_data_and_a_plugin_may_add_to_them():
    from dataclasses import FrozenInstanceError, dataclass

    @dataclass(frozen=True, kw_only=True)
    class ArcCaps(DeviceCaps):
        slm: int = 0

    caps = ArcCaps(slm=65536, fp64=False)
    with pytest.raises(FrozenInstanceError):
        caps.slm = 1
    assert not caps.fp64


def test_an_incomplete_backend_cannot_be_made():
    class Nothing(DeviceBackend):
        type = "nothing"

    with pytest.raises(TypeError, match="caps"):
        Nothing()


def test_a_checkpoint_of_another_type_of_device_leaves_its_generators_out():
    """As where a run with ``auto`` goes on on a machine without the accelerator that it began on."""
    cpu = torch.device("cpu")
    state = rng_state(cpu)
    state["numpy"]["state"]["key"] = torch.as_tensor(state["numpy"]["state"]["key"])
    drawn = torch.rand(3)
    other = {**state, "device": [torch.zeros(16)], "device_type": "xpu"}
    with pytest.warns(RuntimeWarning, match="the checkpoint is of xpu and the run goes on with cpu"):
        set_rng_state(other, cpu)
    assert torch.equal(torch.rand(3), drawn)
    set_rng_state(state, cpu)  # without a warning
    assert torch.equal(torch.rand(3), drawn)
