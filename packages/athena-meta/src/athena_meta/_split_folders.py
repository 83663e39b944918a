"""Layouts divided into train, validation and test: class folders of each, or a CSV file of each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

from athena_meta._class_folders import class_folder_listing, existing_folder
from athena_meta._few_shot_dataset import Transform
from athena_meta._image_files import ImageFiles, Reading, Unreadable

# The names under which a part of a published data set is found.
NAMES = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def check_split(split: str) -> None:
    """Raises ValueError for another than train, validation and test."""
    if split not in NAMES:
        raise ValueError(f"`split` must be one of {', '.join(NAMES)}; got {split!r}.")


def split_listing(root: Path, split: str, remedy: str) -> list[tuple[Path, str]]:
    """The images of a split and their classes, from ``root/split/class/image`` or ``root/split.csv``.

    Raises ValueError for another split or a malformed CSV file, naming the line; FileNotFoundError with the
    remedy for neither layout, and for an image of the CSV file that is absent, naming it.

    >>> split_listing(Path("."), "tests", "")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of train, validation, test; got 'tests'.
    """
    check_split(split)
    for name in NAMES[split]:
        if (root / name).is_dir():
            listing = class_folder_listing(root / name)
            if listing:
                return listing
    for name in NAMES[split]:
        if (root / f"{name}.csv").is_file():
            return _table_listing(root, root / f"{name}.csv", remedy)
    wanted = NAMES[split][0]
    raise FileNotFoundError(
        f"`folder` must hold {wanted}.csv and images, or class folders in {wanted}; got {str(root)!r}. "
        f"{remedy}"
    )


def _table_listing(root: Path, table: Path, remedy: str) -> list[tuple[Path, str]]:
    """The rows ``filename,label``; files are in ``images`` or, there, in a folder of their class."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or not {"filename", "label"} <= set(rows.fieldnames):
            raise ValueError(
                f"{str(table)!r} must begin with the line 'filename,label'; got {rows.fieldnames}. {remedy}"
            )
        named = [(row["filename"], row["label"]) for row in rows]
    present = {path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*")}
    listing = []
    for line, (filename, label) in enumerate(named, start=2):
        if not filename or not label:
            raise ValueError(
                f"line {line} of {str(table)!r} must be a filename and a label; got less. {remedy}"
            )
        # Only what lies in the folder: a name such as ../../x is not followed.
        place = next((name for name in (filename, f"{label}/{filename}") if name in present), None)
        if place is None:
            raise FileNotFoundError(
                f"line {line} of {str(table)!r} names an image that must be in {str(root / 'images')!r}; "
                f"got none of the name {filename!r}. {remedy}"
            )
        listing.append((root / "images" / place, label))
    return listing


class SplitFolders(ImageFiles):
    """Colour images of 84x84 in such a layout; a subclass says in ``REMEDY`` where its files come from."""

    REMEDY: ClassVar[str]

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        *,
        size: int = 84,
        unreadable: Unreadable = "raise",
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        root = existing_folder(folder, self.REMEDY)
        reading = Reading(size=size, unreadable=unreadable, cache=cache)
        super().__init__(root, split_listing(root, split, self.REMEDY), reading, transform=transform)
