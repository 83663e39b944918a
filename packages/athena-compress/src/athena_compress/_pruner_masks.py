"""The strategy that sets single weights to 0: unstructured and n:m."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._importance import checked_scores
from athena_compress._masks import Eraser, global_masks, pattern_mask, row_mask, spared
from athena_compress._prunable import PrunableWeight
from athena_compress._pruner_strategy import Choices, PrunedPart, Strategy


class MaskStrategy(Strategy):
    """Masks over weights, True where kept, that only ever prune more.

    Args:
        weights: what to prune.
        choices: importance, scope, normalisation and optimizer.
        pattern: (n, m) of n:m; None for unstructured.
    """

    def __init__(
        self, weights: dict[str, PrunableWeight], choices: Choices, pattern: tuple[int, int] | None = None
    ) -> None:
        super().__init__(choices)
        self.pattern = pattern
        self._weights = self._of_whole_blocks(weights) if pattern else weights
        self.erasers: dict[str, Eraser] = {}  # of weights of which anything is pruned
        self._set(
            {
                name: torch.ones_like(weight.parameter, dtype=torch.bool)
                for name, weight in self._weights.items()
            }
        )

    def _set(self, masks: dict[str, Tensor]) -> None:
        self.masks = masks
        self.erasers = {name: Eraser(mask) for name, mask in masks.items() if not mask.all()}

    def weights(self) -> dict[str, PrunableWeight]:
        return self._weights

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: self._parameter(name) for name in self._weights}

    def prune(self, sparsity: float) -> None:
        scores = {name: self._scores(name) for name in self._weights}
        self.masks = {name: mask.to(scores[name].device) for name, mask in self.masks.items()}
        if self.pattern:
            masks = {name: self._by_pattern(name, scores[name], sparsity) for name in scores}
        elif self.choices.scope == "row":
            masks = {name: self._by_row(name, scores[name], sparsity) for name in scores}
        elif self.choices.scope == "local":
            masks = {k: v for name in scores for k, v in self._exactly(scores, [name], sparsity).items()}
        else:
            masks = self._exactly(scores, list(scores), sparsity)
        self._set(masks)
        self.enforce()

    def enforce(self) -> None:
        for name, eraser in self.erasers.items():
            eraser.erase_with_state(self._parameter(name), self.choices.optimizer)

    def mask_gradients(self) -> None:
        for name, eraser in self.erasers.items():
            gradient = self._parameter(name).grad
            if gradient is not None and gradient.layout == torch.strided:
                eraser.erase(gradient)

    def parts(self) -> list[PrunedPart]:
        kind = "weights" if self.pattern is None else f"{self.pattern[0]}:{self.pattern[1]}"
        return [PrunedPart(name, kind, int(mask.sum()), mask.numel()) for name, mask in self.masks.items()]

    def state_dict(self) -> dict[str, Any]:
        return {"masks": {name: mask.clone() for name, mask in self.masks.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        loaded = state_dict.get("masks", {})
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        received = {name: tuple(mask.shape) for name, mask in loaded.items()}
        if shapes != received:
            name = next(n for n in [*shapes, *received] if shapes.get(n) != received.get(n))
            raise ValueError(
                f"`state_dict` must hold masks of this model's weights; `{name}` has the shape "
                f"{shapes.get(name)} here and {received.get(name)} there. Use the same model, `what`, "
                "`include` and `skip`."
            )
        self._set({name: loaded[name].clone().bool() for name in self.masks})
        self.enforce()

    def _parameter(self, name: str) -> nn.Parameter:
        """The weight. Raises ValueError if it no longer has the shape of its mask."""
        parameter, shape = self._weights[name].parameter, self.masks[name].shape
        if parameter.shape != shape:
            raise ValueError(
                f"`{name}` must keep the shape of its mask, {tuple(shape)}; got {tuple(parameter.shape)}. "
                "Prune structure first, and make the Pruner of weights after it."
            )
        return parameter

    def _scores(self, name: str) -> Tensor:
        scores = checked_scores(self.choices.importance, name, self._parameter(name))
        return scores / mean_size(scores) if self.choices.normalize else scores

    def _exactly(self, scores: dict[str, Tensor], names: list[str], sparsity: float) -> dict[str, Tensor]:
        of_these = {name: scores[name] for name in names}
        count = round(sparsity * sum(part.numel() for part in of_these.values()))
        masks = global_masks(of_these, count, {name: self.masks[name] for name in names})
        for name in spared(of_these, count, masks):
            self.note(f"`{name}` keeps one weight, as the share asked for would empty it.")
        return masks

    def _by_row(self, name: str, scores: Tensor, sparsity: float) -> Tensor:
        weight = self._weights[name]
        rows = weight.rows(scores)
        if rows.shape[1] > 1 and round(sparsity * rows.shape[1]) == rows.shape[1]:
            self.note(f"`{name}` keeps one weight of each row, as the share asked for would empty them.")
        return weight.from_rows(row_mask(rows, sparsity, weight.rows(self.masks[name])))

    def _by_pattern(self, name: str, scores: Tensor, sparsity: float) -> Tensor:
        keep, of = self.pattern or (1, 1)
        pruned = int(sparsity * of + 1e-9)  # whole weights of a block: 4:4, 3:4, 2:4 as the schedule rises
        scores = scores.masked_fill(~self.masks[name], -torch.inf)
        mask = pattern_mask(scores, max(keep, of - pruned), of, axis=self._weights[name].summed_axis)
        return mask & self.masks[name]

    def _of_whole_blocks(self, weights: dict[str, PrunableWeight]) -> dict[str, PrunableWeight]:
        _, of = self.pattern or (1, 1)
        whole = {n: w for n, w in weights.items() if w.parameter.shape[w.summed_axis] % of == 0}
        sizes = {n: w.parameter.shape[w.summed_axis] for n, w in weights.items() if n not in whole}
        if not whole:
            raise ValueError(
                f"`what` needs a weight whose input axis is a multiple of {of}; got {sizes}. Prune 'weights'."
            )
        for name, size in sizes.items():
            self.note(f"`{name}` is left dense, as its input axis of {size} is no multiple of {of}.")
        return whole


def mean_size(scores: Tensor) -> Tensor:
    """The mean absolute score; 1 where that is 0 or there is none.

    >>> mean_size(torch.tensor([1.0, -3.0]))
    tensor(2.)
    """
    mean = scores.abs().mean() if scores.numel() else scores.new_zeros(())
    return torch.where(mean > 0, mean, torch.ones_like(mean))
