"""A checkpoint's folder: config.json, and tensors in one safetensors file or several."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARDS = "model-?????-of-?????.safetensors"
PICKLES = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, by the file's header: nothing of it has been read."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises FileNotFoundError without it, ValueError if it is no JSON object."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`folder` must be a folder on this machine that holds a checkpoint, and nothing is downloaded; "
            f"got {folder}."
        )
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"`folder` must hold {CONFIG}; {folder} does not.")
    return _read_json(folder / CONFIG)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint by name, those that the index should name, but does not, too.

    Raises FileNotFoundError if a file is missing, and ValueError for pickles alone, for an index that is
    none or leads out of the folder, and for a broken file.
    """
    if (folder / WHOLE).is_file():
        return _headers(folder / WHOLE)
    if not (folder / INDEX).is_file():
        _refuse_pickles(folder)
        raise FileNotFoundError(f"`folder` must hold {WHOLE} or {INDEX}; {folder} does not.")
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{folder / INDEX} must hold a `weight_map` from tensors to files.")
    names = sorted(set(places.values()))
    outside = [name for name in names if name in ("", ".", "..") or "/" in name or "\\" in name]
    if outside:
        raise ValueError(f"{folder / INDEX} must name files of its own folder; got {', '.join(outside)}.")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{folder / INDEX} names files that are missing: {', '.join(absent)}.")
    shards = {name: _headers(folder / name) for name in names}
    named = {tensor: shards[file][tensor] for tensor, file in places.items() if tensor in shards[file]}
    unnamed = {key: one for shard in shards.values() for key, one in shard.items() if key not in places}
    return named | unnamed


def read_tensors(tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    """One tensor after the other; none is held once the next is asked for.

    A file is opened anew for each, as what has been read of an open one stays mapped into memory.
    """
    for name, stored in tensors.items():
        with safe_open(stored.file, framework="pt") as file:
            yield name, file.get_tensor(stored.name)


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, max_shard_bytes: int
) -> None:
    """Write all files aside, then put them in place, config.json last.

    What fails before that leaves an earlier checkpoint as it was; what is killed while the files are put in
    place leaves a folder without config.json, which nobody takes for a checkpoint. Other files stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        aside = Path(name)
        files = _write_weights(aside, shards)
        files.append(_write_json(aside / CONFIG, dict(config)))
        for path in files:
            _sync(path)
        old = [folder / CONFIG, folder / WHOLE, folder / INDEX, *folder.glob(SHARDS)]
        for path in old:
            path.unlink(missing_ok=True)
        for path in files:
            path.replace(folder / path.name)


def _write_weights(folder: Path, shards: list[dict[str, Tensor]]) -> list[Path]:
    """One file, or an index after its shards."""
    count = len(shards)
    names = (
        [WHOLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    )
    for name, shard in zip(names, shards, strict=True):
        packed = {key: tensor.contiguous().cpu() for key, tensor in shard.items()}
        save_file(packed, folder / name, metadata={"format": "pt"})  # transformers wants to read "pt"
    files = [folder / name for name in names]
    if count > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for shard in shards for t in shard.values())},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        files.append(_write_json(folder / INDEX, index))
    return files


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    """Consecutive tensors, as many as fit; one that is larger than a shard has one to itself."""
    shards: list[dict[str, Tensor]] = [{}]
    free = max_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > free and shards[-1]:
            shards.append({})
            free = max_bytes
        shards[-1][name] = tensor
        free -= tensor.nbytes
    return shards


def _headers(path: Path) -> dict[str, Stored]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(path, name, tuple(one.get_shape()), one.get_dtype())
                for name, one in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}. Fetch it again.") from error


def _refuse_pickles(folder: Path) -> None:
    """Raises ValueError if the weights are pickles, which run what they hold as they are read."""
    for pattern in PICKLES:
        if any(folder.glob(pattern)):
            raise ValueError(
                f"{folder} holds pickles ({pattern}), which can run any code; only safetensors are read. "
                f"Convert them there: {_conversion(pattern)}"
            )


def _conversion(pattern: str) -> str:
    """A command that reads pickles without running what they hold, and writes what is read here."""
    return (
        'python -c "import glob, torch; from safetensors.torch import save_file; '
        f"save_file({{k: v.contiguous().clone() for f in sorted(glob.glob('{pattern}')) "
        "for s in [torch.load(f, map_location='cpu', weights_only=True)] "
        "for k, v in s.get('state_dict', s.get('model', s)).items() if torch.is_tensor(v)}, "
        f"'{WHOLE}', metadata={{'format': 'pt'}})\""
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that can be read: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(values).__name__}.")
    return values


def _write_json(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return path


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
