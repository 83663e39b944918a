"""A run's folder: made whole, used by one process, read back."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from athena_core import _toml
from athena_core._checkpoint import load_checkpoint
from athena_core._config import differences
from athena_core._environment import environment
from athena_core._errors import AthenaError

PARTS = ("step", "state", "config", "logged", "metrics_bytes", "seconds", "rng")  # of a run's checkpoint


def make_folder(folder: Path, config: Mapping[str, Any], device: torch.device) -> None:
    """Make the folder, with configuration and environment inside, or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name in ("checkpoints", "figures"):
                (temporary / name).mkdir()
            (temporary / "config.toml").write_text(_toml.dumps(config), encoding="utf-8")
            text = json.dumps(environment(device), indent=1)
            (temporary / "environment.json").write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()  # an empty one, which a rename does not replace everywhere
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise AthenaError(f"cannot make the run's folder {folder}: {error.strerror}.") from error


def check_configuration(
    folder: Path, saved: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> None:
    """Raise AthenaError, naming the keys, if the run in the folder has another configuration."""
    if changed := differences(saved, config):
        raise AthenaError(
            f"{folder} holds a run of another configuration ({where}); changed: {', '.join(changed)}. "
            "Resume it unchanged, or start a new run."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out; the system drops the lock of a process that dies."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise AthenaError(f"{folder} is in use by another process; wait for it, or stop it.") from error
    try:
        yield
    finally:
        lock.release()


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, the newest last."""
    found = (folder / "checkpoints").glob("step-*.pt")
    return sorted(found, key=lambda path: (len(path.name), path.name))  # numbers of over 8 digits too


def newest_checkpoint(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of the newest checkpoint, or None before the first.

    Raises AthenaError if it is damaged, not a run's, or of another configuration.
    """
    paths = checkpoints(folder)
    if not paths:
        return None
    try:
        content = load_checkpoint(paths[-1])
        if not isinstance(content, dict) or not content.keys() >= set(PARTS):
            raise AthenaError(f"checkpoint {paths[-1]} is not one of a run.")
    except AthenaError as error:
        before = f"Delete it to resume from {paths[-2].name}." if paths[1:] else "It is the only one."
        raise AthenaError(f"{error} {before}") from error
    check_configuration(folder, content["config"], config, paths[-1].name)
    return content
