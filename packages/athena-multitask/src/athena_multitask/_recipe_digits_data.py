"""Three tasks of scikit-learn's digits, and the model for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_multitask._digits import load_digits
from athena_multitask._multi_task_model import MultiTaskModel

TASKS = ("class", "parity", "magnitude")
CLASSIFICATION = ("class", "parity")
LOWER_IS_BETTER = ("magnitude",)
SHARE = 3  # one image of so many is held out


class Examples(NamedTuple):
    """Images ``(n, 64)`` and their digits ``(n,)``.

    >>> Examples(torch.zeros(2, 64), torch.tensor([3, 8])).targets()["parity"]
    tensor([1, 0])
    """

    images: Tensor
    digits: Tensor

    def targets(self) -> dict[str, Tensor]:
        """Of each task: the digit, whether it is odd, and the digit as a number."""
        return {"class": self.digits, "parity": self.digits % 2, "magnitude": self.digits.float()}

    def take(self, rows: Tensor) -> Examples:
        """Some of them."""
        return Examples(self.images[rows], self.digits[rows])


def read_digits(seed: int, device: torch.device) -> tuple[Examples, Examples]:
    """Images to train on, and those that are held out, standardised by the former.

    Raises AthenaError without scikit-learn.
    """
    images, digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    held_out = len(images) // SHARE
    kept = images[order[held_out:]]
    images = (images - kept.mean(0)) / (kept.std(0) + 1)  # 1: of 16 shades of grey; some pixels never vary
    whole = Examples(torch.from_numpy(images).float().to(device), torch.from_numpy(digits).long().to(device))
    rows = torch.from_numpy(order).to(device)
    return whole.take(rows[held_out:]), whole.take(rows[:held_out])


def digits_model(width: int, seed: int) -> MultiTaskModel:
    """Two shared layers and a linear head a task, in the initial state that the seed draws.

    >>> [head.out_features for head in digits_model(8, seed=0).heads.values()]
    [10, 2, 1]
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        heads: dict[str, nn.Module] = {
            "class": nn.Linear(width, 10),
            "parity": nn.Linear(width, 2),
            "magnitude": nn.Linear(width, 1),
        }
        return MultiTaskModel(encoder, heads)


def digits_losses(predictions: Mapping[str, Tensor], examples: Examples) -> dict[str, Tensor]:
    """Cross-entropies of class and parity, the squared error of magnitude, of the tasks predicted.

    >>> one = Examples(torch.zeros(1, 64), torch.tensor([3]))
    >>> digits_losses({"magnitude": torch.tensor([[1.0]])}, one)
    {'magnitude': tensor(4.)}
    """
    targets = examples.targets()
    return {
        name: F.cross_entropy(found, targets[name])
        if name in CLASSIFICATION
        else F.mse_loss(found.squeeze(-1), targets[name])
        for name, found in predictions.items()
    }


def digits_scores(predictions: Mapping[str, Tensor], examples: Examples) -> dict[str, float]:
    """Accuracies of class and parity, the mean squared error of magnitude, of the tasks predicted.

    >>> one = Examples(torch.zeros(1, 64), torch.tensor([3]))
    >>> digits_scores({"parity": torch.tensor([[0.0, 1.0]])}, one)
    {'parity': 1.0}
    """
    targets = examples.targets()
    return {
        name: (found.argmax(-1) == targets[name]).double().mean().item()
        if name in CLASSIFICATION
        else F.mse_loss(found.squeeze(-1), targets[name]).item()
        for name, found in predictions.items()
    }
