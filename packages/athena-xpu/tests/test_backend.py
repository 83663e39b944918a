"""The backend against a fake of `torch.xpu`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fake_xpu import GIB, FakeXPU, Transfers, properties

from athena_core import AthenaError, backend, device, place
from athena_core._doctor import report
from athena_xpu import XPU, GradScaler, _plugin

XPU0 = torch.device("xpu", 0)


@pytest.fixture(autouse=True)
def _installed(athena_host, monkeypatch):
    monkeypatch.delenv("ATHENA_DEVICE", raising=False)
    athena_host.register(_plugin, "athena-xpu")


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_there(fake_xpu):
    fake_xpu("alchemist", "battlemage")
    own = backend("xpu:1")
    assert isinstance(own, XPU)
    assert (own.available(), own.count()) == (True, 2)
    assert [own.caps(index).arch for index in range(2)] == ["alchemist", "battlemage"]
    assert device() == device("xpu") == XPU0
    assert device("xpu:1") == torch.device("xpu", 1)


def test_no_device(fake_xpu):
    fake_xpu()
    assert not XPU().available()
    with pytest.raises(
        AthenaError, match=r"device `xpu`: no xpu device .*There is: cpu\..*is built with XPU"
    ):
        device("xpu")
    for ask in (
        XPU().caps,
        XPU().device,
        lambda: XPU().device(0),
        lambda: XPU().move(torch.ones(1), torch.half),
    ):
        with pytest.raises(
            AthenaError, match=r"xpu: no device can be used here; .*Its driver: sudo"
        ) as error:
            ask()
        one_line(error)


def test_no_build(fake_xpu, monkeypatch):
    """One line, with the command that mends it."""
    fake = fake_xpu()
    fake.have = replace(fake.have, torch="2.13.0+cpu", built=False)
    with pytest.raises(AthenaError) as error:
        device("xpu:1")
    assert "is built without XPU" in one_line(error)
    assert "pip install --force-reinstall torch --index-url" in one_line(error)
    monkeypatch.setenv("ATHENA_DEVICE", "xpu")
    with pytest.raises(AthenaError, match="ATHENA_DEVICE `xpu`: no xpu device"):
        device()


def test_a_driver_that_cannot_be_loaded_is_no_device(monkeypatch):
    def fail():
        raise RuntimeError("Native API failed")

    monkeypatch.setattr(torch.xpu, "device_count", fail)
    assert not XPU().available()


@pytest.mark.parametrize("index", [2, 7])
def test_index_out_of_range(fake_xpu, index):
    fake_xpu("battlemage", "battlemage")
    with pytest.raises(AthenaError, match=rf"device `xpu:{index}`: there are 2 devices, xpu:0 to xpu:1"):
        device(f"xpu:{index}")
    with pytest.raises(AthenaError, match=rf"`index` must lie in \[0, 2\).*got {index}"):
        XPU().device(index)
    with pytest.raises(AthenaError, match=rf"`index` must lie in \[0, 2\).*got {index}"):
        XPU().caps(index)
    with pytest.raises(AthenaError, match=r"got -1"):
        XPU().caps(-1)


def test_memory_may_be_absent(fake_xpu, monkeypatch):
    """Pitfall 11: the query raises on integrated GPUs (pytorch#164429), and older torch has none."""
    fake = fake_xpu("lunar_lake")
    assert XPU().memory(0) is None
    fake.free = 3 * GIB
    assert XPU().memory(0) == (3 * GIB, 30 * GIB)
    monkeypatch.delattr(torch.accelerator, "get_memory_info")
    assert XPU().memory(0) == (3 * GIB, 30 * GIB)
    monkeypatch.delattr(torch.xpu, "mem_get_info")
    assert XPU().memory(0) is None


def test_indices_mean_what_torch_means(fake_xpu):
    """Pitfall 15: newer torch leaves integrated GPUs out where a discrete one is, and indices shift."""
    older = fake_xpu("meteor_lake", "battlemage")
    assert [XPU().caps(index).integrated for index in range(2)] == [True, False]
    assert any("xpu:1 is not" in note for note in XPU().notes())
    older.devices[:] = [properties("battlemage")]
    assert (XPU().count(), XPU().caps(0).arch) == (1, "battlemage")
    assert not any("integrated" in note for note in XPU().notes())


def test_the_current_device_is_torchs(fake_xpu):
    fake = fake_xpu("battlemage", "battlemage")
    fake.current = 1
    assert XPU().device() == device("xpu") == torch.device("xpu", 1)


def test_after_a_fork(fake_xpu):
    """Pitfall 13: the driver does not survive a fork; torch raises at the first use."""
    fake_xpu("battlemage").forked = True
    for use in (lambda: device("xpu"), lambda: XPU().caps(0), lambda: XPU().device(0)):
        with pytest.raises(AthenaError, match=r"forked .*get_context\('spawn'\)") as error:
            use()
        one_line(error)


def test_float64_is_cast_on_the_host(fake_xpu):
    """Pitfall 12: numpy's default dtype must not reach a device without float64."""
    fake = fake_xpu("alchemist")
    with Transfers(fake):
        placed = place({"x": np.arange(3.0), "n": np.arange(3)}, "xpu")
        assert (placed["x"].dtype, placed["n"].dtype) == (torch.float32, torch.int64)
        assert fake.log == [("to", torch.float32, 0), ("to", torch.int64, 0)]
        fake.log.clear()
        XPU().move(torch.ones(2, dtype=torch.float64), torch.float32, 0)
        assert fake.log == [("to", torch.float32, 0)]


def test_float64_stays_where_there_is_some(fake_xpu):
    fake = fake_xpu("battlemage")
    with Transfers(fake):
        assert place(np.arange(3.0), "xpu").dtype == torch.float64


@pytest.mark.parametrize(("dtype", "instead"), [(torch.float64, "float32"), (torch.complex128, "complex64")])
def test_a_dtype_that_the_device_lacks(fake_xpu, dtype, instead):
    fake = fake_xpu("alchemist")
    with (
        Transfers(fake),
        pytest.raises(AthenaError, match=rf"holds; got {dtype}.*Pass torch\.{instead}") as error,
    ):
        XPU().move(torch.ones(2), dtype, 0)
    one_line(error)
    assert fake.log == []
    with Transfers(fake), pytest.raises(AthenaError, match=r"xpu:0 lacks float64; pass `cast=True`"):
        place(torch.nn.Linear(2, 2, dtype=torch.float64), "xpu", cast=False)


def test_out_of_memory_is_one_line(fake_xpu):
    """What the plan believed to fit, and the driver refused."""
    fake = fake_xpu("battlemage")
    fake.room = 1000
    with Transfers(fake), pytest.raises(AthenaError) as error:
        place(torch.nn.Linear(100, 100), "xpu")
    for part in ("weight", "100 x 100", "39.06 KiB"):
        assert part in one_line(error)


def test_limits_reach_the_plan(fake_xpu, monkeypatch):
    fake_xpu("alchemist")
    assert XPU().caps(0).max_alloc == 4 * GIB - 1
    monkeypatch.setattr("athena_xpu._backend.relaxed_limits", lambda: True)
    assert XPU().caps(0).max_alloc is None


def test_autocast_is_bfloat16_by_default(fake_xpu):
    fake_xpu("battlemage")
    with XPU().autocast():
        assert torch.is_autocast_enabled("xpu")
        assert torch.get_autocast_dtype("xpu") == torch.bfloat16
    with XPU().autocast(None):
        assert not torch.is_autocast_enabled("xpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_autocast_refuses_what_torch_would_ignore(fake_xpu, dtype):
    """torch-xpu-ops#2680: torch disables itself with a warning."""
    fake_xpu("battlemage")
    with pytest.raises(ValueError, match=rf"`dtype` must be .* got {dtype}") as error:
        XPU().autocast(dtype)
    one_line(error)


def test_the_scaler_is_ours_where_float64_is_missing(fake_xpu):
    fake = fake_xpu("alchemist", "battlemage")
    assert isinstance(XPU().make_scaler(), GradScaler)
    assert not XPU().make_scaler(torch.bfloat16).is_enabled()
    fake.devices.pop(0)
    assert type(XPU().make_scaler()) is torch.amp.GradScaler
    assert not XPU().make_scaler(torch.bfloat16).is_enabled()


def test_collectives(fake_xpu, monkeypatch):
    """torch-xpu-ops#2113: gloo has no XPU, xccl no host tensors."""
    fake_xpu("battlemage")
    monkeypatch.setattr(dist, "is_xccl_available", lambda: True, raising=False)
    assert XPU().dist_backend() == "cpu:gloo,xpu:xccl"
    for absent in (lambda: False, None):
        monkeypatch.setattr(dist, "is_xccl_available", absent, raising=False)
        if absent is None:
            monkeypatch.delattr(dist, "is_xccl_available")
        with pytest.raises(AthenaError, match="without xccl: pip install"):
            XPU().dist_backend()


def test_seeds_and_generator_states(fake_xpu):
    fake = fake_xpu("battlemage", "battlemage")
    XPU().seed_all(3)
    assert ("seed", 3) in fake.log
    fake.states = [torch.ones(1), torch.full((1,), 2.0)]
    states = XPU().rng_state()
    fake.states = [torch.zeros(1), torch.zeros(1)]
    XPU().set_rng_state(states)
    assert [state.item() for state in fake.states] == [1, 2]
    with pytest.raises(AthenaError, match="states are of 1 devices and 2 are here"):
        XPU().set_rng_state(states[:1])


def test_synchronize_and_empty_cache(fake_xpu):
    fake = fake_xpu("battlemage")
    XPU().synchronize(0)
    XPU().empty_cache()
    assert fake.log == [("synchronize", 0), ("empty_cache",)]


def test_a_profile_needs_a_torch_that_records_the_device(fake_xpu, tmp_path):
    fake_xpu("battlemage")
    with (
        pytest.raises(AthenaError, match=r"xpu: this torch .* records nothing of it") as error,
        XPU().profile(tmp_path),
    ):
        pass
    one_line(error)


def test_a_profile_records_the_device(fake_xpu, tmp_path, monkeypatch):
    asked = []

    class Profiler:
        def __init__(self, activities):
            asked.append(activities)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def export_chrome_trace(self, path):
            asked.append(path)

    fake = fake_xpu("battlemage")
    both = {torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.XPU}
    monkeypatch.setattr("athena_core._device.supported_activities", lambda: both)
    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    with XPU().profile(tmp_path / "new"):
        pass
    assert asked == [both, str(tmp_path / "new" / "trace.json")]
    assert fake.log == [("synchronize", None)]


@pytest.mark.parametrize("arch", ["alchemist", "battlemage", "meteor_lake", "lunar_lake"])
def test_the_doctor_prints_every_capability(fake_xpu, monkeypatch, arch):
    fake_xpu(arch)
    monkeypatch.setattr("athena_core._doctor._plugins", lambda timeout: [])
    lines, _ = report()
    facts = next(line for line in lines if line.startswith("  xpu:0: "))
    for part in (f"arch {arch}", "driver 1.6", "sub_group_sizes (", "block_io_2d", "slm ", "fp64 "):
        assert part in facts
    assert any("compiled kernels are kept in" in line for line in lines)
    assert "device auto: xpu:0" in lines


IMPORT = """
import torch
def refuse(*args, **kwargs):
    raise AssertionError("the device was probed on import")
for module in (torch.xpu, torch.accelerator):
    for name in [name for name in dir(module) if name.islower() and callable(getattr(module, name))]:
        if not name.startswith("_") and name not in ("device", "lru_cache"):
            setattr(module, name, refuse)
import athena_xpu
for name in athena_xpu.__all__:
    getattr(athena_xpu, name)
"""


def test_import_probes_no_device():
    """Pitfall 1: module-level probing initialises the driver, and forks after it fail."""
    ended = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_plugin_imports_no_torch():
    code = "import sys, athena_xpu, athena_xpu._plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_fake_leaves_torch_as_it_was(monkeypatch):
    before = torch.xpu.device_count
    with monkeypatch.context() as patch:
        FakeXPU(patch, [properties("battlemage")])
        assert torch.xpu.device_count() == 1
    assert torch.xpu.device_count is before
