"""Capabilities from properties, for each architecture, old and new torch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fake_xpu import GIB, PROPERTIES, properties

from athena_core import TensorSize, plan
from athena_core._placement import DeviceRoom, PlacementError
from athena_xpu import ARCHITECTURES, XPUCaps, caps_of
from athena_xpu._caps import is_underreported

FLAGS = (
    "has_bfloat16_conversions",
    "has_subgroup_matrix_multiply_accumulate",
    "has_subgroup_matrix_multiply_accumulate_tensor_float32",
    "has_subgroup_2d_block_io",
)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [  # fp64, native bf16, matrix unit, 2-D blocks, integrated, limited
        ("alchemist", (False, True, True, False, False, True)),
        ("battlemage", (True, True, True, True, False, False)),
        ("meteor_lake", (True, False, False, False, True, True)),  # pitfall 16: the A series' reverse
        ("lunar_lake", (True, True, True, True, True, False)),
    ],
)
@pytest.mark.parametrize("told_of", ["properties", "data"])
def test_architectures(arch, expected, told_of):
    caps = caps_of(properties(arch)) if told_of == "properties" else ARCHITECTURES[arch]
    assert caps.arch == arch
    limited = caps.max_alloc == 4 * GIB - 1
    assert limited or caps.max_alloc is None
    assert expected == (
        *(caps.fp64, caps.bf16_native, caps.matrix_unit, caps.block_io_2d),
        *(caps.integrated, limited),
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_data_agrees_with_the_properties(arch):
    told, data = caps_of(properties(arch)), ARCHITECTURES[arch]
    for name in (
        "slm",
        "sub_group_sizes",
        "max_sub_groups",
        "max_work_group",
        "atomic64",
        "fp16",
        "int8_dot",
    ):
        assert getattr(told, name) == getattr(data, name), name
    assert told.driver == "1.6.33578+51"
    assert told.device_id == PROPERTIES[arch]["device_id"]
    assert told.total == PROPERTIES[arch]["total_memory"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_name_says_nothing(arch):
    """Pitfall 9: a B580 was reported as `Graphics [0xe20b]`; another may bear any card's name."""
    others = {caps_of(properties(arch, name=name)).arch for name in ("", "Intel(R) Arc(TM) A770 Graphics")}
    assert others == {arch}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_architecture_is_inferred_where_it_is_not_told(arch):
    assert caps_of(properties(arch, without=("architecture",))).arch == arch
    assert caps_of(properties(arch, architecture=0x9900000000000000)).arch == arch  # SYCL's "unknown"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_older_torch_tells_less(arch):
    """What is missing is the architecture's, or unknown."""
    missing = ("is_integrated_gpu", "local_mem_size", "max_num_sub_groups", "device_id", "total_memory")
    caps = caps_of(properties(arch, without=missing))
    assert (caps.device_id, caps.total) == (None, None)
    data = ARCHITECTURES[arch]
    assert (caps.integrated, caps.slm, caps.max_sub_groups) == (
        *(data.integrated, data.slm, data.max_sub_groups),
    )


def test_emulated_bfloat16_is_not_native():
    """Pitfall 2: `torch.xpu.is_bf16_supported()` counts emulation."""
    assert not caps_of(properties("meteor_lake")).bf16_native
    unknown = {"architecture": 0x0312800400}  # Arrow Lake H: only its properties are known
    assert caps_of(properties("meteor_lake", has_bfloat16_conversions=True, **unknown)).bf16_native
    assert not caps_of(properties("meteor_lake", **unknown)).bf16_native


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_denied_flags_are_the_architectures(arch):
    """Pitfall: torch asks libocloc for them, and takes its absence for a no (pytorch#196074)."""
    denied = properties(arch, **dict.fromkeys(FLAGS, False))
    data, caps = ARCHITECTURES[arch], caps_of(denied)
    assert (caps.matrix_unit, caps.block_io_2d, caps.bf16_native) == (
        *(data.matrix_unit, data.block_io_2d, data.bf16_native),
    )
    assert is_underreported(denied) == data.matrix_unit
    assert not is_underreported(properties(arch))
    assert not is_underreported(properties(arch, without=FLAGS))


@pytest.mark.parametrize(
    ("number", "arch", "limited"),
    [
        (0x030E000500, "alchemist", True),
        (0x030E400000, "alchemist", True),
        (0x0311800400, "meteor_lake", True),
        (0x0500800000, "battlemage", False),
        (0x0500400000, "battlemage", False),  # another stepping
        (0x030F000700, "intel_gpu_12_60", False),  # Ponte Vecchio
        (0x0312800400, "intel_gpu_12_74", True),  # Arrow Lake H
        (0x0780000400, "intel_gpu_30_0", False),  # Panther Lake
        (0x0302800000, "intel_gpu_12_10", True),  # DG1
    ],
)
def test_architecture_numbers(number, arch, limited):
    caps = caps_of(SimpleNamespace(architecture=number, total_memory=8 * GIB))
    assert (caps.arch, caps.max_alloc is not None) == (arch, limited)


def test_of_an_unknown_device_the_worse_is_taken():
    caps = caps_of(SimpleNamespace())
    assert (caps.arch, caps.max_alloc, caps.matrix_unit) == ("", 4 * GIB - 1, False)
    assert caps_of(properties("battlemage", without=("architecture", *FLAGS))).arch == ""


def test_relaxed_limits_lift_the_limit():
    assert caps_of(properties("alchemist"), relaxed=True).max_alloc is None
    small = caps_of(properties("alchemist", total_memory=2 * GIB))
    assert small.max_alloc == 2 * GIB


def test_planning_for_a_card_that_is_not_here():
    vocabulary = TensorSize("head.weight", (262_144, 8_192), torch.float16)  # 4 GiB
    for arch, fits in [("alchemist", False), ("battlemage", True)]:
        caps = ARCHITECTURES[arch]
        room = DeviceRoom("xpu:0", caps, caps.total)
        if fits:
            assert plan([vocabulary], [room], training=False).loads[0].total == 4 * GIB
        else:
            with pytest.raises(PlacementError, match=r"`head\.weight` .*4\.00 GiB"):
                plan([vocabulary], [room], training=False)


def test_architectures_cannot_be_changed():
    with pytest.raises(TypeError):
        ARCHITECTURES["alchemist"] = XPUCaps()  # type: ignore[index]
