"""Tasks of the recipe `progressive`: images of 8 x 8 pixels in ten classes, in several guises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_core import AthenaError
from athena_multitask._digits import load_digits

TASKS = ("digits", "glyphs", "rotated", "permuted", "inverted")
CLASSES = 10
PIXELS = 64
_TRAINING = 1200  # of 1,797 images, the rest are for tests
_SPLIT_SEED = 0  # the same images are for tests in every run


class DigitTask(NamedTuple):
    """Images ``(N, 64)`` in [0, 1] and their classes ``(N,)``, to train on and to test on.

    >>> DigitTask("none", *[torch.zeros(0)] * 4).name
    'none'
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def digit_tasks(names: Sequence[str], *, seed: int, device: torch.device | None = None) -> list[DigitTask]:
    """The tasks by name: ``seed`` draws the order of pixels, and the glyphs and their images.

    Raises AthenaError for an unknown name or one twice, or without scikit-learn.
    """
    for name in names:
        if name not in TASKS or list(names).count(name) > 1:
            raise AthenaError(f"`tasks` must be different ones of {', '.join(TASKS)}; got {name!r}.")
    if not names:
        raise AthenaError(f"`tasks` must name at least one of {', '.join(TASKS)}; got none.")
    images, labels = load_digits()
    images = images / 16
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    tasks = []
    for name in names:
        x, y = glyphs(len(images), seed=seed) if name == "glyphs" else (_guise(images, name, seed), labels)
        x, y = torch.from_numpy(x[order]).float().to(device), torch.from_numpy(y[order]).long().to(device)
        tasks.append(DigitTask(name, x[:_TRAINING], y[:_TRAINING], x[_TRAINING:], y[_TRAINING:]))
    return tasks


def glyphs(count: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images of ten made-up characters, each four strokes between points of a 3 x 3 grid, its points shaken.

    Shape: ``(count, 64)`` and ``(count,)``.

    >>> images, labels = glyphs(20, seed=0)
    >>> images.shape, bool((images.max(axis=1) > 0.5).all()), int(labels.max())
    ((20, 64), True, 9)
    """
    rng = np.random.default_rng([seed, 1])
    corners = np.stack(np.meshgrid([1.2, 3.5, 5.8], [1.2, 3.5, 5.8]), axis=-1).reshape(9, 2)
    alphabet = np.stack([corners[rng.permutation(9)[:5]] for _ in range(CLASSES)])
    labels = np.arange(count) % CLASSES
    points = alphabet[labels] + rng.normal(scale=0.3, size=(count, 5, 2))
    points += rng.uniform(-0.7, 0.7, size=(count, 1, 2))  # the whole is shifted
    pixels = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(1, PIXELS, 1, 2)
    start, stroke = points[:, None, :-1], np.diff(points, axis=1)[:, None]
    along = ((pixels - start) * stroke).sum(-1) / (stroke**2).sum(-1)
    nearest = start + along.clip(0, 1)[..., None] * stroke
    distance = np.linalg.norm(pixels - nearest, axis=-1).min(axis=-1)
    return (1.3 - distance).clip(0, 1), labels


def _guise(images: NDArray[np.float64], name: str, seed: int) -> NDArray[np.float64]:
    if name == "rotated":
        return np.rot90(images.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, PIXELS)
    if name == "permuted":
        return images[:, np.random.default_rng([seed, 2]).permutation(PIXELS)]
    return 1 - images if name == "inverted" else images
