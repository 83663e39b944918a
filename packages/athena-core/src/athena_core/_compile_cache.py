"""Compilers' caches on disk, which know an op by its name: told what its body is."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch


def tag_compile_cache(function: Callable[..., Any]) -> None:
    """Let a changed source of the function's package miss what ``torch.compile`` cached of its graphs.

    A graph with a composite op is cached under the op's name, its body inlined; after an upgrade the old body
    would run (torch 2.13). The tag is torch's own means to part caches.
    """
    tag = f"{function.__module__.partition('.')[0]}={_digest(function)}"
    tags = torch.compiler.config.cache_key_tag.split()
    if tag not in tags:
        torch.compiler.config.cache_key_tag = " ".join([*tags, tag])


def _digest(function: Callable[..., Any]) -> str:
    root = sys.modules.get(function.__module__.partition(".")[0])
    folders, file = getattr(root, "__path__", None), getattr(root, "__file__", None)
    if folders:
        return _of_files(tuple(sorted(file for folder in folders for file in Path(folder).rglob("*.py"))))
    if file and Path(file).is_file():  # what is piped into Python has "<stdin>"
        return _of_files((Path(file),))
    return uuid4().hex[:16]  # of a notebook: constants and helpers, in other cells, may change what it does


@cache
def _of_files(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
