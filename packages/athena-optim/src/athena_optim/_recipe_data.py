"""Labelled examples for the recipe `optimizers`: digits, spirals or a file, split and standardised."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_core import AthenaError

LEAST = 10  # examples, of which two are for validation and two for the test
_SHOWN = 10  # names of columns in an error


class Labelled(NamedTuple):
    """Examples: ``features (n, d)`` in float64, ``labels (n,)`` as numbers of classes, from 0."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]


class Part(NamedTuple):
    """A part of the examples: ``features (n, d)`` in float32, ``labels (n,)`` in int64."""

    features: Tensor
    labels: Tensor


class Split(NamedTuple):
    """What is trained on, what chooses the learning rate, and what is reported."""

    train: Part
    validation: Part
    test: Part
    classes: int


def read_labelled(data: str | Path) -> Labelled:
    """The examples that ``data`` names: ``digits``, ``spirals``, or a file ``.npz`` or ``.csv``.

    ``digits`` are scikit-learn's 1,797 images of 8 x 8 pixels in 10 classes, ``spirals`` 600 points on
    three arms. An ``.npz`` holds the arrays ``features`` (n, ...) and ``labels`` (n,), whole numbers or
    text; nothing in it is ever executed. A ``.csv`` names its columns in the first line, one of them
    ``label``; the others are features.

    Raises AthenaError, with the file and the line or array, for what cannot be read or used, and with the
    command that installs scikit-learn where it is missing.

    >>> read_labelled("spirals").features.shape
    (600, 2)
    """
    if str(data) == "digits":
        return _digits()
    if str(data) == "spirals":
        return _spirals()
    path = Path(data)
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix not in readers:
        raise AthenaError(f"`data` must be digits, spirals, or a file .npz or .csv; got {str(data)!r}.")
    try:
        features, labels = readers[path.suffix](path)
    except OSError as error:
        raise AthenaError(f"`data`: cannot read {path}: {error.strerror or error}.") from error
    return _checked(path, features, labels)


def _digits() -> Labelled:
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise AthenaError(
            "`data` = digits needs scikit-learn: run `pip install 'athena-optim[recipes]'`, or choose "
            "spirals or a file."
        ) from error
    features, labels = load_digits(return_X_y=True)
    return Labelled(np.asarray(features, np.float64), np.asarray(labels, np.int64))


def _spirals() -> Labelled:
    """Three arms of 200 points each, one and a quarter turns, with noise."""
    generator = np.random.default_rng(0)
    along = np.linspace(0.1, 1, 200)
    points = []
    for arm in range(3):
        angle = 2 * np.pi * (1.25 * along + arm / 3) + generator.normal(scale=0.15, size=200)
        points.append(along[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1))
    return Labelled(np.concatenate(points), np.repeat(np.arange(3), 200))


def _read_npz(path: Path) -> tuple[Any, Any]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise AthenaError(f"`data`: {path} must be an .npz archive, as numpy.savez writes; it is none.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in ("features", "labels"):
                if name not in archive:
                    raise AthenaError(
                        f"`data`: {path} must hold the arrays `features` and `labels`; `{name}` is missing "
                        f"among {sorted(archive)}."
                    )
            return archive["features"], archive["labels"]
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())
        raise AthenaError(f"`data`: {path} must be a whole .npz archive of plain arrays: {why}") from error


def _read_csv(path: Path) -> tuple[Any, Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise AthenaError(f"`data`: {path} must be comma-separated text in UTF-8: {error}") from error
    if not rows:
        raise AthenaError(f"`data`: {path} is empty.")
    (_, header), *rows = rows
    names = [name.strip() for name in header]
    if all(_is_number(name) for name in names):
        raise AthenaError(f"`data`: {path}, line 1: must name the columns; got numbers.")
    if "label" not in names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise AthenaError(
            f"`data`: {path}, line 1: must name a column `label`; got {', '.join(names[:_SHOWN])}{more}. "
            "Rename the one that holds the classes."
        )
    label = names.index("label")
    columns = names[:label] + names[label + 1 :]
    features, labels = [], []
    for number, row in rows:
        if len(row) != len(names):
            raise AthenaError(
                f"`data`: {path}, line {number}: must have {len(names)} fields; got {len(row)}."
            )
        labels.append(row.pop(label).strip())
        for name, text in zip(columns, row, strict=True):
            if not _is_number(text):
                raise AthenaError(
                    f"`data`: {path}, line {number}: column `{name}` must be a number; got {text!r}."
                )
        features.append([float(text) for text in row])
    return np.array(features, ndmin=2), np.array(labels)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(path: Path, features: NDArray[Any], labels: NDArray[Any]) -> Labelled:
    if features.ndim < 2 or features.dtype.kind not in "biuf" or features[:1].size == 0:
        raise AthenaError(
            f"`data`: {path}: `features` must be numbers of shape (examples, features); got "
            f"{features.dtype} of shape {features.shape}."
        )
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "biuUS":
        raise AthenaError(
            f"`data`: {path}: `labels` must be {len(features)} whole numbers or texts, one an example; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    values = features.reshape(len(features), -1).astype(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise AthenaError(
            f"`data`: {path}: features must be finite; got {values[row, column]} in example {row + 1}, "
            f"feature {column + 1} ({len(wrong)} such)."
        )
    names, numbers = np.unique(labels, return_inverse=True)
    if len(values) < LEAST or len(names) < 2:
        raise AthenaError(
            f"`data`: {path} must hold at least {LEAST} examples of at least 2 classes; got {len(values)} of "
            f"{len(names)}."
        )
    return Labelled(values, numbers.astype(np.int64))


def split_labelled(data: Labelled, *, seed: int, device: torch.device) -> Split:
    """Draw a fifth for the test, a fifth for validation, and train on the rest, in an order set by ``seed``.

    Features get mean 0 and variance 1 on the training part; one that is constant there becomes 0 there.

    >>> split = split_labelled(read_labelled("spirals"), seed=0, device=torch.device("cpu"))
    >>> [len(part.labels) for part in split[:3]], split.classes
    ([360, 120, 120], 3)
    """
    count = len(data.labels)
    order = np.random.default_rng(seed).permutation(count)
    test, validation, train = np.split(order, [count // 5, 2 * (count // 5)])
    mean, deviation = data.features[train].mean(axis=0), data.features[train].std(axis=0)
    scaled = (data.features - mean) / np.where(deviation > 0, deviation, 1)

    def part(rows: NDArray[np.int64]) -> Part:
        features = torch.from_numpy(scaled[rows].astype(np.float32))
        return Part(features.to(device), torch.from_numpy(data.labels[rows]).to(device))

    return Split(part(train), part(validation), part(test), int(data.labels.max()) + 1)
