"""tieredImageNet: 608 classes, divided by their kind."""

from __future__ import annotations

from pathlib import Path

from athena_meta._example_images import write_example_image
from athena_meta._split_folders import SplitFolders


class TieredImageNet(SplitFolders):
    """351 classes to train, 97 to validate and 160 to test, of 20, 6 and 8 kinds, ``(3, 84, 84)``.

    Read are folders ``train``, ``val`` and ``test`` of class folders, or tables as for :class:`MiniImageNet`.
    There are 779,165 images, 16 GB when decoded: pass ``cache=True``, so that they are memory-mapped.

    Args:
        folder: which holds these.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: of the side that images are scaled to; not cropped.
        unreadable, cache, transform: as in :class:`ClassFolders`.

    Raises as :class:`MiniImageNet`.
    Source: Ren et al. 2018, arXiv:1803.00676. Departs from it: no.

    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> TieredImageNet.write_example(folder)
    >>> TieredImageNet(folder, "test", size=28)
    TieredImageNet(8 images of 2 classes, 3x28x28)
    """

    REMEDY = (
        "Get the lists of classes from https://github.com/renmengye/few-shot-ssl-public, and put the class "
        "folders of ImageNet's ILSVRC 2012 in folders `train`, `val` and `test` there."
    )

    @staticmethod
    def write_example(folder: Path | str) -> None:
        """Write a small data set in this layout: 3, 2 and 2 classes of 4 images."""
        for number in range(28):
            split = "train" if number < 12 else "val" if number < 20 else "test"
            path = Path(folder) / split / f"n{number // 4:08}" / f"n{number // 4:08}_{number}.JPEG"
            write_example_image(path, number, channels=3, size=84)
