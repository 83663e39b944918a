"""A saved model's folder: tensors in one safetensors file, and one JSON that says what they make up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

TENSORS, TREE = "model.safetensors", "athena_compress.json"
FORMAT, VERSION = "athena-compress", 1


def write_folder(folder: Path, tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files aside, then put them in place, the JSON last.

    What fails before that leaves an earlier save as it was, and what fails while they are put in place
    brings it back. Other files stay.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"`folder` must be a folder or not be there yet; got the file {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as name:
        aside = Path(name)
        packed = {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}
        save_file(packed, aside / TENSORS, metadata={"format": "pt"})
        size, digest = (aside / TENSORS).stat().st_size, _sha256(aside / TENSORS)
        head = {"format": FORMAT, "version": VERSION, "file": {"bytes": size, "sha256": digest}}
        text = json.dumps({**head, **tree}, indent=1, allow_nan=False)
        (aside / TREE).write_text(text + "\n", encoding="utf-8")
        for path in (aside / TENSORS, aside / TREE):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _put_in_place(aside, folder)


def _put_in_place(aside: Path, folder: Path) -> None:
    earlier = aside / "earlier"
    with suppress(FileNotFoundError):
        (folder / TENSORS).replace(earlier)
    try:
        (aside / TENSORS).replace(folder / TENSORS)
        (aside / TREE).replace(folder / TREE)
    except BaseException:
        (folder / TENSORS).unlink(missing_ok=True)
        if earlier.exists():
            earlier.replace(folder / TENSORS)
        raise


def read_tree(folder: Path) -> dict[str, Any]:
    """What the JSON says, once the file of tensors is found to be the one that it was written with.

    Raises FileNotFoundError if a folder or file is missing, and ValueError for what was not saved by this
    package, by another version of the format, or was cut short or changed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`folder` must be a folder on this machine that `athena_compress.save` wrote; got {folder}."
        )
    for name in (TREE, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"`folder` must hold {name}, as `athena_compress.save` writes it; {folder} does not."
            )
    tree = read_json(folder / TREE)
    stated = tree.get("file")
    if not isinstance(stated, dict) or not {"bytes", "sha256"} <= set(stated):
        raise ValueError(f"{folder / TREE} must state the bytes and sha256 of {TENSORS}. Save it again.")
    size = (folder / TENSORS).stat().st_size
    if size != stated["bytes"]:
        raise ValueError(
            f"{folder / TENSORS} must have {stated['bytes']} bytes; got {size}: it was cut short or belongs "
            f"to another save. Copy the folder again."
        )
    if _sha256(folder / TENSORS) != stated["sha256"]:
        raise ValueError(
            f"{folder / TENSORS} must have the sha256 that {TREE} states, and has another: it was changed or "
            f"belongs to another save. Copy the folder again."
        )
    return tree


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of a saved model. Raises ValueError if it is none, or of another format or version."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON file: {error}. Copy the folder again.") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ValueError(f"{path} must be of the format {FORMAT!r}, which `athena_compress.save` writes.")
    if tree.get("version") != VERSION:
        raise ValueError(
            f"{path} must be of version {VERSION} of the format; got {tree.get('version')!r}. Load it with "
            f"the athena-compress that saved it, or save the model again."
        )
    return tree


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the file, each in memory of its own: a file that stays mapped could change under it."""
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{folder / TENSORS} is no whole safetensors file: {error}. Save it again."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
