"""The same kernels, offered for another device type."""

from __future__ import annotations

from athena_core import Kernel, default_host, hookimpl
from athena_xpu._plugin import kernels_for


def register(device: str) -> None:
    """Offer this package's kernels for another device type that Triton compiles for, such as ``"cuda"``.

    For this process. Raises ValueError for ``"xpu"``, whose kernels installing this package offers.

    >>> try:
    ...     register("xpu")
    ... except ValueError as error:
    ...     print(error)
    `device` must be another than 'xpu', whose kernels are offered already; got 'xpu'.
    """
    if device == "xpu":
        raise ValueError("`device` must be another than 'xpu', whose kernels are offered already; got 'xpu'.")

    class Offer:
        @hookimpl
        def athena_kernels(self) -> list[Kernel]:
            return kernels_for(device)

    default_host().register(Offer(), "athena-xpu", "0.1.0", f"register-{device}")
