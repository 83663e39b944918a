"""The same kernels, offered for another device type."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec

from athena_core import AthenaError, Kernel, default_host, hookimpl
from athena_xpu._plugin import kernels_for

_DISTRIBUTION = "athena-xpu"


def register(device: str) -> None:
    """Offer this package's kernels for another device type that Triton compiles for, such as ``"cuda"``.

    For this process; a second time changes nothing. On ``"cpu"``, Triton's interpreter runs them, which is
    for tests alone.

    Args:
        device: ``"cuda"``, which is AMD's too; ``"cpu"``; or the name of torch's PrivateUse1 device.

    Raises ValueError if the device type is another, if it is ``"xpu"``, whose kernels installing this
    package offers, or if another package offers a kernel for one of the ops there; AthenaError, with the
    command, if Triton is not installed, or its interpreter is off on ``"cpu"``.

    >>> try:
    ...     register("xpu")
    ... except ValueError as error:
    ...     print(error)
    `device` must be another than 'xpu', whose kernels are offered already; got 'xpu'.
    """
    _refuse_unfit(device)
    entry_point = f"register-{device}"
    host = default_host()
    if any((one.distribution, one.entry_point) == (_DISTRIBUTION, entry_point) for one in host.plugins()):
        return

    class Offer:
        @hookimpl
        def athena_kernels(self) -> list[Kernel]:
            return kernels_for(device)

    host.register(Offer(), _DISTRIBUTION, version(_DISTRIBUTION), entry_point)


def _refuse_unfit(device: str) -> None:
    from torch._C import _get_privateuse1_backend_name

    if device == "xpu":
        raise ValueError("`device` must be another than 'xpu', whose kernels are offered already; got 'xpu'.")
    types = ("cuda", "cpu", _get_privateuse1_backend_name())
    if device not in types:
        allowed = ", ".join(map(repr, types))
        raise ValueError(
            f"`device` must be a device type that Triton compiles for; got {device!r}. Pass one of {allowed}."
        )
    if find_spec("triton") is None:
        raise AthenaError(f"kernels for {device} need Triton, which is not installed: pip install triton")
    if device == "cpu" and os.environ.get("TRITON_INTERPRET", "").lower() not in (
        "1",
        "on",
        "true",
        "y",
        "yes",
    ):
        raise AthenaError(
            "on cpu the kernels run in Triton's interpreter alone, which is off. "
            "Set TRITON_INTERPRET=1 before the process starts; elsewhere, leave cpu to torch."
        )
