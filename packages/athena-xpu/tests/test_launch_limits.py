"""What a device's limits refuse, told without the device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from athena_xpu import ARCHITECTURES, LaunchConfig, XPUCaps, fitting, launch_faults, validate_launch

ALCHEMIST, BATTLEMAGE = ARCHITECTURES["alchemist"], ARCHITECTURES["battlemage"]
KIB = 1024


def triton_config(num_warps: int, *, num_stages: int = 1, **kwargs: object) -> SimpleNamespace:
    return SimpleNamespace(num_warps=num_warps, num_stages=num_stages, kwargs=kwargs)


@pytest.mark.parametrize("caps", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_usual_launches_fit_every_architecture(caps: XPUCaps) -> None:
    for num_warps in (1, 2, 4, 8, 16, 32):
        validate_launch(LaunchConfig(num_warps=num_warps, shared=16 * KIB, num_stages=4), caps)


def test_more_than_32_warps_need_the_small_register_file() -> None:
    config = {"num_warps": 64, "warp_size": 16}
    validate_launch(LaunchConfig(**config, grf_mode="128"), BATTLEMAGE)
    validate_launch(LaunchConfig(**config), BATTLEMAGE)
    with pytest.raises(
        ValueError, match="`num_warps` must be at most 32 with 256 registers a thread; got 64"
    ):
        validate_launch(LaunchConfig(**config, grf_mode="256"), BATTLEMAGE)
    validate_launch(LaunchConfig(num_warps=32, grf_mode="256"), BATTLEMAGE)


def test_local_memory_is_half_on_alchemist() -> None:
    for config in (LaunchConfig(shared=96 * KIB), LaunchConfig(shared=32 * KIB, num_stages=3)):
        validate_launch(config, BATTLEMAGE)
        with pytest.raises(ValueError, match="at most 65536 bytes"):
            validate_launch(config, ALCHEMIST)
    validate_launch(LaunchConfig(shared=64 * KIB), ALCHEMIST)
    assert launch_faults(LaunchConfig(shared=64 * KIB + 1), ALCHEMIST)


def test_sub_group_sizes() -> None:
    assert not launch_faults(LaunchConfig(warp_size=8), ALCHEMIST)
    assert launch_faults(LaunchConfig(warp_size=8), BATTLEMAGE) == [
        "`warp_size` must be one of 16, 32; got 8"
    ]
    assert launch_faults(LaunchConfig(warp_size=64), ALCHEMIST)


def test_work_group() -> None:
    assert launch_faults(LaunchConfig(num_warps=64), ALCHEMIST) == [
        "`num_warps` x `warp_size` must be at most 1024; got 64 x 32"
    ]
    assert len(launch_faults(LaunchConfig(num_warps=128, warp_size=16), BATTLEMAGE)) == 2
    assert launch_faults(LaunchConfig(num_warps=128, warp_size=8), replace(ALCHEMIST, max_sub_groups=64)) == [
        "`num_warps` must be at most 64; got 128"
    ]


def test_all_faults_in_one_line() -> None:
    config = LaunchConfig(num_warps=64, warp_size=64, shared=KIB * KIB, grf_mode="256")
    with pytest.raises(ValueError, match=r"warp_size.*256 registers.*1024.*65536") as caught:
        validate_launch(config, ALCHEMIST)
    assert "\n" not in str(caught.value)


def test_unknown_limits_refuse_nothing() -> None:
    assert not launch_faults(LaunchConfig(num_warps=128, warp_size=64, shared=KIB * KIB), XPUCaps())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_warps": 3}, "`num_warps` must be a power of two; got 3"),
        ({"num_warps": 0}, "`num_warps` must be a power of two; got 0"),
        ({"warp_size": 24}, "`warp_size` must be a power of two; got 24"),
        ({"num_stages": 0}, "`num_stages` must be at least 1; got 0"),
        ({"shared": -1}, "`shared` must be at least 0; got -1"),
    ],
)
def test_impossible_configurations(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaunchConfig(**wrong)


def test_fitting_keeps_what_fits_in_order() -> None:
    configs = [
        triton_config(64, warp_size=16),
        triton_config(64, warp_size=16, grf_mode="256"),
        triton_config(32, num_stages=2, BLOCK=64),
        triton_config(16, num_stages=4, BLOCK=64),
        triton_config(8, warp_size=8),
    ]

    def shared(config: SimpleNamespace) -> int:
        return config.kwargs.get("BLOCK", 0) * 512

    assert fitting(configs, BATTLEMAGE, shared=shared) == [configs[0], configs[2], configs[3]]
    assert fitting(configs, ALCHEMIST, shared=shared) == [configs[0], configs[2], configs[4]]
    with pytest.raises(ValueError, match="`configs` must hold one that fits the device; `num_warps`"):
        fitting(configs[1:2], BATTLEMAGE)
    with pytest.raises(ValueError, match="there is none"):
        fitting([], BATTLEMAGE)
