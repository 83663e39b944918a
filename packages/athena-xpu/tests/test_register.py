"""The kernels, offered for device types beside xpu; and what is said where Triton is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

import athena_xpu._register
from athena_core import AthenaError, Kernel, PluginHost, hookimpl
from athena_xpu import register
from athena_xpu._plugin import KERNELS, kernels_for


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is installed, though only the kernels themselves would import it."""
    monkeypatch.setattr(athena_xpu._register, "find_spec", lambda _: object())


@pytest.mark.usefixtures("triton")
def test_kernels_are_offered_for_another_device(athena_host: PluginHost) -> None:
    register("cuda")
    offers = athena_host.kernels()
    assert [offer.kernel for offer in offers] == kernels_for("cuda")
    assert {offer.distribution for offer in offers} == {"athena-xpu"}
    (status,) = [one for one in athena_host.plugins() if one.entry_point == "register-cuda"]
    assert (status.distribution, status.version) == ("athena-xpu", version("athena-xpu"))


@pytest.mark.usefixtures("triton")
def test_twice_is_once(athena_host: PluginHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """And kernels that are installed by then stay so."""
    register("cuda")
    before = athena_host.plugins()
    with monkeypatch.context() as patched:
        patched.setattr("athena_core._kernels.forget", lambda: pytest.fail("kernels were uninstalled"))
        register("cuda")
    assert athena_host.plugins() == before
    assert len(athena_host.kernels()) == len(KERNELS)


@pytest.mark.usefixtures("triton")
def test_two_devices(athena_host: PluginHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    register("cuda")
    register("cpu")
    assert [offer.kernel for offer in athena_host.kernels()] == kernels_for("cuda") + kernels_for("cpu")


@pytest.mark.usefixtures("triton", "athena_host")
@pytest.mark.parametrize("device", ["xpu", "cuda:0", "CUDA", "meta", "gpu", "", torch.device("cuda"), None])
def test_other_device_types_are_refused(device: object) -> None:
    with pytest.raises(ValueError, match=r"^`device` must be .*; got ") as raised:
        register(device)
    assert repr(device) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert athena_xpu._register.default_host().kernels() == []


@pytest.mark.usefixtures("triton")
def test_another_package_s_kernel_for_the_device_stays(athena_host: PluginHost) -> None:
    op = KERNELS[-1][0]

    class Rival:
        @hookimpl
        def athena_kernels(self) -> list[Kernel]:
            return [Kernel(op, "cuda", "rival:kernel", autograd="rival:Formula")]

    athena_host.register(Rival(), "rival")
    with pytest.raises(ValueError, match=f"{op}.* cuda.* is offered already by `rival`"):
        register("cuda")
    assert [offer.distribution for offer in athena_host.kernels()] == ["rival"]


@pytest.mark.usefixtures("athena_host")
def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(athena_xpu._register, "find_spec", lambda _: None)
    with pytest.raises(AthenaError, match=r"cuda need Triton, which is not installed: pip install triton$"):
        register("cuda")


@pytest.mark.usefixtures("triton", "athena_host")
@pytest.mark.parametrize("value", [None, "0", ""])
def test_on_the_cpu_only_the_interpreter_runs_them(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    else:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(AthenaError, match="TRITON_INTERPRET=1"):
        register("cpu")


def test_the_table_of_kernels_says_that_triton_is_missing() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"  # cannot be imported, nor found
        "from athena_core import kernels\n"
        "rows = [row for row in kernels() if row.device == 'xpu']\n"
        "assert rows\n"
        "assert {row.runs for row in rows} == {'reference'}, rows\n"
        "assert all('need Triton' in row.why and 'pip install' in row.why for row in rows), rows\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_registering_needs_neither_torch_nor_triton_at_import() -> None:
    code = "import athena_xpu._register, sys; assert not {'torch', 'triton'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
