"""Few-shot data in image files: decoded once, held in memory or mapped from a cache beside them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from athena_meta import _few_shot_files as files
from athena_meta._decode import UnreadableImageError, decode
from athena_meta._few_shot_dataset import FewShotDataset, Transform
from athena_meta._progress_bar import progress_bar

Listing = Sequence[tuple[Path, str]]  # each image and its class
Unreadable = Literal["raise", "skip"]
CACHE_VERSION = 1  # of the decoding: another one is cached anew


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Args:
        channels: 1 for grey, 3 for colour.
        size: of the side, or height and width, to scale to; None: all files must be of one size.
        inverted: whether dark is 255: ink, where it is black on white.
        unreadable: ``"raise"``, or ``"skip"`` a damaged file with one warning for all.
        cache: whether the decoded images are kept in a hidden folder beside the files and memory-mapped; a
            file that is added, removed or changed makes it void.

    Raises ValueError for other values.

    >>> Reading(size=84).sides
    (84, 84)
    """

    channels: int = 3
    size: int | tuple[int, int] | None = None
    inverted: bool = False
    unreadable: Unreadable = "raise"
    cache: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(
                f"`channels` must be 1 or 3; got {self.channels}. Pass 1 for grey, 3 for colour."
            )
        if self.sides is not None and min(self.sides) < 1:
            raise ValueError(f"`size` must be at least 1; got {self.size}. Pass the side in pixels.")
        if self.unreadable not in ("raise", "skip"):
            raise ValueError(f"`unreadable` must be 'raise' or 'skip'; got {self.unreadable!r}.")

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width, if they are given."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def read(self, path: Path) -> NDArray[np.uint8]:
        """The image of one file, ``(channels, height, width)``."""
        image = decode(path, channels=self.channels, size=self.sides)
        return 255 - image if self.inverted else image


class ImageFiles(FewShotDataset):
    """A data set of listed image files; the loaders of published layouts are built on it.

    Args:
        root: where a cache is kept.
        listing: files and their classes, in the order of the images.
        reading: how the files are read.
        transform: of fetched images, as in :class:`FewShotDataset`.

    Raises ValueError naming the file for an unreadable image, or one of another size where none is asked for.

    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 8), "red").save(root / "red.png")
    >>> ImageFiles(root, [(root / "red.png", "red")], Reading()).fetch(torch.tensor(0))[:, 0, 0]
    tensor([1., 0., 0.])
    """

    def __init__(
        self, root: Path, listing: Listing, reading: Reading, *, transform: Transform | None = None
    ) -> None:
        if not listing:
            raise ValueError(f"`folder` must hold images; got {str(root)!r}, in which there are none.")
        if not reading.cache:
            with progress_bar() as bar:
                images, labels, classes = _decoded(listing, reading, bar, None)
            super().__init__(images, labels, classes=classes, transform=transform)
            return
        folder = root / f".few-shot-{_key(root, listing, reading)}"
        if not _opens(folder):
            _fill(folder, listing, reading)
        images, labels, classes = files.read(folder)
        super().__init__(images, labels, classes=classes, transform=transform)
        self._folder = folder.absolute()


def _decoded(
    listing: Listing, reading: Reading, bar: Progress, store: Path | None
) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """Images, the class of each, and the classes; in memory, or in the file ``store``."""
    images: NDArray[np.uint8] | None = None
    labels: list[str] = []
    skipped: list[UnreadableImageError] = []
    for path, name in bar.track(listing, description="images"):
        try:
            image = reading.read(path)
        except UnreadableImageError as error:
            if reading.unreadable == "raise":
                raise
            skipped.append(error)
            continue
        if images is None:
            shape = (len(listing), *image.shape)
            images = (
                np.empty(shape, np.uint8) if store is None else np.memmap(store, np.uint8, "w+", shape=shape)
            )
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"`size` must be given for images of several sizes; got {_sides(image.shape)} in "
                f"{str(path)!r} after {_sides(images.shape[1:])}. Pass the side in pixels."
            )
        images[len(labels)] = image
        labels.append(name)
    classes = sorted({name for _, name in listing})
    _warn(skipped, sorted(set(classes) - set(labels)))
    if images is None:
        raise ValueError(
            f"`folder` must hold a readable image; got {len(listing)}, none of which is readable."
        )
    return images[: len(labels)], labels, sorted(set(labels))


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]}"


def _warn(skipped: list[UnreadableImageError], lost: list[str]) -> None:
    if skipped:
        classes = f"; no image is left of {', '.join(map(repr, lost[:3]))}" if lost else ""
        warnings.warn(f"{len(skipped)} images are skipped{classes}; the first: {skipped[0]}", stacklevel=4)


def _key(root: Path, listing: Listing, reading: Reading) -> str:
    """Changes with the files' names, lengths and times, and with what is made of them."""
    digest = hashlib.sha256(
        f"{CACHE_VERSION} {reading.channels} {reading.sides} {reading.inverted} {reading.unreadable}".encode()
    )
    for path, name in listing:
        status = path.stat()
        line = f"\n{path.relative_to(root)}\t{name}\t{status.st_size}\t{status.st_mtime_ns}"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _opens(folder: Path) -> bool:
    """Whether there is a whole cache; what is left of a damaged one is removed."""
    if not folder.exists():
        return False
    try:
        images, labels, _ = files.read(folder)
        if len(images) == len(labels):
            return True
    except (OSError, ValueError, EOFError):
        pass  # cut off or meddled with: as good as none
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-damaged-", dir=folder.parent))
    folder.replace(aside / folder.name)  # at once: no other process may open it half removed
    shutil.rmtree(aside, ignore_errors=True)
    return False


def _fill(folder: Path, listing: Listing, reading: Reading) -> None:
    """Decode into a file, which need not fit in memory, and save it; another process may do so as well."""
    handle, name = tempfile.mkstemp(prefix=f"{folder.name}-", suffix=".tmp", dir=folder.parent)
    os.close(handle)
    try:
        with progress_bar() as bar:
            images, labels, classes = _decoded(listing, reading, bar, Path(name))
        numbers = {each: number for number, each in enumerate(classes)}
        stored = torch.from_numpy(images)
        try:
            files.write(
                folder, lambda rows: stored[rows], torch.tensor([numbers[each] for each in labels]), classes
            )
        except OSError:
            if not _opens(folder):  # else another process was first
                raise
    finally:
        Path(name).unlink(missing_ok=True)
