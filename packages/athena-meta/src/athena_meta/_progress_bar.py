"""A bar for what is done once and takes a while."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress


def progress_bar() -> Progress:
    """A bar on the terminal's error stream, gone when done; nothing where there is no terminal.

    >>> with progress_bar() as bar:
    ...     list(bar.track(range(3)))
    [0, 1, 2]
    """
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
