"""What a pruner leaves to its strategies, and what it says at the end."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from athena_compress._importance import Importance, Scope
from athena_compress._prunable import PrunableWeight
from athena_compress._tables import table


@dataclass(frozen=True)
class PrunedPart:
    """How much is kept of a weight, or of a group of units.

    >>> PrunedPart("0.weight", "weights", kept=1, total=4).share
    0.25
    """

    name: str
    kind: str
    kept: int
    total: int

    @property
    def share(self) -> float:
        """The share that is kept; 1 of nothing."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True)
class PruningSummary:
    """What was pruned, part by part; as text a table.

    >>> print(PruningSummary((PrunedPart("0.weight", "weights", kept=1, total=4),), ()))
    part      kind     kept  of   share
    0.weight  weights     1   4  25.0 %
    """

    parts: tuple[PrunedPart, ...]
    notes: tuple[str, ...]

    @property
    def kept(self) -> int:
        """Elements or units kept."""
        return sum(part.kept for part in self.parts)

    @property
    def total(self) -> int:
        """Elements or units at the beginning."""
        return sum(part.total for part in self.parts)

    @property
    def sparsity(self) -> float:
        """The share that is pruned."""
        return 1 - self.kept / self.total if self.total else 0.0

    def __str__(self) -> str:
        rows = [
            (part.name, part.kind, str(part.kept), str(part.total), f"{100 * part.share:.1f} %")
            for part in self.parts
        ]
        header = ("part", "kind", "kept", "of", "share")
        return "\n".join([table(header, rows, words=("part", "kind")), *self.notes])


@dataclass
class Choices:
    """What both strategies are told."""

    importance: Importance
    scope: Scope
    normalize: bool
    optimizer: Optimizer | None


class Strategy(ABC):
    """Prunes one sort of thing, to a share, and keeps it pruned."""

    choices: Choices

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.notes: list[str] = []

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters whose gradients an importance sees, by name."""

    @abstractmethod
    def weights(self) -> dict[str, PrunableWeight]:
        """The weights of layers whose inputs an importance sees, by name."""

    @abstractmethod
    def prune(self, sparsity: float) -> None:
        """Prune until this share is pruned."""

    @abstractmethod
    def parts(self) -> list[PrunedPart]:
        """How much of each part is kept."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is pruned."""

    @abstractmethod
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Prune what a state says."""

    def enforce(self) -> None:  # noqa: B027
        """Make what was pruned 0 again."""

    def mask_gradients(self) -> None:  # noqa: B027
        """Make the gradients of what was pruned 0."""

    def note(self, text: str) -> None:
        """Say something once, as a warning and in the summary."""
        if text not in self.notes:
            self.notes.append(text)
            warnings.warn(text, stacklevel=5)
