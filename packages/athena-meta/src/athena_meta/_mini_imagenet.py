"""miniImageNet: 100 classes of 600 colour images."""

from __future__ import annotations

import csv
from pathlib import Path

from athena_meta._example_images import write_example_image
from athena_meta._split_folders import SplitFolders


class MiniImageNet(SplitFolders):
    """64 classes to train, 16 to validate and 20 to test, 600 images each, ``(3, 84, 84)``.

    Read are ``train.csv``, ``val.csv`` and ``test.csv`` with lines ``filename,label`` beside a folder
    ``images``, which holds the files or class folders of them; or folders ``train``, ``val`` and ``test`` of
    class folders.

    Args:
        folder: which holds these.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: of the side that images are scaled to; not cropped, as in the paper.
        unreadable, cache, transform: as in :class:`ClassFolders`.

    Raises FileNotFoundError with where to get the files if they are absent, or naming the image that a table
    has and the folder lacks; ValueError for an unknown split, a malformed table, an unreadable image.
    Source: Vinyals et al. 2016, arXiv:1606.04080; the split of Ravi and Larochelle 2017, "Optimization as a
    model for few-shot learning". Departs from them: no.

    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> MiniImageNet.write_example(folder)
    >>> MiniImageNet(folder, "validation")
    MiniImageNet(8 images of 2 classes, 3x84x84)
    """

    REMEDY = (
        "Get train.csv, val.csv and test.csv from https://github.com/twitter-research/meta-learning-lstm "
        "(folder data/miniImagenet), and put the images they name, of ImageNet's ILSVRC 2012, in `images` "
        "there."
    )

    @staticmethod
    def write_example(folder: Path | str) -> None:
        """Write a small data set in this layout: 3, 2 and 2 classes of 4 images."""
        root = Path(folder)
        for split, classes in (("train", range(3)), ("val", range(3, 5)), ("test", range(5, 7))):
            rows = [(f"n{label:08}{image:08}.jpg", f"n{label:08}") for label in classes for image in range(4)]
            for number, (name, _) in enumerate(rows):
                write_example_image(root / "images" / name, 100 * classes[0] + number, channels=3, size=84)
            write_table(root / f"{split}.csv", rows)


def write_table(file: Path, rows: list[tuple[str, str]]) -> None:
    """Write a table of file names and labels as it is published."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("filename", "label"))
        writer.writerows(rows)
