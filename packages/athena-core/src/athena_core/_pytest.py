"""The pytest plugin `athena`: an empty plugin host for tests. Loaded in every project: keep it light."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from athena_core._host import PluginHost


@pytest.fixture
def athena_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginHost]:
    """A host with athena-core's own plugin alone, the default one for the length of the test.

    What is installed stays unseen: looking for it raises RuntimeError.
    """
    from importlib.metadata import version

    from athena_core import _discovery, _host, _plugin

    host = _host.PluginHost(discover=False)
    host.register(_plugin, _discovery.CORE, version(_discovery.CORE), "core")
    monkeypatch.setattr(_host, "_default", host)
    monkeypatch.setattr(_discovery, "scan", _refuse)
    yield host
    if kernels := sys.modules.get("athena_core._kernels"):
        kernels.forget()  # ops must not keep the kernels of this host


def _refuse(*_: object) -> NoReturn:
    raise RuntimeError("`athena_host` forbids looking for installed plugins. Register what the test needs.")
