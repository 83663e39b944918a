"""Quantization-aware training: a model is trained with the roundings of its int8 form."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athena_compress._copied import check_copyable
from athena_compress._fold import conv_norm_pairs
from athena_compress._grid import Grid
from athena_compress._named import build
from athena_compress._prepare import put, quantizable_copy
from athena_compress._qat_batch_norm import QATBatchNormLayer
from athena_compress._qat_layer import QATLayer, by_output
from athena_compress._qat_ranges import (
    LearnedInputs,
    LearnedWeights,
    ObservedInputs,
    ObservedWeights,
    Range,
    WeightRange,
)
from athena_compress._quantize import holds_matrix, share_integers
from athena_compress._scheme import NotQuantizable, refuse_unknown
from athena_compress._select import Patterns, select


class QAT(nn.Module):
    """A copy of a model to be trained as its int8 form will compute; `convert` then gives that form.

    Weights are rounded to a symmetric grid, inputs of layers to the 256 codes of ``"int8-static"``, and
    gradients pass the roundings straight through. Batch normalizations are folded into the layers before
    them at each step. Calling it calls the copy; it is trained as any model is: in training mode ranges and
    batch statistics are followed, in evaluation mode nothing changes. The result of `convert` has the
    outputs of evaluation mode, to the rounding of their sums.

    Args:
        model: any module; it is left as it is.
        include, skip: patterns of the names of layers, as in `select`.
        symmetric: whether the zero point of inputs is fixed at 128.
        per_channel: one scale for each output channel of the weights, rather than one for all.
        weight_bits: 2 to 8, of the codes of weights; the int8 form holds them in 8.
        ranges: ``"observed"``: from the largest weights, and from an observer of the inputs;
            ``"learned"``: scales and zero points are parameters (LSQ), which begin at those of least error,
            and what the observer saw at the first step. They are `range_parameters`. Under
            ``DistributedDataParallel`` run a batch in training mode before wrapping, which then gives all
            processes the first one's: else each begins with its own, and they stay apart.
        observer: what remembers the range of inputs, a name of kind ``observer``; ``options`` are its own,
            as ``momentum=0.01``.
        freeze_ranges_after: training steps after which the ranges of inputs, and learned ranges, stay.
        freeze_batch_norm_after: training steps after which batch normalizations use their moving
            statistics, and these stay.
        example_inputs: with them the model is run, and more batch normalizations are found to follow a
            layer alone; see `conv_norm_pairs`.

    A training step is a call in training mode. Layers that cannot be quantized stay in float, and a warning
    names each. A `torch.nn.SyncBatchNorm` is not folded. Raises ValueError for a pattern that matches
    nothing, for other ``ranges``, if nothing at all can be quantized, and in evaluation mode if a layer's
    input was never seen in training.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3; learned ranges: Esser et al. 2020,
    arXiv:1902.08153, Bhalgat et al. 2020, arXiv:2004.09576. Departs from them: outputs of layers stay
    floats, inputs are quantized from the first step on, first learned scales are those of least error.

    >>> model = QAT(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), weight_bits=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    >>> for _ in range(20):
    ...     x = torch.randn(32, 4)
    ...     optimizer.zero_grad()
    ...     (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
    ...     optimizer.step()
    >>> small = model.convert()
    >>> torch.allclose(small(x), model.eval()(x), atol=1e-4)
    True
    """

    steps: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        include: Patterns = ("*",),
        skip: Patterns = (),
        symmetric: bool = False,
        per_channel: bool = True,
        weight_bits: int = 8,
        ranges: Literal["observed", "learned"] = "observed",
        observer: str = "moving-average",
        freeze_ranges_after: int | None = None,
        freeze_batch_norm_after: int | None = None,
        example_inputs: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if ranges not in ("observed", "learned"):
            raise ValueError(f'`ranges` must be "observed" or "learned"; got {ranges!r}.')
        self.symmetric, self.ranges = symmetric, ranges
        self.observer, self.options = observer, options
        self.freeze_ranges_after = freeze_ranges_after
        self.freeze_batch_norm_after = freeze_batch_norm_after
        self.grid = Grid(weight_bits, axis=0 if per_channel else None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.model, kept = self._prepared(model, example_inputs, include, skip)
        self.training = model.training
        if kept:
            warnings.warn(_described(kept), UserWarning, stacklevel=2)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            self._freeze()
            self.steps += 1
        return self.model(*args, **kwargs)

    def range_parameters(self) -> list[nn.Parameter]:
        """Learned scales and zero points, for a group of their own: without decay, at a rate of their size.

        >>> qat = QAT(nn.Linear(2, 1), ranges="learned")
        >>> [tuple(parameter.shape) for parameter in qat.range_parameters()]
        [(1,), (), ()]
        """
        found = [p for module in self.modules() if isinstance(module, Range) for p in module.parameters()]
        return list(dict.fromkeys(found))

    def convert(self) -> nn.Module:
        """The int8 model: a copy in evaluation mode whose layers are as those of ``"int8-static"``.

        A layer that never ran in training stays in float, and a warning names it. Raises ValueError if none
        ran.
        """
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, QATLayer)}
        made: dict[str, nn.Module] = {}
        kept: dict[str, str] = {}
        for name, layer in layers.items():
            try:
                made[name] = layer.converted()
            except NotQuantizable as reason:
                kept[name] = str(reason)
        if not made:
            names = ", ".join(f"`{name}`" for name in layers)
            raise ValueError(
                f"`convert` must come after training; got a model of whose layers ({names:.60}) none ran "
                "in a training step. Call `train()` and run it."
            )
        memo = {id(layer): made[name] if name in made else layer.plain() for name, layer in layers.items()}
        check_copyable(self.model)
        converted = copy.deepcopy(self.model, memo)
        for parameter in converted.parameters():
            parameter.grad = None
        share_integers({name: layers[name].layer for name in made}, made)
        if kept:
            warnings.warn(_described(kept), UserWarning, stacklevel=2)
        return converted.eval()

    def _freeze(self) -> None:
        if self.freeze_ranges_after is None and self.freeze_batch_norm_after is None:
            return
        taken = int(self.steps)
        for module in self.modules():
            if isinstance(module, Range):
                module.frozen = _reached(taken, self.freeze_ranges_after)
            elif isinstance(module, QATBatchNormLayer):
                module.frozen_statistics = _reached(taken, self.freeze_batch_norm_after)

    def _prepared(
        self, model: nn.Module, example_inputs: Any, include: Patterns, skip: Patterns
    ) -> tuple[nn.Module, dict[str, str]]:
        """The copy with its layers replaced, and why others were not."""
        ready = quantizable_copy(model, example_inputs, fold=False)
        _restore_modes(ready, model)
        norms = {
            layer: norm
            for layer, norm in conv_norm_pairs(ready, example_inputs)
            if not isinstance(ready.get_submodule(norm), nn.SyncBatchNorm)
        }
        kept: dict[str, str] = {}
        shared: dict[int, WeightRange] = {}
        chosen = {
            name: one for name, one in select(ready, include=include, skip=skip).items() if holds_matrix(one)
        }
        taken = 0
        for name, layer in chosen.items():
            try:
                _refuse_untrainable(layer)
            except NotQuantizable as reason:
                kept[name] = str(reason)
                continue
            norm = ready.get_submodule(norms[name]) if name in norms else None
            if norm is not None:
                ready = put(ready, norm, nn.Identity().train(norm.training))
            ready = put(ready, layer, self._layer(layer, norm, shared))
            taken += 1
        if not taken:
            why = "; ".join(f"`{name}`: {reason}" for name, reason in kept.items()) or "It has none."
            raise ValueError(f"`model` must hold layers that can be quantized, and none was. {why}")
        return ready, kept

    def _layer(self, layer: Any, norm: Any, shared: dict[int, WeightRange]) -> QATLayer:
        inputs = None
        if not isinstance(layer, nn.Embedding):
            kind = ObservedInputs if self.ranges == "observed" else LearnedInputs
            inputs = kind(build("observer", self.observer, **self.options), symmetric=self.symmetric)
            inputs.to(layer.weight.device)
        if norm is not None:
            made = QATBatchNormLayer(layer, norm, ObservedWeights(self.grid), inputs)
            if self.ranges == "learned":
                folded, _ = made.folded(norm.running_mean, norm.running_var)
                made.weights = LearnedWeights(folded, self.grid)
            return made
        weights: WeightRange = ObservedWeights(self.grid)
        if self.ranges == "learned":  # layers that share a weight share its scale
            weights = shared.get(id(layer.weight)) or LearnedWeights(
                by_output(layer, layer.weight), self.grid
            )
            shared[id(layer.weight)] = weights
        return QATLayer(layer, weights, inputs)


def _reached(taken: int, limit: int | None) -> bool:
    return limit is not None and taken >= limit


def _refuse_untrainable(layer: nn.Module) -> None:
    refuse_unknown(layer)
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        raise NotQuantizable("its gradient is sparse, or it renormalises its rows")


def _restore_modes(ready: nn.Module, model: nn.Module) -> None:
    """Training or not as in the model; parts that the copy alone has follow the part around them."""
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    for name, module in ready.named_modules():
        while name not in modes:
            name = name.rpartition(".")[0]
        module.training = modes[name]


def _described(kept: dict[str, str]) -> str:
    return "kept in float: " + "; ".join(f"`{name}`: {reason}" for name, reason in kept.items()) + "."
