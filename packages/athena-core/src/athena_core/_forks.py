"""Signals that a run takes, in processes that are forked from it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any

_handlers: dict[signal.Signals, Any] = {}  # those of children, by the signals that are taken now
_masks = local()


@contextmanager
def handled_in_children(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Give forked children these handlers: who ends a child, such as a pool, waits for its end.

    A terminal's Ctrl-C goes to them as well, of whom the run's step may still need an answer, as of the
    workers of a data loader: they pass over the first one.

    >>> with handled_in_children({signal.SIGTERM: signal.SIG_DFL}):
    ...     pass
    """
    before = dict(_handlers)
    _handlers.update({**handlers, **before})  # within another run, its handlers are no child's either
    try:
        yield
    finally:
        _handlers.clear()
        _handlers.update(before)


# Python forgets what comes to a child while it still has the handlers of its parent: until then it waits.
def _hold() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _begin_child() -> None:
    for number, handler in _handlers.items():
        signal.signal(number, partial(_pass_over, handler) if number == signal.SIGINT else handler)
    _handlers.clear()
    _release()


def _pass_over(handler: Any, number: int, _: Any) -> None:
    signal.signal(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_begin_child)
