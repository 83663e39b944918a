"""Kernels in Triton, one op a file; imported when their op is first called on a device that has them."""

from importlib.util import find_spec

from athena_core import AthenaError
from athena_xpu._diagnosis import INSTALL

if find_spec("triton") is None:
    raise AthenaError(
        "the kernels need Triton, which is not installed. "
        f"For xpu it comes with torch: {INSTALL}; for other devices: pip install triton"
    )
