"""Tables of text with aligned columns, and quantities as people write them."""

from __future__ import annotations

import math
from collections.abc import Sequence

ABSENT = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()) -> str:
    """Lines with two spaces between columns; those named in ``words`` begin left, numbers end right.

    >>> print(table(["layer", "bytes"], [["head", "12"], ["body", "1,024"]], words=["layer"]))
    layer  bytes
    head      12
    body   1,024
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = [name in words for name in header]

    def line(cells: Sequence[str]) -> str:
        places = zip(cells, widths, left, strict=True)
        return "  ".join(cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in places).rstrip()

    return "\n".join(map(line, [header, *rows]))


def percent(share: float | None) -> str:
    """A share in percent, with three digits that count.

    >>> percent(0.01234), percent(1.0), percent(0.0), percent(None)
    ('1.23 %', '100 %', '0 %', '–')
    """
    if share is None:
        return ABSENT
    return f"{100 * share:.3g} %" if abs(share) < 9.995 else f"{100 * share:,.0f} %"


def decibels(error: float) -> str:
    """A relative error as the ratio of signal to noise.

    >>> decibels(0.01), decibels(0.0)
    ('40.0 dB', 'exact')
    """
    if error == 0:
        return "exact"
    return f"{-20 * math.log10(error):.1f} dB" if math.isfinite(error) else ABSENT


def size(n_bytes: float) -> str:
    """Bytes in a unit that leaves at most four digits.

    >>> size(512), size(2_097_152), size(1023.97 * 1024)
    ('512 B', '2.0 MiB', '1.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1023.95 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A short time.

    >>> duration(0.0123), duration(4.2e-05), duration(None)
    ('12.3 ms', '42 us', '–')
    """
    if seconds is None:
        return ABSENT
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"
