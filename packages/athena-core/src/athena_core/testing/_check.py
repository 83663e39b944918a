"""A named check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One law, by name: calling it raises AssertionError where the law is broken.

    >>> def holds():
    ...     assert 1 + 1 == 2
    >>> Check("arithmetic", holds)()
    """

    name: str
    run: Callable[[], object]

    def __call__(self) -> None:
        self.run()
