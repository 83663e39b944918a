"""Go-Explore: an archive of how to get everywhere, and rounds of going back and exploring from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CellKey = Callable[[Any], Hashable]


def downscaled_cell(
    image: NDArray[Any], *, height: int = 8, width: int = 11, levels: int = 8
) -> tuple[int, ...]:
    """The cell of an image: grey, shrunk to ``height x width`` by means, in ``levels`` shades from 0.

    Shape: 8-bit ``(rows, columns)`` or ``(rows, columns, channels)``, no smaller than the cell.

    Source: Ecoffet et al. 2021, arXiv:2004.12919, methods, with the sizes of arXiv:1901.10995. Departs from
    it: no.

    >>> downscaled_cell(np.array([[0, 0, 255, 255]], dtype=np.uint8), height=1, width=2, levels=8)
    (0, 7)
    """
    grey = image.mean(2) if image.ndim == 3 else image.astype(float)
    if grey.shape[0] < height or grey.shape[1] < width:
        raise ValueError(
            f"`image` must be at least {height} x {width}; got {grey.shape[0]} x {grey.shape[1]}. "
            "Take a smaller cell."
        )
    for axis, size in enumerate((height, width)):
        edges = np.linspace(0, grey.shape[axis], size + 1).astype(int)
        grey = np.add.reduceat(grey, edges[:-1], axis) / np.expand_dims(np.diff(edges), 1 - axis)
    return tuple((grey * levels // 256).astype(int).flatten().tolist())


@dataclass
class GoExploreCell:
    """The best way to a cell: the return of ``actions`` from the start, how often it was seen and chosen.

    >>> GoExploreCell([1, 0], 1.0).worth > GoExploreCell([1, 0, 0], 1.0).worth
    True
    """

    actions: list[Any]
    episode_return: float
    ended: bool = False
    snapshot: Any = None
    seen: int = 0
    chosen: int = 0

    @property
    def worth(self) -> tuple[float, int]:
        """By which ways are compared: the return, then how few steps it took."""
        return self.episode_return, -len(self.actions)


class GoExploreArchive:
    r"""Cells, each with the best way that was found to it, chosen by how seldom they were seen.

    .. math:: p(c) \propto \frac{1}{\sqrt{C_{seen}(c) + 1}}

    A way replaces another of a lower return, or of the same return in more steps; the counts go on. Where an
    episode ends is a cell apart, from which nothing can be explored: it is kept and never chosen. Memory: one
    list of actions a cell, 8 bytes a step where they are discrete, beside snapshots.

    Args:
        key: of an observation, its cell: anything that can be hashed; coarse enough for cells to be few,
            as `downscaled_cell` is of images.
        seed: of choices, of random actions, and of the environment's ``reset``.

    Source: Ecoffet et al. 2021, arXiv:2004.12919, methods, without domain knowledge. Departs from it: no.

    >>> archive = GoExploreArchive(int)
    >>> archive.add(0, actions=[], episode_return=0.0), archive.add(0, actions=[1], episode_return=0.0)
    (True, False)
    >>> archive.select().seen
    2
    """

    def __init__(self, key: CellKey, *, seed: int = 0) -> None:
        self.key, self.seed = key, seed
        self.generator = np.random.default_rng(seed)
        self.cells: dict[tuple[Hashable, bool], GoExploreCell] = {}
        self.steps = 0

    def add(
        self,
        observation: Any,
        *,
        actions: Sequence[Any],
        episode_return: float,
        ended: bool = False,
        snapshot: Any = None,
    ) -> bool:
        """Note that ``actions`` led to an observation; whether it is the best way there so far."""
        if not math.isfinite(episode_return):
            raise ValueError(f"`episode_return` must be finite; got {episode_return}. Mend the rewards.")
        place = self.key(observation), ended
        old = self.cells.get(place)
        better = old is None or (float(episode_return), -len(actions)) > old.worth
        if better:
            seen, chosen = (old.seen, old.chosen) if old is not None else (0, 0)
            self.cells[place] = GoExploreCell(
                [*actions], float(episode_return), ended, snapshot, seen, chosen
            )
        self.cells[place].seen += 1
        return better

    def weights(self) -> NDArray[np.float64]:
        """The chances of the cells to be chosen, in their order."""
        weights = np.array([0.0 if cell.ended else (cell.seen + 1) ** -0.5 for cell in self.cells.values()])
        return weights / weights.sum() if weights.any() else weights

    def select(self) -> GoExploreCell:
        """A cell to go back to.

        Raises ValueError if there is none to explore from.
        """
        weights = self.weights()
        if not weights.any():
            raise ValueError("the archive must hold a cell that is no end; got none. `add` one.")
        cell = [*self.cells.values()][self.generator.choice(len(weights), p=weights)]
        cell.chosen += 1
        return cell

    def best(self) -> GoExploreCell:
        """The best way to an end of the episode, or to any cell if there is no end yet."""
        if not self.cells:
            raise ValueError("the archive must hold a cell; got none. `return_then_explore` first.")
        return max(self.cells.values(), key=lambda cell: (cell.ended, cell.worth))

    def state_dict(self) -> dict[str, Any]:
        """All but the key function, as plain values where keys, actions and snapshots are plain."""
        return {
            "cells": [
                (place, {**vars(cell), "actions": [*cell.actions]}) for place, cell in self.cells.items()
            ],
            "generator": self.generator.bit_generator.state,
            "seed": self.seed,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` said."""
        pairs = ((tuple(place), {**cell, "actions": [*cell["actions"]]}) for place, cell in state["cells"])
        self.cells = {place: GoExploreCell(**cell) for place, cell in pairs}
        self.generator.bit_generator.state = state["generator"]
        self.seed, self.steps = state["seed"], state["steps"]
