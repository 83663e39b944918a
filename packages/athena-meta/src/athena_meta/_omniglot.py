"""Omniglot as published: alphabet/character/image.png."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from athena_meta._class_folders import existing_folder, folders_in, images_in
from athena_meta._example_images import write_example_image
from athena_meta._few_shot_dataset import FewShotDataset, Transform
from athena_meta._image_files import ImageFiles, Reading, Unreadable
from athena_meta._rotated_dataset import refuse_parted_turns, rotated_images

PARTS = {"train": "images_background", "test": "images_evaluation"}
REMEDY = (
    "Get images_background.zip and images_evaluation.zip from https://github.com/brendenlake/omniglot "
    "(folder python) and unpack both there."
)


class Omniglot(ImageFiles):
    r"""Handwritten characters of 50 alphabets, 20 images each, in ``alphabet/character/image.png``.

    Ink, black in the files, is 255; images are grey, ``(1, size, size)``. Classes are named
    ``alphabet/character``, and with rotations also ``alphabet/character turned 90``, and so on.

    Args:
        folder: which holds ``images_background`` and ``images_evaluation``, or alphabets.
        split: ``"train"``, the 30 alphabets of the background set, ``"test"``, the 20 of the evaluation set,
            ``"all"``, or a text file with one class ``alphabet/character`` a line, as the split of Vinyals et
            al. is passed around; its lines may end in ``/rot000`` and the like, which are left out.
        rotations: whether quarter turns are classes of their own, made after splitting.
        size: of the side that images, 105 in the published files, are scaled to.
        unreadable, cache, transform: as in :class:`ClassFolders`.

    Raises FileNotFoundError with where to get the files if they are absent; ValueError for an unknown split
    or a class of the file that is missing, a character without images, an unreadable image, naming it.
    Source: Lake et al. 2015, doi:10.1126/science.aab3050; rotations: Santoro et al. 2016, arXiv:1605.06065.
    Departs from them: no.

    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> Omniglot.write_example(folder)
    >>> Omniglot(folder), Omniglot(folder, "test", rotations=True)
    (Omniglot(24 images of 6 classes, 1x28x28), Omniglot(64 images of 16 classes, 1x28x28))
    """

    def __init__(
        self,
        folder: Path | str,
        split: str | Path = "train",
        *,
        rotations: bool = False,
        size: int = 28,
        unreadable: Unreadable = "raise",
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        root = existing_folder(folder, REMEDY)
        listing = [
            (path, name) for name, each in _characters(root, split).items() for path in images_in(each)
        ]
        reading = Reading(channels=1, size=size, inverted=True, unreadable=unreadable, cache=cache)
        super().__init__(root, listing, reading, transform=transform)
        if rotations:
            turned, labels, classes = rotated_images(self)
            FewShotDataset.__init__(self, turned, labels, classes=classes, transform=transform)

    def select(self, classes: Iterable[str]) -> Self:
        """The images of these classes alone. Raises ValueError for a class without all of its turns."""
        names = tuple(classes)
        refuse_parted_turns(self.classes, names)
        return super().select(names)

    @staticmethod
    def write_example(folder: Path | str) -> None:
        """Write a small data set in this layout: 6 characters to train and 4 to test, 4 images of each."""
        for number in range(40):
            part, alphabet = ("train", number // 12) if number < 24 else ("test", 2 + (number - 24) // 8)
            character = (
                f"character{number // 4 % 3 + 1:02}" if number < 24 else f"character{number // 4 % 2 + 1:02}"
            )
            path = Path(folder) / PARTS[part] / f"Alphabet_{alphabet}" / character
            write_example_image(path / f"{number // 4:04}_{number % 4:02}.png", number, channels=1, size=28)


def _characters(root: Path, split: str | Path) -> dict[str, Path]:
    """The folder of each character of a split, by the name of the class."""
    whole = {part: root / name for part, name in PARTS.items() if (root / name).is_dir()}
    listed = isinstance(split, Path) or split not in (*PARTS, "all")
    wanted = _listed(Path(split)) if listed else None
    if not listed and split != "all" and split not in whole:
        raise FileNotFoundError(
            f"`folder` must hold {PARTS[str(split)]!r} for the split {split!r}; got {str(root)!r}. {REMEDY} "
            "Pass 'all' or a file of classes where alphabets are not divided so."
        )
    places = [whole[str(split)]] if split in whole else list(whole.values()) or [root]
    found = {
        f"{alphabet.name}/{character.name}": character
        for place in places
        for alphabet in folders_in(place)
        for character in folders_in(alphabet)
    }
    if not found:
        raise FileNotFoundError(f"`folder` must hold alphabets of characters; got {str(root)!r}. {REMEDY}")
    if wanted is None:
        return found
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"`split` must name characters in `folder`; got {missing[0]!r} and {len(missing) - 1} others "
            f"that {str(root)!r} lacks. {REMEDY}"
        )
    return {name: found[name] for name in wanted}


def _listed(file: Path) -> list[str]:
    """The classes that a file names, without their rotations, each once."""
    if not file.is_file():
        raise ValueError(
            f"`split` must be 'train', 'test', 'all' or a file of classes; got {str(file)!r}, which is none."
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(re.sub(r"/rot\d+$", "", line.strip()) for line in lines if line.strip()))
