"""What the tests share: seeds, and the folder of their helper modules."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples everywhere, and no deadlines: machines are shared and noisy.
settings.register_profile(
    "athena", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("athena")

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def seed() -> int:
    """Seed Python's generator, and those of numpy and torch where the test uses them."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    return 0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` for fake distributions, and a default host that sees them; no switch is set."""
    from athena_core import _discovery, _host

    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    for name in [name for name in os.environ if name.startswith("ATHENA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ATHENA_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(_host, "_default", _host.PluginHost())
    _discovery._scan_installed.cache_clear()
    yield folder
    _discovery._scan_installed.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
