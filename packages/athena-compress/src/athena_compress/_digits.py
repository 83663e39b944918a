"""scikit-learn's handwritten digits, split once and for all, and a small network for them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from athena_core import AthenaError

TEST_SEED = 20_261_127  # of the split; the same for all runs, whose seeds differ in all else


class Digits(NamedTuple):
    """Images ``(n, 1, 8, 8)`` with pixels from 0 to 1, and classes ``(n,)``."""

    images: Tensor
    labels: Tensor


@cache
def read_digits() -> tuple[Digits, Digits]:
    """The 1,797 images of 8 x 8 pixels: four fifths to train on, and a fifth held out.

    Raises AthenaError, with the command that installs it, without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise AthenaError(
            "the recipe's digits need scikit-learn: run `pip install 'athena-compress[recipes]'`."
        ) from error
    loaded: Any = load_digits()
    images = torch.from_numpy(loaded.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(TEST_SEED))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


class Batches:
    """Batches drawn without replacement, in an order that is new each time through."""

    def __init__(self, digits: Digits, *, batch: int, seed: int) -> None:
        self._digits, self._batch = digits, min(batch, len(digits.labels))
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def draw(self) -> tuple[Tensor, Tensor]:
        if len(self._order) < self._batch:
            self._order = torch.randperm(len(self._digits.labels), generator=self._generator)
        rows, self._order = self._order[: self._batch], self._order[self._batch :]
        return self._digits.images[rows], self._digits.labels[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "order": self._order.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._order = state["order"]


class ConvNet(nn.Sequential):
    """Three convolutions with batch norm, a mean over places, and a linear layer.

    >>> ConvNet(4)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            *_block(1, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, 10),
        )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
