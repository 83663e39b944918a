"""The files of a cache of teacher outputs: shards of tensors, and an index that says what they must be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from athena_compress._capture import uncompiled
from athena_core import AthenaError

INDEX = "teacher_cache.json"
FORMAT, VERSION = "athena-compress teacher cache", 1


def fingerprint(module: nn.Module) -> str:
    """A checksum of a module's parameters and buffers, with their names, types and shapes."""
    digest = hashlib.sha256()
    update(digest, uncompiled(module).state_dict())
    return digest.hexdigest()


def update(digest: Any, value: Any) -> None:
    """Add a tensor, or tensors in tuples, lists and mappings, to a checksum."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        digest.update(f"{data.dtype}{tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(str(key).encode())
            update(digest, value[key])
    elif isinstance(value, tuple | list):
        for item in value:
            update(digest, item)
    else:
        digest.update(repr(value).encode())


def check_teacher(folder: Path, index: Mapping[str, Any], own: str) -> None:
    """Raises AthenaError unless the index is of the teacher of this fingerprint."""
    if index["teacher"] != own:
        raise AthenaError(
            f"{folder} is of another teacher: its weights differ. Write one, in another folder."
        )


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index, whole or not at all."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **index}, indent=1)
    _write(folder / INDEX, text.encode())


def write_shard(folder: Path, number: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a shard, whole or not at all; returns what the index says of the file."""
    name = f"shard-{number:05d}.safetensors"
    content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    _write(folder / name, content)
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_index(folder: Path) -> dict[str, Any]:
    """The index, once every shard is found to be there with its size.

    Raises AthenaError for a folder that is no cache, of another version, or whose files are cut short.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AthenaError(
            f"{folder} is no cache of teacher outputs: it has no {INDEX}. Make one by TeacherCache.write."
        ) from error
    except ValueError as error:
        raise AthenaError(f"{folder / INDEX} is damaged. Delete the folder, and write it again.") from error
    if not isinstance(index, dict) or (index.get("format"), index.get("version")) != (FORMAT, VERSION):
        raise AthenaError(
            f"{folder / INDEX} is not of version {VERSION} of {FORMAT}. Write it again, in another folder."
        )
    for shard in index["shards"]:
        path = folder / shard["file"]
        size = path.stat().st_size if path.exists() else 0
        if size != shard["bytes"]:
            raise AthenaError(
                f"{path} is cut short: it has {size} bytes of {shard['bytes']}. Delete the folder, and write "
                "it again."
            )
    return index


def map_shard(folder: Path, shard: Mapping[str, Any]) -> dict[str, Tensor]:
    """A shard's tensors, mapped into memory, once its checksum is right. Raises AthenaError if it is not."""
    path = folder / shard["file"]
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == shard["sha256"]:
            with safe_open(path, "pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AthenaError(f"{path} cannot be read: {error}. Write the cache again.") from error
    raise AthenaError(
        f"{path} was changed: its checksum is {digest[:12]}, and must be {shard['sha256'][:12]}. Delete the "
        "folder, and write it again."
    )


def _write(path: Path, content: bytes) -> None:
    """Write beside the path, sync, and rename: whatever goes wrong on the way leaves the path as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
