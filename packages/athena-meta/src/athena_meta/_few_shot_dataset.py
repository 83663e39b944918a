"""Images of many classes, few of each, in memory or memory-mapped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from athena_meta import _few_shot_files as files

Labels = Tensor | np.ndarray | Sequence[int] | Sequence[str]
Transform = Callable[[Tensor], Tensor]


class FewShotDataset(Dataset[tuple[Tensor, int]]):
    r"""Images with the class of each, made for taking many of them at once.

    Image :math:`i` is of class ``classes[labels[i]]``. :meth:`fetch` takes a whole batch of tasks in one
    gather and only then makes floats of it: ``uint8`` images stay a quarter of the size in memory or on disk.

    Args:
        images: ``(count, ...)`` of uint8 or floating point; never copied, so it may be memory-mapped.
        labels: the class of each image: names, or numbers.
        classes: the names in the order of the numbers 0, 1, …; None: what the labels hold, sorted.
        transform: a function of a batch of images ``(n, ...)`` as floats, applied when they are fetched. Only
            with one that draws no random numbers is an episode the same wherever it is drawn.

    Attributes:
        labels: ``(count,)`` the number of each image's class, int64.
        classes: the name of each class.
        counts: ``(classes,)`` how many images each class has.

    Raises ValueError for no images or such on a device, labels missing or out of range, a name twice;
    TypeError for other dtypes.

    >>> data = FewShotDataset(torch.zeros(5, 28, 28, dtype=torch.uint8), ["a", "b", "a", "b", "b"])
    >>> data.classes, data.counts.tolist(), data.index_of("b").tolist()
    (('a', 'b'), [2, 3], [1, 3, 4])
    >>> data.fetch(torch.tensor([[0, 1], [2, 3]])).shape
    torch.Size([2, 2, 28, 28])
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Labels,
        *,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.images = _as_tensor(images)
        if self.images.dtype != torch.uint8 and not self.images.is_floating_point():
            raise TypeError(
                f"`images` must be uint8 or floating point; got {self.images.dtype}. Convert them first."
            )
        if self.images.ndim == 0 or not len(self.images):
            raise ValueError(f"`images` must hold at least one image; got shape {tuple(self.images.shape)}.")
        if len(labels) != len(self.images):
            raise ValueError(
                f"`labels` must name the class of every image; got {len(labels)} labels for "
                f"{len(self.images)} images. Give one label an image."
            )
        self.transform = transform
        self._folder: Path | None = None
        self._rows: Tensor | None = None  # which image of `images` each one is; None: all in order
        self._sort(*_numbered(labels, classes))

    def _sort(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        self.labels, self.classes = labels, classes
        self.counts = torch.bincount(labels, minlength=len(classes))
        #: Images in the order of their classes; those of class ``c`` start at ``starts[c]``.
        self.order = labels.argsort(stable=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image as floats and the number of its class, for a data loader of single images."""
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must lie in [0, {len(self) - 1}]; got {index}.")
        return self.fetch(torch.tensor(index)), int(self.labels[index])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"{type(self).__name__}({len(self)} images of {len(self.classes)} classes, {shape})"

    def index_of(self, name: str) -> Tensor:
        """Which images are of this class, in order. Raises KeyError for an unknown one."""
        if name not in self.classes:
            raise KeyError(f"`name` must be one of {len(self.classes)} classes; got {name!r}.")
        number = self.classes.index(name)
        start, count = int(self.starts[number]), int(self.counts[number])
        return self.order[start : start + count]

    def raw(self, index: Tensor) -> Tensor:
        """Images as they are stored; ``index (...)`` of any shape gives ``(..., *image)``."""
        flat = index.reshape(-1)
        rows = flat if self._rows is None else self._rows[flat]
        return _gathered(self.images, rows).reshape(*index.shape, *self.images.shape[1:])

    def fetch(self, index: Tensor) -> Tensor:
        """Images as floats, uint8 times 1 / 255, then transformed; shapes as for :meth:`raw`."""
        images = self.raw(index)
        if images.dtype == torch.uint8:
            # NumPy, as in `_gathered`.
            floats = images.numpy().astype(np.float32)
            floats *= np.float32(1 / 255)  # a third faster than dividing
            images = torch.from_numpy(floats)
        if self.transform is None:
            return images
        flat = self.transform(images.reshape(-1, *images.shape[index.ndim :]))
        return flat.reshape(*index.shape, *flat.shape[1:])

    def select(self, classes: Iterable[str]) -> Self:
        """The images of these classes alone, in this order of classes; shares the memory of the images.

        Raises ValueError for no class or the same class twice, KeyError for an unknown one.

        >>> data = FewShotDataset(torch.rand(4, 2), ["a", "b", "c", "b"])
        >>> data.select(["c", "b"]).labels.tolist()
        [1, 0, 1]
        """
        names = tuple(classes)
        _check_names(names)
        known = {name: number for number, name in enumerate(self.classes)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise KeyError(f"`classes` must be among the {len(known)} of the data; got {unknown[0]!r}.")
        renumbered = torch.full((len(known),), -1)
        renumbered[torch.tensor([known[name] for name in names])] = torch.arange(len(names))
        labels = renumbered[self.labels]
        chosen = (labels >= 0).nonzero().squeeze(1)
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._rows = chosen if self._rows is None else self._rows[chosen]
        part._sort(labels[chosen], names)
        return part

    def save(self, folder: Path | str) -> None:
        """Write ``images.npy``, ``labels.npy`` and ``classes.json`` for :meth:`memory_map`; untransformed.

        Raises FileExistsError for a folder that exists, TypeError for bfloat16, which NumPy lacks.
        Source: the NumPy format, version 1.0. Departs from it: no.
        """
        files.write(Path(folder), self.raw, self.labels, self.classes)

    @classmethod
    def memory_map(cls, folder: Path | str, *, transform: Transform | None = None) -> FewShotDataset:
        """Open what :meth:`save` wrote in milliseconds; an image is read when it is fetched. Never unpickles.

        Raises FileNotFoundError naming the missing file, ValueError for what :meth:`save` did not write.

        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp()) / "data"
        >>> FewShotDataset(torch.rand(4, 28, 28), [0, 1, 0, 1]).save(folder)
        >>> FewShotDataset.memory_map(folder)
        FewShotDataset(4 images of 2 classes, 28x28)
        """
        images, labels, classes = files.read(Path(folder))
        data = FewShotDataset(images, labels, classes=classes, transform=transform)
        data._folder = Path(folder).absolute()
        return data

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the files again: the images themselves may not fit in memory.
        return self.__dict__ | ({} if self._folder is None else {"images": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            self.images = torch.from_numpy(files.read_images(self._folder))


def _as_tensor(images: Tensor | np.ndarray) -> Tensor:
    if isinstance(images, Tensor):
        if images.device.type != "cpu":
            raise ValueError(
                f"`images` must be in main memory; got images on {images.device}. Keep them on the CPU and "
                "move episodes with `Episodes.to`."
            )
        return images.detach()
    if not isinstance(images, np.ndarray):
        raise TypeError(
            f"`images` must be a tensor or a NumPy array; got {type(images).__name__}. Stack them first."
        )
    with warnings.catch_warnings():
        # Of a read-only map torch warns that writing to it is undefined; nothing here writes to images.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)


def _gathered(images: Tensor, rows: Tensor) -> Tensor:
    if images.dtype == torch.bfloat16:  # NumPy has none
        return images.index_select(0, rows)
    # NumPy copies as fast, in this thread: waking torch's threads can take longer than to copy an episode.
    return torch.from_numpy(images.numpy().take(rows.numpy(), axis=0))


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("`classes` must name at least one class; got none.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"`classes` must name each class once; got {name!r} twice.")
        seen.add(name)


def _numbered(labels: Labels, classes: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as numbers and the name of each number."""
    given = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iuU":
        raise ValueError(
            f"`labels` must be one whole number or name an image; got {given.dtype} of shape {given.shape}."
        )
    if classes is None:
        values, numbers = np.unique(given, return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), tuple(str(value) for value in values)
    names = tuple(classes)
    _check_names(names)
    if given.dtype.kind == "U":
        known = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(given.tolist()) - set(names))
        if unknown:
            raise ValueError(f"`labels` must be among `classes`; got {unknown[0]!r}. Add it or leave it out.")
        return torch.tensor([known[name] for name in given.tolist()]), names
    if given.min() < 0 or given.max() >= len(names):
        raise ValueError(
            f"`labels` must lie in [0, {len(names) - 1}] as `classes` do; got {given.min()} to {given.max()}."
        )
    return torch.from_numpy(given.astype(np.int64)), names
