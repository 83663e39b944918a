"""What the doctor says of Intel GPUs, on hosts and installations that are data."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_xpu import XPU_BUILD, FakeXPU, properties

from athena_core import AthenaError, device
from athena_core._doctor import report
from athena_xpu import XPU, _diagnosis, _plugin
from athena_xpu._diagnosis import absence_notes, build_problems, cache_notes, driver_problems, installed
from athena_xpu._host_gpus import HostGPU, host_gpus

CPU_BUILD = replace(XPU_BUILD, torch="2.13.0+cpu", built=False, distributions=frozenset({"torch"}))
NODE = Path("/dev/dri/renderD128")
ARC = HostGPU(0x56A0, NODE, openable=True, group="render")
INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/xpu"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ATHENA_", "ZE_", "ONEAPI_", "UR_", "SYCL_", "NEO_", "TRITON_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("athena_xpu._backend.began_with", lambda: os.environ)


def only(lines, *parts):
    (line,) = lines
    assert "\n" not in line
    for part in parts:
        assert part in line


def make_node(root, name, vendor, device, *, dev=True):
    folder = root / "sys/class/drm" / name / "device"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")
    if dev:
        (root / "dev/dri").mkdir(parents=True, exist_ok=True)
        (root / "dev/dri" / name).touch()


def test_gpus_of_the_host(tmp_path):
    """Other vendors' and graphics too old for torch.xpu are left out."""
    make_node(tmp_path, "renderD128", "0x10de", "0x2330")
    make_node(tmp_path, "renderD129", "0x8086", "0x56a0")
    make_node(tmp_path, "renderD130", "0x8086", "0x3e9b")  # UHD 630
    make_node(tmp_path, "renderD131", "0x8086", "0xe20b", dev=False)
    (tmp_path / "sys/class/drm/renderD132").mkdir()  # no PCI device
    first, second = host_gpus(tmp_path)
    assert (first.device_id, first.openable) == (0x56A0, True)
    assert first.node == tmp_path / "dev/dri/renderD129"
    assert str(first) == "Alchemist (device 0x56A0)"
    assert (second.device_id, second.node, second.openable) == (0xE20B, None, False)
    assert str(second) == "Battlemage (device 0xE20B)"


def test_the_group_that_may_open_it(tmp_path, monkeypatch):
    grp = pytest.importorskip("grp")
    make_node(tmp_path, "renderD128", "0x8086", "0x56a0")
    node = tmp_path / "dev/dri/renderD128"
    node.chmod(0o660)
    own = node.stat().st_gid
    assert host_gpus(tmp_path)[0].group == grp.getgrgid(own).gr_name
    node.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert host_gpus(tmp_path)[0].group == ""

    def unknown(number):
        raise KeyError(number)

    node.chmod(0o660)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    assert host_gpus(tmp_path)[0].group == str(own)


def test_a_sound_installation():
    assert list(build_problems(XPU_BUILD, [ARC])) == []
    assert list(build_problems(CPU_BUILD, [])) == []
    assert list(build_problems(replace(CPU_BUILD, torch="2.13.0+cu128", other=True), [ARC])) == []
    assert list(driver_problems([], hidden=False)) == []


def test_cpu_only_torch_beside_a_gpu():
    only(build_problems(CPU_BUILD, [ARC]), "Alchemist (device 0x56A0) is here", "without XPU", INSTALL)


@pytest.mark.parametrize("remains", ["triton-xpu", "pytorch-triton-xpu", "intel-sycl-rt"])
def test_an_xpu_build_that_was_replaced(remains):
    """Pitfall: a dependency sync that replaces it leaves a silent CPU (pytorch#150260)."""
    have = replace(CPU_BUILD, distributions=frozenset({"torch", remains}))
    only(build_problems(have, [ARC]), "another installation put in place of the XPU build", INSTALL)


def test_two_tritons():
    """triton-xpu#7264: two distributions, one module."""
    have = replace(XPU_BUILD, distributions=frozenset({"triton", "triton-xpu"}))
    remedy = "pip uninstall -y triton triton-xpu && pip install"
    only(build_problems(have, []), "triton and triton-xpu both install the module `triton`", remedy)


def test_a_triton_without_intels_backend():
    have = replace(
        XPU_BUILD, distributions=frozenset({"triton"}), triton_backends=frozenset({"nvidia", "amd"})
    )
    only(build_problems(have, [ARC]), "triton cannot compile for Intel GPUs", "pip uninstall -y triton &&")


def test_ipex_beside_torch():
    have = replace(XPU_BUILD, distributions=frozenset({"triton-xpu", "intel-extension-for-pytorch"}))
    only(build_problems(have, []), "pip uninstall -y intel-extension-for-pytorch")


def test_distributions_are_found_by_metadata(tmp_path, monkeypatch):
    """Pitfall 8: a distribution's name is no module's, so importing it can never succeed."""
    for name in ("triton_xpu", "Pytorch-Triton_XPU"):
        folder = tmp_path / f"{name}-3.5.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.5.0\n")
        (folder / "entry_points.txt").write_text("[triton.backends]\nintel = triton.backends.intel\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    have = installed()
    assert {"triton-xpu", "pytorch-triton-xpu", "torch"} <= have.distributions
    assert "intel" in have.triton_backends
    assert not {name for name in set(sys.modules) - before if "triton" in name}


@pytest.mark.parametrize(
    ("gpu", "library", "parts"),
    [
        (replace(ARC, node=None, openable=False), "ze", ("no node under /dev/dri", "--device /dev/dri")),
        (replace(ARC, openable=False), "ze", (f"{NODE} may not be opened", "sudo usermod -aG render $USER")),
        (replace(ARC, openable=False, group="video"), "ze", ("sudo usermod -aG video $USER",)),
        (replace(ARC, openable=False, group=""), "ze", ("sudo usermod -aG render $USER",)),
        (ARC, None, ("no Level Zero driver", "sudo apt install libze1 libze-intel-gpu1")),
        (ARC, "libze_intel_gpu.so.1", ("may be too old", "sudo apt install libze1")),
    ],
)
def test_why_torch_sees_none(gpu, library, parts, monkeypatch):
    monkeypatch.setattr(_diagnosis, "find_library", lambda name: library)
    only(driver_problems([gpu], hidden=False), *parts)
    assert list(driver_problems([gpu], hidden=True)) == []


def test_what_torch_raised_is_told(doctor, monkeypatch):
    def fail():
        raise RuntimeError("Native API failed.\nBacktrace: ...")

    doctor()
    monkeypatch.setattr("torch.xpu.device_count", fail)
    only(XPU().diagnose(), "torch raises `Native API failed.`; the driver may be too old")


def test_absence_without_a_problem():
    only(absence_notes(CPU_BUILD, [], looked=True), "built without XPU; no Intel GPU is seen here", INSTALL)
    only(absence_notes(XPU_BUILD, [], looked=True), "built with XPU; no Intel GPU is seen here", "libze1")
    only(absence_notes(CPU_BUILD, [], looked=False), f"on {sys.platform} nobody looks")
    other = replace(CPU_BUILD, torch="2.13.0+cu128", other=True)
    only(absence_notes(other, [ARC], looked=True), "Alchemist", "built for another accelerator", INSTALL)
    assert absence_notes(CPU_BUILD, [ARC], looked=True) == []  # a problem, told elsewhere


def test_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    cost, where = cache_notes({}, tmp_path)
    assert "torch-xpu-ops#1512" in cost
    assert f"{tmp_path}/.triton/cache (Triton)" in where
    assert f"{tmp_path}/.cache/neo_compiler_cache (driver)" in where
    told = {"TRITON_CACHE_DIR": "/t", "NEO_CACHE_DIR": "/n"}
    assert "/t (Triton) and /n (driver)" in cache_notes(told, tmp_path)[1]
    assert "/x/neo_compiler_cache" in cache_notes({"XDG_CACHE_HOME": "/x"}, tmp_path)[1]
    assert "keeps none" in cache_notes({"NEO_CACHE_PERSISTENT": "0"}, tmp_path)[1]
    monkeypatch.setattr(sys, "platform", "win32")
    assert "/l/NEO/neo_compiler_cache" in cache_notes({"LOCALAPPDATA": "/l"}, tmp_path)[1]


@pytest.fixture
def doctor(athena_host, monkeypatch):
    """Lines of the doctor with this plugin, on a fake of torch and the host."""
    athena_host.register(_plugin, "athena-xpu")
    monkeypatch.setattr("athena_core._doctor._plugins", lambda timeout: [])
    monkeypatch.setattr(_diagnosis, "find_library", lambda name: "libze_intel_gpu.so.1")

    def run(*devices, have=XPU_BUILD, gpus=(ARC,), **environ):
        fake = FakeXPU(monkeypatch, list(devices))
        fake.have, fake.gpus = have, list(gpus)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        lines, code = report()
        found = [line for line in lines if line.startswith("! device")]
        assert code == bool(found)
        return [line.removeprefix("! device xpu: ") for line in found]

    return run


def test_the_doctor_of_a_sound_machine(doctor):
    assert doctor(properties("alchemist")) == []


def test_the_doctor_of_a_machine_without_an_intel_gpu(doctor):
    assert doctor(have=CPU_BUILD, gpus=()) == []


def test_the_doctor_tells_of_a_denied_matrix_unit(doctor):
    denied = properties("battlemage", has_subgroup_matrix_multiply_accumulate=False)
    only(doctor(denied), "xpu:0 its matrix unit", "sudo apt install intel-ocloc")


def test_the_doctor_tells_one_reason_for_a_hidden_device(doctor):
    only(doctor(ZE_AFFINITY_MASK="7"), "ZE_AFFINITY_MASK=7 hides every device")


def test_a_wanted_device_that_a_mask_hides(doctor):
    lines = doctor(ATHENA_DEVICE="xpu", ZE_AFFINITY_MASK="7")
    assert "ZE_AFFINITY_MASK=7 hides every device" in lines[0]
    assert "! device auto: ATHENA_DEVICE `xpu`: no xpu device can be used here" in lines[1]
    with pytest.raises(AthenaError, match=r"no xpu device .*ZE_AFFINITY_MASK=7 hides every device.*unset"):
        device()


def test_the_doctor_tells_that_the_interpreter_is_on(doctor):
    only(doctor(properties("alchemist"), TRITON_INTERPRET="1"), "unset TRITON_INTERPRET")


def test_interpreting_is_right_where_no_gpu_is_wanted(doctor):
    assert doctor(have=CPU_BUILD, gpus=(), TRITON_INTERPRET="1") == []


def test_an_explicit_request_tells_the_remedy(doctor):
    only(doctor(have=CPU_BUILD), INSTALL)
    with pytest.raises(AthenaError, match="without XPU: pip install --force-reinstall") as error:
        device("xpu")
    assert "\n" not in str(error.value)


def test_this_machine_can_be_diagnosed():
    """Whatever it is: lines, and no exception."""
    for line in (*XPU().diagnose(), *XPU().notes()):
        assert line
        assert "\n" not in line
