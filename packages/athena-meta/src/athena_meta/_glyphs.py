"""Glyphs: handwriting of invented alphabets, drawn by rule, so that few-shot learning needs no download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from athena_meta import _glyph_file as files
from athena_meta._few_shot_dataset import FewShotDataset, Transform
from athena_meta._glyph_alphabet import ALPHABETS, CHARACTERS
from athena_meta._glyph_drawer import DRAWERS
from athena_meta._glyph_random import uniforms
from athena_meta._rotated_dataset import refuse_parted_turns, rotated_images

Split = Literal["train", "validation", "test", "all"]
SPLITS = {"train": (0, 25), "validation": (25, 30), "test": (30, 50), "all": (0, 50)}  # alphabets
TRAIN_CHARACTERS = 1200  # of 1,623, in the split by character
CHARACTER_SPLIT = 4  # stream of random numbers, after those of the drawers


class Glyphs(FewShotDataset):
    r"""Invented handwriting: 50 alphabets, 1,623 characters, each by 20 drawers; images ``(1, 28, 28)``.

    An alphabet is a set of stroke primitives and rules by which they join; a character is 1 to 4 Bezier
    strokes put together by these rules; a drawer has a slant, a pen and an unsteadiness of their own, and
    draws one alphabet alone. Ink is 255. Every number is drawn by counter from (seed, alphabet, character,
    drawer), and only arithmetic that IEEE 754 prescribes to the last bit is used: the bytes are the same
    everywhere.
    No two characters are alike, in any quarter turn, and none is like itself turned.

    Drawn on first use, in some 10 seconds, and kept in a file of 25 MB, which is memory-mapped from then on.

    Args:
        split: ``"train"`` (25 alphabets, 814 characters), ``"validation"`` (5; 170), ``"test"`` (20; 639) or
            ``"all"``. Splits share neither characters nor drawers.
        by: ``"alphabet"``, or ``"character"``: 1,200 characters to train and 423 to test from all alphabets,
            which share the drawers.
        rotations: whether quarter turns are classes of their own, made after splitting as by
            :class:`RotatedDataset`; then the images are held in memory, 100 MB for all.
        folder: where the file is kept; None: the user's cache folder of this system.
        verify: whether the whole file is read and compared with its SHA-256; its length always is. A damaged
            file is drawn again.
        seed: of all characters and drawers; 0 is the data set, others are its siblings.
        transform: of fetched images, as in :class:`FewShotDataset`.

    Raises ValueError for an unknown split or a negative seed; OSError where ``folder`` cannot be written.

    Calibration: with the cosine of pixels to one support image a class, the nearest is right in 41.7 % of
    queries 5-way and 26.3 % 20-way on the test split (:func:`pixel_accuracy`); Omniglot's are 41.7 and
    26.7 % (Vinyals et al. 2016, arXiv:1606.04080, table 1). The knobs, in ``_glyph_drawer``, were chosen by
    these two numbers alone and frozen before any learner saw the data.
    Source: after the structure of Omniglot, Lake et al. 2015, doi:10.1126/science.aab3050. Departs from it:
    drawn by rule.

    >>> data = Glyphs(split="validation")
    >>> data, data.classes[0]
    (Glyphs(3400 images of 170 classes, 1x28x28), 'alphabet26/character01')
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        by: Literal["alphabet", "character"] = "alphabet",
        rotations: bool = False,
        folder: Path | str | None = None,
        verify: bool = False,
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        chosen = _characters(split, by, seed)
        self._file: Path | None = _ready(folder, seed, verify=verify)
        every = torch.from_numpy(files.open_file(self._file))
        labels = torch.arange(len(every)) // DRAWERS
        classes: tuple[str, ...] = tuple(
            f"alphabet{alphabet + 1:02}/character{character + 1:02}"
            for alphabet in range(ALPHABETS)
            for character in range(CHARACTERS[alphabet])
        )
        super().__init__(every, labels, classes=classes, transform=transform)
        if split != "all":
            self.__dict__.update(self.select(classes[number] for number in chosen).__dict__)
        if rotations:
            turned, labels, classes = rotated_images(self)
            super().__init__(turned, labels, classes=classes, transform=transform)
            self._file = None

    def select(self, classes: Iterable[str]) -> Self:
        """The images of these classes alone. Raises ValueError for a class without all of its turns."""
        names = tuple(classes)
        refuse_parted_turns(self.classes, names)
        return super().select(names)

    @property
    def drawers(self) -> Tensor:
        """Who drew each image, ``(count,)``: 20 times the alphabet's number, and the drawer's in it."""
        rows = torch.arange(len(self)) if self._rows is None else self._rows
        alphabet = torch.tensor([int(name[8:10]) - 1 for name in self.classes])
        return alphabet[self.labels] * DRAWERS + rows % DRAWERS

    def __getstate__(self) -> dict[str, Any]:
        # A worker maps the file again.
        return self.__dict__ | ({} if self._file is None else {"images": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file is not None:
            self.images = torch.from_numpy(files.open_file(self._file))


def _characters(split: str, by: str, seed: int) -> np.ndarray:
    """The numbers of the characters of a split, in order."""
    total = sum(CHARACTERS)
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"`seed` must lie in [0, 2**63); got {seed}. Take another.")
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}.")
    if by == "alphabet":
        first, last = (sum(CHARACTERS[:alphabet]) for alphabet in SPLITS[split])
        return np.arange(first, last)
    if by != "character":
        raise ValueError(f"`by` must be 'alphabet' or 'character'; got {by!r}.")
    if split == "validation":
        raise ValueError(
            "`split` must be 'train', 'test' or 'all' by character; got 'validation'. "
            "Keep some classes of 'train' back with `select`."
        )
    order = np.argsort(uniforms(seed, CHARACTER_SPLIT, 0, 0, 0, count=total)[0], kind="stable")
    cut = {"train": slice(TRAIN_CHARACTERS), "test": slice(TRAIN_CHARACTERS, None), "all": slice(None)}
    return np.sort(order[cut[split]])


def _ready(folder: Path | str | None, seed: int, *, verify: bool) -> Path:
    """The file of a seed, made where it is missing, damaged, or not what it should be."""
    if folder is None:
        from platformdirs import user_cache_path  # here: only for a folder that was not given

        folder = user_cache_path("athena", appauthor=False)
    path = files.glyph_path(Path(folder).absolute(), seed)
    if not files.is_whole(path) or (verify and not files.is_intact(path)):
        files.make_file(path, seed)
    return path
