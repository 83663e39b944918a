"""The data of the recipe `few-shot`: what is trained on, chosen by and tested on, which share nothing."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import NamedTuple

from athena_core import AthenaError, Configured, load
from athena_meta._few_shot_dataset import FewShotDataset


class Splits(NamedTuple):
    """Data sets without a class in common."""

    train: FewShotDataset
    validation: FewShotDataset
    test: FewShotDataset


def read_splits(data: Configured, folder: Path | None) -> Splits:
    """The three splits of the chosen data.

    Data without a validation split lose the last fifth of their training groups to one, and data without any
    split the last two fifths, the second of which is the test. A group is an alphabet, or whatever stands
    before the slash in the names of classes; without slashes each class is one.

    Raises AthenaError for data that cannot be read or have too few groups, and as `check_apart` does.
    """
    if "split" not in signature(load(data.kind, data.name)).parameters:
        train, validation, test = _divided(_read(data, folder), 3)
        splits = Splits(train, validation, test)
    else:
        train, test = _read(data, folder, split="train"), _read(data, folder, split="test")
        try:
            splits = Splits(train, _read(data, folder, split="validation"), test)
        except AthenaError as error:
            if "`split`" not in str(error):
                raise
            train, validation = _divided(train, 2)
            splits = Splits(train, validation, test)
    check_apart(splits)
    return splits


def check_apart(splits: Splits) -> None:
    """Raises AthenaError if two of training, validation and test share a class, or a drawer of Glyphs."""
    named = splits._asdict() | {"training": splits.train}
    for one, other in (("training", "validation"), ("training", "test"), ("validation", "test")):
        parts = named[one], named[other]
        shared = {"class": set(parts[0].classes) & set(parts[1].classes)}
        if all(hasattr(part, "drawers") for part in parts):
            drawers = (set(part.drawers.tolist()) for part in parts)  # type: ignore[attr-defined]
            shared["drawer"] = set.intersection(*drawers)
        for kind, both in shared.items():
            if both:
                raise AthenaError(
                    f"`data` must have no {kind} in {one} and {other}; got {min(both)!r} in both. "
                    "Divide it otherwise."
                )


def _read(data: Configured, folder: Path | None, **split: str) -> FewShotDataset:
    needed = signature(load(data.kind, data.name)).parameters.get("folder")
    if needed is None and folder is not None:
        raise AthenaError(f"`folder` must be left out for {data.name!r}, which reads none; got {folder}.")
    if needed is not None and needed.default is needed.empty and folder is None:
        raise AthenaError(f"`folder` must say where the data {data.name!r} are; got none. Pass `--folder`.")
    given = {} if folder is None else {"folder": folder}
    try:
        return data.create(**given, **split)
    except OSError as error:
        raise AthenaError(f"few-shot-data `{data.name}`: {' '.join(str(error).split())}") from error


def _divided(data: FewShotDataset, parts: int) -> list[FewShotDataset]:
    """The data in two or three parts: all but a fifth of the groups for each part after the first."""
    groups: dict[str, list[str]] = {}
    for name in data.classes:
        groups.setdefault(name.rpartition("/")[0] or name, []).append(name)
    size = len(groups) // 5
    if not size:
        raise AthenaError(
            f"`data` must have at least 5 groups of classes to be divided; got {len(groups)}. Take data that "
            "are divided already."
        )
    names = list(groups.values())
    first = len(names) - (parts - 1) * size
    ends = [first + size * part for part in range(parts)]
    starts = [0, *ends[:-1]]
    return [
        data.select(name for group in names[start:end] for name in group)
        for start, end in zip(starts, ends, strict=True)
    ]
