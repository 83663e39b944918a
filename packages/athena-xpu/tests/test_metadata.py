"""What the wheel says of itself."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path


def test_metadata_does_not_depend_on_the_build_host():
    """Pitfall 17: nothing is worked out while building, so nothing can be probed."""
    told = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert "dynamic" not in told["project"]
    assert told["build-system"]["build-backend"] == "hatchling.build"
    assert not [name for name in told["tool"]["hatch"]["build"] if "hook" in name]


def test_neither_triton_nor_ipex_is_required():
    names = {re.split(r"[^\w-]", line)[0] for line in requires("athena-xpu") or []}
    assert names == {"athena-core", "torch", "numpy", "lazy-loader"}
