"""The strategy that removes units: channels, neurons, heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._dependencies import DependencyGraph, UnitGroup
from athena_compress._importance import checked_scores
from athena_compress._masks import global_masks, spared
from athena_compress._prunable import CONVOLUTIONS, TRANSPOSED, PrunableWeight, prunable_weights
from athena_compress._pruner_masks import mean_size
from athena_compress._pruner_strategy import Choices, PrunedPart, Strategy
from athena_compress._select import Patterns, select
from athena_compress._smallest import smallest
from athena_core import as_float64


class StructureStrategy(Strategy):
    """Removes whole units of groups, each kind of unit compared with itself alone.

    Args:
        graph: the groups of units of a model, and what removes them.
        names: the groups to prune.
        choices: importance, scope, normalisation and optimizer.
        round_to: kept channels and neurons are rounded up to a multiple of it.
    """

    def __init__(
        self, graph: DependencyGraph, names: list[str], choices: Choices, *, round_to: int = 1
    ) -> None:
        super().__init__(choices)
        self.model = graph.model
        self.graph = graph
        self.round_to = round_to
        groups = {group.name: group for group in graph.groups}
        self.kinds = {name: groups[name].kind for name in names}
        self.sizes = {name: groups[name].size for name in names}
        self.kept = {name: torch.arange(size) for name, size in self.sizes.items()}  # original numbers

    def groups(self) -> dict[str, UnitGroup]:
        """The groups as they are now, by name."""
        return {group.name: group for group in self.graph.groups if group.name in self.sizes}

    def parameters(self) -> dict[str, nn.Parameter]:
        names = {part.tensor_name for group in self.groups().values() for part in group.slices}
        return {name: parameter for name, parameter in self.model.named_parameters() if name in names}

    def weights(self) -> dict[str, PrunableWeight]:
        known = self.parameters()
        return {name: weight for name, weight in prunable_weights(self.model).items() if name in known}

    def prune(self, sparsity: float) -> None:
        scores = self._scores()
        removed: dict[str, Tensor] = {}
        for kind in dict.fromkeys(self.kinds.values()):
            names = [name for name in scores if self.kinds[name] == kind]
            parts = [[name] for name in names] if self.choices.scope == "local" else [names]
            for part in parts:
                removed |= self._lowest({name: scores[name] for name in part}, sparsity)
        self._remove({name: units for name, units in removed.items() if len(units)})

    def parts(self) -> list[PrunedPart]:
        return [
            PrunedPart(name, self.kinds[name], len(self.kept[name]), size)
            for name, size in self.sizes.items()
        ]

    def state_dict(self) -> dict[str, Any]:
        """The original numbers of the units that each group keeps, and its original size."""
        return {"kept": {n: k.clone() for n, k in self.kept.items()}, "sizes": dict(self.sizes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remove what a state says was removed, from a model of full size or one that lost a part of it."""
        kept, sizes = state_dict.get("kept", {}), state_dict.get("sizes", {})
        if sizes != self.sizes:
            name = next(n for n in [*self.sizes, *sizes] if sizes.get(n) != self.sizes.get(n))
            raise ValueError(
                f"`state_dict` must be of this model at its full size; the group `{name}` has "
                f"{self.sizes.get(name)} units here and {sizes.get(name)} there. Build the model as it was, "
                "and load its weights after the pruner's state."
            )
        for name, units in kept.items():
            if not torch.isin(units, self.kept[name]).all():
                raise ValueError(
                    f"`state_dict` keeps units of `{name}` that this pruner has removed. Load it into "
                    "a model of full size."
                )
        removed = {
            name: (~torch.isin(self.kept[name], units)).nonzero().flatten() for name, units in kept.items()
        }
        self._remove({name: units for name, units in removed.items() if len(units)})

    def _scores(self) -> dict[str, Tensor]:
        """Scores of the units of each group: sums over their elements in weights, in float64."""
        importance = self.choices.importance
        elements = {
            name: checked_scores(importance, name, parameter)
            for name, parameter in self.parameters().items()
            if parameter.dim() > 1 or importance.counts_vectors
        }
        scores = {}
        for name, group in self.groups().items():
            sums = torch.zeros(group.size, dtype=torch.float64)
            for part in group.slices:
                if part.tensor_name in elements:
                    sums += unit_sums(elements[part.tensor_name], part.dim, part.units, group.size)
            scores[name] = sums / mean_size(sums) if self.choices.normalize else sums
        return scores

    def _lowest(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """The units that go, of groups that are compared with one another."""
        total = sum(self.sizes[name] for name in scores)
        gone = total - sum(len(units) for units in scores.values())
        count = round(sparsity * total) - gone
        masks = global_masks(
            scores, count, {n: torch.ones(len(s), dtype=torch.bool) for n, s in scores.items()}
        )
        for name in spared(scores, count, masks):
            self.note(f"`{name}` keeps one unit, as the share asked for would empty it.")
        return {name: self._rounded(name, scores[name], int(mask.sum())) for name, mask in masks.items()}

    def _rounded(self, name: str, scores: Tensor, keep: int) -> Tensor:
        """The numbers of the lowest units, so many that a multiple of ``round_to`` is kept."""
        multiple = 1 if self.kinds[name] == "heads" else self.round_to
        keep = min(len(scores), -(-keep // multiple) * multiple)
        return smallest(scores, len(scores) - keep).nonzero().flatten()

    def _remove(self, removed: dict[str, Tensor]) -> None:
        if not removed:
            return
        shapes = {name: parameter.shape for name, parameter in self.parameters().items()}
        left = self._indices_left(removed)
        self.graph.remove(removed, optimizer=self.choices.optimizer)
        for name, units in removed.items():
            keep = torch.ones(len(self.kept[name]), dtype=torch.bool)
            keep[units] = False
            self.kept[name] = self.kept[name][keep]
        for (name, dim), keep in left.items():
            if name in shapes:
                self.choices.importance.cut(name, dim, keep.nonzero().flatten(), shapes[name][dim])

    def _indices_left(self, removed: dict[str, Tensor]) -> dict[tuple[str, int], Tensor]:
        """By tensor and axis, which indices no removed unit owns."""
        left: dict[tuple[str, int], Tensor] = {}
        groups = self.groups()
        for name, units in removed.items():
            for part in groups[name].slices:
                owned = torch.isin(part.units.cpu(), units)
                key = (part.tensor_name, part.dim)
                left[key] = left.get(key, torch.ones_like(owned)) & ~owned
        return left


def unit_sums(scores: Tensor, dim: int, units: Tensor, size: int) -> Tensor:
    """Sums of scores over the elements of each unit, in float64 on the CPU.

    Args:
        scores: of a tensor's elements.
        dim: the axis along which units lie.
        units: the unit of each index of that axis; -1 for none.
        size: number of units.

    >>> unit_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 0, torch.tensor([1, -1, 1]), 2)
    tensor([ 0., 14.], dtype=torch.float64)
    """
    others = [axis for axis in range(scores.dim()) if axis != dim]
    sums = (as_float64(scores).sum(others) if others else as_float64(scores)).cpu()
    units = units.cpu()
    owned = units >= 0
    return torch.zeros(size, dtype=torch.float64).index_add_(0, units[owned], sums[owned])


def removable_groups(
    graph: DependencyGraph, kinds: tuple[str, ...], *, include: Patterns, skip: Patterns
) -> list[str]:
    """Names of the groups of these kinds that can be pruned and that the patterns leave.

    A group is included if one of the layers that make its units is, and left out if one is skipped.
    Raises ValueError if there is none; it says what is in the way.
    """
    included = select(graph.model, include=include).keys()
    skipped = select(graph.model).keys() - select(graph.model, skip=skip).keys()
    fitting = [group for group in graph.groups if group.kind in kinds]
    chosen = []
    for group in fitting:
        made = makers(graph.model, group)
        if group.removable and made & included and not made & skipped:
            chosen.append(group.name)
    if not chosen:
        reasons = "; ".join(f"{group.name}: {group.why or 'not selected'}" for group in fitting[:4])
        raise ValueError(
            f"`model` must have {' or '.join(kinds)} that can be removed; got none"
            f"{f' ({reasons})' if reasons else ''}. Widen `what`, `include` or `skip`."
        )
    return chosen


def makers(model: nn.Module, group: UnitGroup) -> set[str]:
    """Names of the modules that make a group's units or scale them, not of those that read them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    made = set()
    for part in group.slices:
        name, _, attribute = part.tensor_name.rpartition(".")
        reads = 0 if isinstance(modules[name], TRANSPOSED) else 1
        if not (
            attribute == "weight"
            and part.dim == reads
            and isinstance(modules[name], (nn.Linear, *CONVOLUTIONS, *TRANSPOSED))
        ):
            made.add(name)
    return made
