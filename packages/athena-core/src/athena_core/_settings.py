"""The user's switches: which plugins stay off, in a file of the config folder or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from athena_core import _discovery
from athena_core._discovery import CORE, normalise
from athena_core._errors import AthenaError, nearest


def config_file() -> Path:
    """Return where the switches are kept: in ``ATHENA_CONFIG_DIR``, else in the user's config folder."""
    if folder := os.environ.get("ATHENA_CONFIG_DIR"):
        return Path(folder) / "plugins.toml"
    from platformdirs import user_config_path

    return user_config_path("athena", appauthor=False) / "plugins.toml"


def strict() -> bool:
    """Whether a failing plugin's error is raised at once (``ATHENA_STRICT=1``)."""
    return os.environ.get("ATHENA_STRICT", "") not in ("", "0")


def only_core() -> bool:
    """Whether athena-core's own plugin alone is loaded (``ATHENA_NO_PLUGINS=1``)."""
    return os.environ.get("ATHENA_NO_PLUGINS", "") not in ("", "0")


def disabled() -> set[str]:
    """Return the normalised names of the distributions whose plugins are switched off.

    Raises AthenaError if the config file is broken, or a switch names athena-core.
    """
    return set(switches())


def switches() -> dict[str, str]:
    """Map each distribution that is switched off to the switch that did it, in words."""
    variable = os.environ.get("ATHENA_DISABLE", "").split(",")
    off = dict.fromkeys(_stored()["disabled"], f"`athena plugins disable` ({config_file()})")
    off |= dict.fromkeys(filter(None, map(normalise, variable)), "ATHENA_DISABLE")
    if CORE in off:
        raise AthenaError(f"{CORE} itself cannot be disabled, as it is by {off[CORE]}. Remove it there.")
    return off


def disable(name: str) -> None:
    """Switch a distribution's plugins off, for this user, until `enable`.

    Raises AthenaError if no installed distribution of this name has a plugin, if it is athena-core, or
    if the config file is broken or cannot be written.
    """
    name = normalise(name)
    if name == CORE:
        raise AthenaError(f"{CORE} itself cannot be disabled.")
    _refuse_unknown(name)
    stored = _stored()
    _store({**stored, "disabled": sorted({*stored["disabled"], name})})


def enable(name: str) -> None:
    """Switch a distribution's plugins on again, also those of one that is no longer installed.

    Raises AthenaError if nothing of this name is installed or switched off, if ``ATHENA_DISABLE`` keeps
    it off, or if the config file is broken or cannot be written.
    """
    name = normalise(name)
    stored = _stored()
    if name in stored["disabled"]:
        _store({**stored, "disabled": [other for other in stored["disabled"] if other != name]})
    else:
        _refuse_unknown(name)
    if name in switches():
        raise AthenaError(f"`{name}` stays off: ATHENA_DISABLE names it. Remove it from that variable.")


def _refuse_unknown(name: str) -> None:
    installed = {found.distribution for found in _discovery.scan()}
    if name not in installed:
        hint = nearest(name, installed - {CORE})
        raise AthenaError(f"no installed distribution `{name}` has an Athena plugin. {hint}")


def _stored() -> dict[str, Any]:
    """Read the config file whole, so that what a later version keeps there survives a rewrite."""
    file = config_file()
    try:
        if not file.exists():
            return {"disabled": []}
    except OSError as error:  # of a folder that cannot be searched, as another user's
        hint = "Set ATHENA_CONFIG_DIR to a folder that can be read."
        raise AthenaError(f"{file} cannot be read: {error.strerror}. {hint}") from error
    from athena_core._toml import read

    stored = read(file)
    names = stored.get("disabled", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AthenaError(f"{file}: `disabled` must be a list of names; got {names!r}. Mend that line.")
    return {**stored, "disabled": [normalise(name) for name in names]}


def _store(settings: dict[str, Any]) -> None:
    from athena_core._files import write_atomically
    from athena_core._toml import dumps

    file = config_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda new: new.write(dumps(settings).encode()))
    except OSError as error:
        hint = "Set ATHENA_CONFIG_DIR to a folder that can be written."
        raise AthenaError(f"{file} cannot be written: {error.strerror}. {hint}") from error
