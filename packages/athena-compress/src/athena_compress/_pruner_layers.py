"""The strategy that removes whole residual layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._layers import layer_candidates, remove_layers
from athena_compress._masks import global_masks
from athena_compress._prunable import PrunableWeight
from athena_compress._pruner_strategy import Choices, PrunedPart, Strategy
from athena_compress._select import Patterns, select


class LayerStrategy(Strategy):
    """Removes the layers that change what passes through them least, on the example.

    Args:
        model: changed in place.
        example_inputs: what layers are judged on, each time that some go; the more, the better.
        choices: scope and optimizer; parameters of removed layers leave the optimizer, too.
        include: shell patterns of names of layers.
        skip: the same, of those to keep.

    Raises ValueError if no layer can be removed.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, choices: Choices, *, include: Patterns, skip: Patterns
    ) -> None:
        super().__init__(choices)
        self.model = model
        self.example_inputs = example_inputs
        selected = select(model, include=include, skip=skip)
        self.layers = {n: selected[n] for n in layer_candidates(model, example_inputs) if n in selected}
        if not self.layers:
            raise ValueError(
                "`model` must have residual layers in a Sequential or ModuleList that `include` and `skip` "
                f"leave; got none in {type(model).__name__}. Prune channels, heads or neurons."
            )
        self.kept = dict.fromkeys(self.layers, True)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {}  # layers are judged by what they do, not by their parameters

    def weights(self) -> dict[str, PrunableWeight]:
        return {}

    def prune(self, sparsity: float) -> None:
        influence = layer_candidates(self.model, self.example_inputs)
        present = self._present()
        scores: dict[str, dict[str, float]] = {}
        for name, now in present.items():
            # The largest influence there is for a layer that, without others, is no longer residual.
            scores.setdefault(_place(name), {})[name] = influence.get(now, 2.0)
        parts = [list(scores)] if self.choices.scope == "global" else [[place] for place in scores]
        for places in parts:
            total = sum(_place(name) in places for name in self.layers)
            gone = total - sum(len(scores[place]) for place in places)
            count = round(sparsity * total) - gone
            tensors = {place: torch.tensor([*scores[place].values()]) for place in places}
            every = {place: torch.ones_like(part, dtype=torch.bool) for place, part in tensors.items()}
            masks = global_masks(tensors, count, every)
            if sum(int((~mask).sum()) for mask in masks.values()) < count:
                self.note(f"{', '.join(places)} keeps one layer, as the share asked for would empty it.")
            self._remove([n for place in places for n in _left_out(scores[place], masks[place])])

    def parts(self) -> list[PrunedPart]:
        places = dict.fromkeys(map(_place, self.layers))
        return [
            PrunedPart(
                place,
                "layers",
                sum(kept for name, kept in self.kept.items() if _place(name) == place),
                sum(_place(name) == place for name in self.kept),
            )
            for place in places
        ]

    def state_dict(self) -> dict[str, Any]:
        """Which layers are kept, by their original names."""
        return {"kept": dict(self.kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remove the layers that a state says were removed."""
        kept = state_dict.get("kept", {})
        if kept.keys() != self.kept.keys():
            raise ValueError(
                f"`state_dict` must be of this model with all its layers, {list(self.kept)}; got "
                f"{list(kept)}. Build the model as it was."
            )
        if back := [name for name in kept if kept[name] and not self.kept[name]]:
            raise ValueError(
                f"`state_dict` keeps {back[0]!r}, which this pruner has removed. Load it into a whole model."
            )
        self._remove([name for name in kept if self.kept[name] and not kept[name]])

    def _present(self) -> dict[str, str]:
        """Original names of the layers that are left, with their present ones."""
        now = {id(module): name for name, module in self.model.named_modules()}
        return {name: now[id(layer)] for name, layer in self.layers.items() if self.kept[name]}

    def _remove(self, names: list[str]) -> None:
        if not names:
            return
        present = self._present()
        remove_layers(self.model, [present[name] for name in names], self.example_inputs)
        for name in names:
            self.kept[name] = False
        self._leave_optimizer({id(p) for name in names for p in self.layers[name].parameters()})

    def _leave_optimizer(self, removed: set[int]) -> None:
        optimizer = self.choices.optimizer
        removed -= {id(parameter) for parameter in self.model.parameters()}
        if optimizer is None:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in removed:
                    optimizer.state.pop(parameter, None)
            group["params"] = [p for p in group["params"] if id(p) not in removed]


def _place(name: str) -> str:
    return name.rpartition(".")[0]


def _left_out(scores: dict[str, float], mask: Tensor) -> list[str]:
    return [name for name, kept in zip(scores, mask.tolist(), strict=True) if not kept]
