"""A ring of transitions: arrays of rows by name, the oldest of which are overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TransitionRing:
    """The last ``capacity`` rows of tensors by name, drawn uniformly with replacement.

    Args:
        capacity: rows.
        shapes: by name, the shape of a row; all are float32.
        device: where the tensors live.
        seed: of what is drawn.

    Raises ValueError for a capacity below 1, rows with other names or shapes, more rows at once than there
    is room for, a draw from an empty ring, or the state of another ring.

    >>> ring = TransitionRing(2, {"reward": ()}, seed=0)
    >>> ring.add(reward=np.array([1.0]))
    >>> ring.add(reward=np.array([2.0, 3.0]))
    >>> len(ring), sorted(ring.rows()["reward"].tolist())
    (2, [2.0, 3.0])
    >>> ring.sample(3)["reward"].shape
    torch.Size([3])
    """

    def __init__(
        self,
        capacity: int,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1; got {capacity}.")
        self.capacity = capacity
        self.tensors = {
            name: torch.zeros((capacity, *shape), dtype=torch.float32, device=device)
            for name, shape in shapes.items()
        }
        self.added = 0  # rows ever
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, **rows: Any) -> None:
        """Write rows, arrays or tensors ``(N, *shape)`` of each name."""
        if rows.keys() != self.tensors.keys():
            raise ValueError(f"rows must have the names {sorted(self.tensors)}; got {sorted(rows)}.")
        count = len(next(iter(rows.values())))
        if count > self.capacity:
            raise ValueError(
                f"`capacity` must be at least the {count} rows that are added at once; got {self.capacity}."
            )
        places = torch.arange(self.added, self.added + count) % self.capacity
        for name, tensor in self.tensors.items():
            row = torch.as_tensor(rows[name], dtype=torch.float32, device=tensor.device)
            if row.shape != (count, *tensor.shape[1:]):
                raise ValueError(
                    f"`{name}` must have the shape {(count, *tensor.shape[1:])}; got {tuple(row.shape)}."
                )
            tensor[places] = row
        self.added += count

    def rows(self) -> dict[str, Tensor]:
        """All rows there are, in the order of their places."""
        return {name: tensor[: len(self)] for name, tensor in self.tensors.items()}

    def sample(self, count: int) -> dict[str, Tensor]:
        """``count`` rows, each any of those there are."""
        if len(self) == 0:
            raise ValueError("a ring must hold a row to draw from; this one is empty. Add some first.")
        places = torch.randint(len(self), (count,), generator=self.generator)
        return {name: tensor[places.to(tensor.device)] for name, tensor in self.tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        """The rows there are, and the generator's place."""
        rows = {name: tensor.clone() for name, tensor in self.rows().items()}
        return {"rows": rows, "added": self.added, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        filled = min(state["added"], self.capacity)
        found = {name: tuple(np.shape(rows)) for name, rows in state["rows"].items()}
        wanted = {name: (filled, *tensor.shape[1:]) for name, tensor in self.tensors.items()}
        if found != wanted:
            raise ValueError(f"`state` must hold rows of the shapes {wanted}; got {found}.")
        for name, tensor in self.tensors.items():
            tensor[:filled] = torch.as_tensor(state["rows"][name], device=tensor.device)
        self.added = state["added"]
        self.generator.set_state(torch.as_tensor(state["generator"]).cpu())
