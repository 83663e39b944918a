"""Every class turned by quarter turns, each turn a class of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from athena_meta._few_shot_dataset import FewShotDataset

_TURNS = 4


class RotatedDataset(FewShotDataset):
    r"""Four classes of each: as it is, and turned by 90, 180 and 270 degrees counterclockwise.

    An image is turned when it is fetched, before the transform. All turns of one class are one shape, so that
    a test class whose turned image was trained on is no new class: split first, then turn. :meth:`select`
    refuses to part them.

    Args:
        dataset: square images ``(..., size, size)``.

    Raises ValueError for images that are not square, and for data turned already.

    Source: Santoro et al. 2016, arXiv:1605.06065, section 4.1. Departs from it: no.

    >>> data = FewShotDataset(torch.arange(4.0).view(1, 2, 2), ["a"])
    >>> turned = RotatedDataset(data)
    >>> turned.classes
    ('a', 'a turned 90', 'a turned 180', 'a turned 270')
    >>> turned.fetch(torch.tensor([1])).tolist()
    [[[1.0, 3.0], [0.0, 2.0]]]
    """

    def __init__(self, dataset: FewShotDataset) -> None:
        shape = tuple(dataset.images.shape[1:])
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"`dataset` must hold square images to be turned; got shape {shape}. Crop them.")
        known = set(dataset.classes)
        if any(_turned(name, 1) in known for name in dataset.classes):
            raise ValueError(
                f"`dataset` must not be turned already; got one, of type {type(dataset).__name__}. Turn once."
            )
        self.dataset, self.images, self.transform = dataset, dataset.images, dataset.transform
        self._folder, self._rows = dataset._folder, None
        turns = torch.arange(_TURNS).repeat_interleave(len(dataset))
        names = (_turned(name, turn) for turn in range(_TURNS) for name in dataset.classes)
        self._sort(dataset.labels.repeat(_TURNS) + len(dataset.classes) * turns, tuple(names))

    def raw(self, index: Tensor) -> Tensor:
        """Images as they are stored, turned; ``index (...)`` of any shape gives ``(..., *image)``."""
        numbers = index if self._rows is None else self._rows[index]
        images = self.dataset.raw(numbers % len(self.dataset))
        turns = numbers // len(self.dataset)
        for turn in range(1, _TURNS):
            where = turns == turn
            images[where] = images[where].rot90(turn, (-2, -1))
        return images

    def select(self, classes: Iterable[str]) -> Self:
        """The images of these classes alone. Raises ValueError for a class without all of its turns."""
        names = tuple(classes)
        refuse_parted_turns(self.classes, names)
        return super().select(names)


def refuse_parted_turns(classes: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError if some turns of a class are wanted, but not all there are."""
    known, chosen = set(classes), set(wanted)
    for name in classes:
        turns = [turned for turned in (_turned(name, turn) for turn in range(_TURNS)) if turned in known]
        taken = sum(turned in chosen for turned in turns)
        if 0 < taken < len(turns):
            raise ValueError(
                "`classes` must have all turns of a class or none, as they are one shape; got "
                f"{taken} of {name!r}. Select first, then turn."
            )


def rotated_images(data: FewShotDataset) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The images, labels and classes of `RotatedDataset`: four times the memory, nothing to do when fetching.

    >>> data = FewShotDataset(torch.rand(3, 1, 8, 8), [0, 0, 1])
    >>> images, labels, classes = rotated_images(data)
    >>> torch.equal(images, RotatedDataset(data).raw(torch.arange(12)))
    True
    """
    turned = RotatedDataset(data)
    images = data.raw(torch.arange(len(data)))
    return torch.cat([images.rot90(turn, (-2, -1)) for turn in range(_TURNS)]), turned.labels, turned.classes


def _turned(name: str, turn: int) -> str:
    return f"{name} turned {90 * turn}" if turn else name
