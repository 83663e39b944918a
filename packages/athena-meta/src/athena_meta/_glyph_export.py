"""Glyphs as image files in published layouts: what reads those can be tried without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from athena_meta._few_shot_dataset import FewShotDataset
from athena_meta._glyph_drawer import DRAWERS
from athena_meta._glyph_random import uniforms
from athena_meta._glyphs import Glyphs, Split
from athena_meta._mini_imagenet import write_table

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
OMNIGLOT_PARTS = {
    "train": "images_background",
    "validation": "images_background",
    "test": "images_evaluation",
}
TABLES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
MINI_CLASSES = (64, 16, 20)
MINI_SIZE = 84
COLOUR = 5  # stream of random numbers, after that of the split by character


def export_glyphs(
    folder: Path | str,
    layout: Literal["omniglot", "mini-imagenet"],
    *,
    classes: tuple[int, int, int] | None = None,
    cache: Path | str | None = None,
) -> None:
    """Write Glyphs in the layout of Omniglot or of miniImageNet, for its loader or another's.

    ``"omniglot"``: black ink on white, ``images_background/alphabet/character/0001_01.png`` for the alphabets
    of train and validation, ``images_evaluation`` for those of test. ``"mini-imagenet"``: 84 x 84 in random
    colours, ``images/*.png``, with ``train.csv``, ``val.csv`` and ``test.csv``.

    Args:
        folder: to write into; made as needed.
        layout: one of the two.
        classes: how many of train, validation and test, evenly chosen; None: all, or 64, 16 and 20.
        cache: where Glyphs are kept, as ``folder`` of :class:`Glyphs`.

    Raises ValueError for another layout or more classes than there are.

    >>> from tempfile import mkdtemp
    >>> from athena_meta import Omniglot
    >>> folder = mkdtemp()
    >>> export_glyphs(folder, "omniglot", classes=(2, 1, 1))
    >>> Omniglot(folder, "test")
    Omniglot(20 images of 1 classes, 1x28x28)
    """
    if layout not in ("omniglot", "mini-imagenet"):
        raise ValueError(f"`layout` must be 'omniglot' or 'mini-imagenet'; got {layout!r}.")
    wanted = MINI_CLASSES if classes is None and layout == "mini-imagenet" else classes
    first = 0
    for split, number in zip(SPLITS, wanted or (None,) * 3, strict=True):
        data = _evenly(Glyphs(split, folder=cache), number, split)
        if layout == "omniglot":
            _write_characters(data, Path(folder) / OMNIGLOT_PARTS[split], first)
        else:
            _write_split(data, Path(folder), TABLES[split], first)
        first += len(data.classes)


def _evenly(data: FewShotDataset, number: int | None, split: str) -> FewShotDataset:
    """So many of the classes, evenly chosen, hence of all alphabets."""
    total = len(data.classes)
    if number is None:
        return data
    if not 1 <= number <= total:
        raise ValueError(f"`classes` must lie in [1, {total}] for {split}; got {number}.")
    return data.select(data.classes[index * total // number] for index in range(number))


def _write_characters(data: FewShotDataset, part: Path, first: int) -> None:
    for number, name in enumerate(data.classes):
        (part / name).mkdir(parents=True, exist_ok=True)
        images = data.raw(data.index_of(name)).numpy()
        for drawer, image in enumerate(images[:, 0]):
            file = part / name / f"{first + number + 1:04}_{drawer + 1:02}.png"
            Image.fromarray(255 - image).save(file)


def _write_split(data: FewShotDataset, folder: Path, table: str, first: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, name in enumerate(data.classes):
        images = data.raw(data.index_of(name)).numpy()
        for drawer, image in enumerate(_coloured(images[:, 0], first + number)):
            label = f"g{first + number + 1:08}"
            rows.append((f"{label}{drawer + 1:08}.png", label))
            Image.fromarray(image).save(folder / "images" / rows[-1][0])
    write_table(folder / table, rows)


def _coloured(images: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    """Dark ink on light paper, each of another colour, which tells nothing of the class."""
    large = np.stack([np.asarray(Image.fromarray(image).resize((MINI_SIZE, MINI_SIZE))) for image in images])
    drawn = uniforms(0, COLOUR, 0, label, np.arange(DRAWERS), count=6)[:, None, None]
    ink, paper = 110.0 * drawn[..., :3], 145.0 + 110.0 * drawn[..., 3:]
    return (paper + (ink - paper) * (large[..., None] / 255.0) + 0.5).astype(np.uint8)
