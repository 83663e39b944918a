"""Speeds that no hardware has are rejected."""

from __future__ import annotations

import pytest

from athena_xpu import above_peak


def test_a_speed_above_the_peak_is_told() -> None:
    """What was reported of a B580, whose matrix units do 117 TFLOPS: the device was not waited for."""
    (said,) = above_peak(1.0, operations=11_920e12, throughput=117e12)
    assert "11,920 Tops/s is above the peak of 117 Tops/s" in said
    (said,) = above_peak(1e-3, moved=500e6, bandwidth=456e9)
    assert "500 GB/s is above the peak of 456 GB/s" in said
    assert len(above_peak(1e-9, moved=1e9, bandwidth=1e9, operations=1e9, throughput=1e9)) == 2


def test_possible_speeds_pass() -> None:
    assert not above_peak(1e-3, moved=456e6, bandwidth=456e9, operations=117e9, throughput=117e12)
    assert not above_peak(1e-3, moved=1e30, operations=1e30)  # of unknown peaks


@pytest.mark.parametrize("seconds", [0.0, -1e-6, float("nan")])
def test_no_time_at_all(seconds: float) -> None:
    assert "is no time" in above_peak(seconds, moved=1, bandwidth=1)[0]
