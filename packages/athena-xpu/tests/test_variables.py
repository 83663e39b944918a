"""Environment variables: misspelt, not understood, contradicting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from athena_xpu._variables import began_with, relaxed_limits, variable_problems

RELAXED = "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS"


def problems(environ, *, began=None, gpus=1, wanted=True):
    found = list(
        variable_problems(environ, began=environ if began is None else began, gpus=gpus, wanted=wanted)
    )
    assert not any("\n" in line for line in found)
    return found


def only(environ, *parts, **kwargs):
    (line,) = problems(environ, **kwargs)
    for part in parts:
        assert part in line
    return line


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PATH": "/bin", "HOME": "/root", "TRITON_CACHE_MANAGER": "x", "SYCL_CACHE_MAX_SIZE": "1"},
        {RELAXED: "1", "ZE_AFFINITY_MASK": "0", "ZE_FLAT_DEVICE_HIERARCHY": "FLAT"},
        {"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu", "SYCL_CACHE_PERSISTENT": "1"},
        {"UR_L0_USE_IMMEDIATE_COMMANDLISTS": "1", "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"},
    ],
)
def test_nothing_is_wrong(environ):
    assert problems(environ) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UR_LO_ENABLE_RELAXED_ALLOCATION_LIMITS", RELAXED),
        ("UR_L0_ENABLE_RELAXED_ALLOCATION_LIMIT", RELAXED),
        ("ur_l0_enable_relaxed_allocation_limits", RELAXED),
        ("ZE_AFINITY_MASK", "ZE_AFFINITY_MASK"),
        ("ONEAPI_DEVICES_SELECTOR", "ONEAPI_DEVICE_SELECTOR"),
        ("PYTORCH_XPU_ENABLE_FALLBACK", "PYTORCH_ENABLE_XPU_FALLBACK"),
        ("SYCL_CACHE_PERSISTANT", "SYCL_CACHE_PERSISTENT"),
        ("NEO_CACHE_PERSISTENCE", "NEO_CACHE_PERSISTENT"),
        ("TRITON_CACHEDIR", "TRITON_CACHE_DIR"),
    ],
)
def test_misspelt_names(name, meant):
    """Pitfall 14: a misspelt name is silently nothing."""
    only({name: "1"}, f"{name} is read by nothing; is {meant} meant?", f"export {meant}=1")


def test_names_of_old():
    """ipex#863 set the first, which nothing ever read."""
    only({"UR_L0_USE_RELAXED_ALLOCATION_LIMITS": "1"}, f"{RELAXED} is: unset UR_L0_USE")
    only({"SYCL_DEVICE_FILTER": "gpu"}, "ONEAPI_DEVICE_SELECTOR is: unset SYCL_DEVICE_FILTER")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        (RELAXED, "true", "0 or 1"),  # the runtime reads a number, and "true" is none
        ("SYCL_CACHE_PERSISTENT", "on", "0 or 1"),
        ("PYTORCH_ENABLE_XPU_FALLBACK", "yes", "0 or 1"),
        ("ZE_FLAT_DEVICE_HIERARCHY", "flat", "COMPOSITE or FLAT or COMBINED"),
    ],
)
def test_values_that_are_not_understood(name, value, remedy):
    only({name: value}, f"{name}={value} is not understood", f"export {name}={remedy}")


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        ("opencl:gpu", "leaves out level_zero's GPUs"),
        ("opencl:*;cuda:*", "leaves out"),
        ("level_zero:cpu", "leaves out"),
        ("*:cpu", "leaves out"),
        ("!level_zero:*", "leaves out"),
        ("level_zero:gpu;!level_zero:gpu", "leaves out"),
        ("!*:gpu", "leaves out"),
        ("gpu", "`gpu` is not BACKEND:DEVICES"),
        ("level_zero:", "is not BACKEND:DEVICES"),
    ],
)
def test_a_selector_that_leaves_no_gpu(selector, why):
    remedy = "export ONEAPI_DEVICE_SELECTOR=level_zero:gpu"
    only({"ONEAPI_DEVICE_SELECTOR": selector}, f"ONEAPI_DEVICE_SELECTOR={selector}", why, remedy)


@pytest.mark.parametrize(
    "selector",
    [
        *("*:*", "*:gpu", "level_zero:0", "Level_Zero:0,1", "level_zero:0.1", "opencl:cpu;level_zero:gpu"),
        *("!opencl:*", "level_zero:*;!level_zero:1", ""),
    ],
)
def test_a_selector_that_leaves_some(selector):
    assert problems({"ONEAPI_DEVICE_SELECTOR": selector}) == []


@pytest.mark.parametrize(
    ("mask", "gpus", "why"),
    [
        ("1", 1, "hides every device; there is 1 GPU, 0"),
        ("2,3", 2, "there are 2 GPUs, 0 to 1"),
        ("7.0", 1, "hides every device"),
        ("gpu0", 1, "must be numbers"),
        ("level_zero:0", None, "must be numbers"),
        ("-1", 1, "must be numbers"),
        ("0,", 1, "must be numbers"),
        (".0", 1, "must be numbers"),
        ("0.", 1, "must be numbers"),
    ],
)
def test_a_mask_that_leaves_none(mask, gpus, why):
    only({"ZE_AFFINITY_MASK": mask}, f"ZE_AFFINITY_MASK={mask}", why, "unset ZE_AFFINITY_MASK", gpus=gpus)


@pytest.mark.parametrize(("mask", "gpus"), [("0", 1), ("0,5", 1), ("0.1", 1), ("5", None), ("5", 0), ("", 1)])
def test_a_mask_that_leaves_some_or_cannot_be_judged(mask, gpus):
    assert problems({"ZE_AFFINITY_MASK": mask}, gpus=gpus) == []


def test_interpreting_contradicts_the_device():
    for value in ("1", "True", "y"):
        only({"TRITON_INTERPRET": value}, "unset TRITON_INTERPRET")
    assert problems({"TRITON_INTERPRET": "0"}) == []
    assert problems({"TRITON_INTERPRET": "1"}, wanted=False) == []


def test_a_cache_folder_that_is_missing(tmp_path):
    """The driver then caches nothing, and says nothing."""
    assert problems({"NEO_CACHE_DIR": str(tmp_path)}) == []
    only({"NEO_CACHE_DIR": str(tmp_path / "no")}, "the driver caches nothing", f"mkdir -p {tmp_path / 'no'}")


def test_limits_count_only_from_the_beginning():
    """Pitfall 14: the runtime reads them while torch is imported."""
    only({RELAXED: "1"}, "set after Python began", f"export {RELAXED}=1 before", began={})
    assert problems({}, began={RELAXED: "1"}) == []
    only({RELAXED: "yes"}, "is not understood", began={})  # one remedy, not two that contradict
    assert relaxed_limits({RELAXED: "1"})
    assert not relaxed_limits({RELAXED: "0"})
    assert not relaxed_limits({})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process began with")
@pytest.mark.parametrize("began", [True, False])
def test_a_limit_that_is_set_too_late(began):
    code = (
        "import os\n"
        f"os.environ[{RELAXED!r}] = '1'\n"
        "from athena_xpu._variables import began_with, relaxed_limits, variable_problems\n"
        "late = list(variable_problems(os.environ, began=began_with(), gpus=None, wanted=False))\n"
        "print(relaxed_limits(), len(late))\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != RELAXED}
    environ |= {RELAXED: "1"} if began else {}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[0] == str(began)


def test_where_the_beginning_is_not_told(monkeypatch):
    def absent(self):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_bytes", absent)
    assert began_with() is os.environ
