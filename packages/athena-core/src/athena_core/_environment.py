"""What a run ran on: versions, device, threads, git revision."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Plain data for ``environment.json``."""
    from athena_core._host import default_host

    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "plugins": {p.distribution: p.version for p in default_host().plugins() if p.state == "active"},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """The working folder's revision, with ``+`` if it has changes; None outside a repository."""
    try:
        describe = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return describe.stdout.strip() or None
