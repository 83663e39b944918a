"""The hooks through which a plugin joins in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pluggy

from athena_core._component import Component, Kernel, Kind

PROJECT = "athena"
hookspec = pluggy.HookspecMarker(PROJECT)
#: Mark a plugin module's function as the answer to the hook of its name.
hookimpl = pluggy.HookimplMarker(PROJECT)


class AthenaSpec:
    """What a plugin module may implement, each function marked with `athena_core.hookimpl`.

    The module must import neither torch nor numpy: it is read whenever components are listed.
    """

    @hookspec
    def athena_kinds(self) -> Iterable[Kind]:
        """Kinds that the plugin's package owns."""
        raise NotImplementedError

    @hookspec
    def athena_components(self) -> Iterable[Component]:
        """Components that the package offers."""
        raise NotImplementedError

    @hookspec
    def athena_kernels(self) -> Iterable[Kernel]:
        """Kernels that the package offers for ops, its own or other packages'."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def athena_select_device(self, request: str, candidates: Sequence[str]) -> str | None:
        """Choose a device type among ``candidates`` for ``request`` (``"auto"``), or None."""
        raise NotImplementedError
