"""The command that goes on with a run, for messages."""

from __future__ import annotations

import shlex
from pathlib import Path


def resume_command(folder: Path) -> str:
    """What to type to go on with the run, or the seeds, in a folder.

    >>> resume_command(Path("my runs"))
    "athena run --resume 'my runs'"
    """
    return f"athena run --resume {shlex.quote(str(folder))}"
