"""A few-shot data set as a folder: two arrays in the NumPy format and a list of names, never a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGES, LABELS, CLASSES = "images.npy", "labels.npy", "classes.json"
AT_ONCE = 1 << 26  # bytes: what is held in memory while writing


def write(folder: Path, images: Callable[[Tensor], Tensor], labels: Tensor, classes: Sequence[str]) -> None:
    """Write a data set, ``images`` giving those at an index; the folder appears whole or not at all."""
    if folder.exists():
        raise FileExistsError(f"`folder` must not exist yet; got {str(folder)!r}. Remove it or name another.")
    one = images(torch.tensor([0]))
    if one.dtype == torch.bfloat16:
        raise TypeError(
            f"`images` must be of a dtype of NumPy's to be saved; got {one.dtype}. Convert them to float32."
        )
    half = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    half.mkdir(parents=True)
    try:
        first = one.numpy()
        shape = (len(labels), *first.shape[1:])
        step = max(1, AT_ONCE // max(1, first.nbytes))
        stored = np.lib.format.open_memmap(half / IMAGES, mode="w+", dtype=first.dtype, shape=shape)
        for start in range(0, len(labels), step):
            stop = min(start + step, len(labels))
            stored[start:stop] = images(torch.arange(start, stop)).numpy()
        stored.flush()
        np.save(half / LABELS, labels.numpy(), allow_pickle=False)
        (half / CLASSES).write_text(json.dumps(list(classes), ensure_ascii=False), encoding="utf-8")
        half.rename(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def read_images(folder: Path) -> np.ndarray:
    """The images, memory-mapped."""
    # Copy-on-write: torch takes no read-only array, and a write must not reach the file.
    return np.load(_found(folder / IMAGES), mmap_mode="c", allow_pickle=False)


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images (memory-mapped), labels and names of the classes."""
    names = json.loads(_found(folder / CLASSES).read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{str(folder / CLASSES)!r} must be a list of names; got another thing. Save it again."
        )
    return read_images(folder), np.load(_found(folder / LABELS), allow_pickle=False), names


def _found(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"`folder` must hold {IMAGES}, {LABELS} and {CLASSES}; {str(path)!r} is missing. "
            "Write it with `FewShotDataset.save`."
        )
    return path
