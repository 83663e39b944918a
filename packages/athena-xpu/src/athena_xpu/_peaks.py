"""Measured speeds that no hardware has: a clock that stopped too early."""

from __future__ import annotations


def above_peak(
    seconds: float,
    *,
    moved: float = 0,
    bandwidth: float = float("inf"),
    operations: float = 0,
    throughput: float = float("inf"),
) -> list[str]:
    r"""Say which peak of the hardware a measured time would exceed; nothing where it is possible.

    .. math:: \frac{\text{moved}}{\text{seconds}} > \text{bandwidth} \quad\text{or}\quad
              \frac{\text{operations}}{\text{seconds}} > \text{throughput}

    Such a time is no speed: most often the device was not synchronised before the clock was read.

    Args:
        seconds: measured.
        moved: bytes that must have been read and written at least.
        bandwidth: the memory's peak, in bytes a second.
        operations: floating-point (or integer) operations that must have been done.
        throughput: the peak of these, a second.

    >>> above_peak(1e-3, moved=4e8, bandwidth=456e9)  # 400 GB/s on a B580
    []
    >>> above_peak(1e-3, operations=11_920e9, throughput=117e12)
    ['11,920 Tops/s is above the peak of 117 Tops/s: synchronise the device before reading the clock']
    """
    if not seconds > 0:
        return [f"{seconds} seconds is no time: synchronise the device before reading the clock"]
    rates = ((moved / seconds, bandwidth, 1e9, "GB/s"), (operations / seconds, throughput, 1e12, "Tops/s"))
    return [
        f"{rate / unit:,.0f} {name} is above the peak of {peak / unit:,.0f} {name}: "
        "synchronise the device before reading the clock"
        for rate, peak, unit, name in rates
        if rate > peak
    ]
