"""Which layers quantization hurts: each quantized alone, and what the model then loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from athena_compress._bars import Panel, bar_panels
from athena_compress._calibrate import Calibrated, Forward, calibrate
from athena_compress._call import call, several
from athena_compress._capture import logits_of
from athena_compress._named import build
from athena_compress._observer import Observer
from athena_compress._prepare import put, quantizable_copy
from athena_compress._quantize import holds_matrix
from athena_compress._scheme import NotQuantizable, Scheme
from athena_compress._select import Patterns, select
from athena_compress._tables import decibels, percent, table
from athena_core import as_float64

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer quantized alone: the relative error of the model's output, or what the user measured.

    ``lost`` is the error, or by how much ``value`` is worse than in float.

    >>> LayerSensitivity("head", "Linear", 20, value=0.97, lost=0.01).lost
    0.01
    """

    name: str
    kind: str
    parameters: int
    value: float
    lost: float


@dataclass(frozen=True)
class Sensitivity:
    """What each layer costs, the worst first: prints as a table, and draws itself. Made by `sensitivity`.

    ``together`` is the cost with all of them quantized, ``reference`` what was measured in float (None if
    errors of the output were), ``kept`` the reasons of layers that cannot be quantized.

    >>> cost = LayerSensitivity("head", "Linear", 20, value=0.01, lost=0.01)
    >>> print(Sensitivity("int8-dynamic", [cost], together=LayerSensitivity("", "", 20, 0.01, 0.01)))
    int8-dynamic, each layer alone
    layer         type    parameters  output error   signal
    head          Linear          20           1 %  40.0 dB
    all together                  20           1 %  40.0 dB
    """

    scheme: str
    layers: list[LayerSensitivity]
    together: LayerSensitivity
    reference: float | None = None
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        header = ["layer", "type", "parameters"]
        header += ["output error", "signal"] if self.reference is None else ["value", "lost"]
        rows = []
        for one in (*self.layers, self.together):
            named = ["all together", ""] if one is self.together else [one.name, one.kind]
            row = [*named, f"{one.parameters:,}"]
            if self.reference is None:
                row += [percent(one.value), decibels(one.value)]
            else:
                row += [f"{one.value:.6g}", f"{one.lost:.3g}"]
            rows.append(row)
        lines = [f"{self.scheme}, each layer alone", table(header, rows, words=["layer", "type"])]
        lines += [f"in float: {self.reference:.6g}"] if self.reference is not None else []
        lines += [f"kept in float: {name} ({reason})" for name, reason in self.kept.items()]
        return "\n".join(lines)

    def plot(self, *, limit: int = 40) -> Figure:
        """Draw what the ``limit`` worst layers cost as bars; a line marks the cost of all together.

        Raises AthenaError if matplotlib is not installed, ValueError for a limit below 1.

        >>> cost = LayerSensitivity("head", "Linear", 20, value=0.01, lost=0.01)
        >>> Sensitivity("int8-dynamic", [cost], together=cost).plot().axes[0].get_xlabel()
        'relative error of the output (%)'
        """
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {limit}. Leave it out for 40.")
        shown, left = self.layers[:limit], len(self.layers) - limit
        errors = self.reference is None
        factor = 100.0 if errors else 1.0
        panel = Panel(
            "relative error of the output (%)" if errors else "lost, against the model in float",
            [factor * one.lost for one in shown],
            [f"{percent(one.lost)}, {decibels(one.lost)}" if errors else f"{one.lost:.3g}" for one in shown],
            line=factor * self.together.lost if math.isfinite(self.together.lost) else None,
            line_label="all layers together",
        )
        title = f"{self.scheme}: each layer quantized alone"
        title += f" (the worst {limit} of {len(self.layers)})" if left > 0 else ""
        return bar_panels([one.name for one in shown], [panel], title=title)


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    scheme: str | Scheme = "int8-dynamic",
    evaluate: Callable[[nn.Module], float] | None = None,
    higher_is_better: bool = True,
    include: Patterns = ("*",),
    skip: Patterns = (),
    forward: Forward | None = None,
    **options: Any,
) -> Sensitivity:
    r"""Quantize one layer at a time, and measure what that costs.

    .. math:: e = \frac{\lVert y_q - y \rVert}{\lVert y \rVert}, \qquad \text{signal} = -20 \log_{10} e

    over the outputs :math:`y` of all batches, in float and with the layer quantized; or what ``evaluate``
    returns. Name the worst layers in the ``skip`` of `quantize`, or give them another scheme.

    Args:
        model: any module, or what `calibrate` returned; left as it is.
        batches: its inputs, a few of which suffice: tensors, tuples of arguments or mappings of named ones.
            Their outputs are held in memory. A scheme that needs calibration is calibrated on them. The
            output compared is the model's, its ``logits``, or the first tensor in it.
        scheme: a name of kind ``quantization-scheme``, with its ``options``, or a built one.
        evaluate: called with a model in evaluation mode, which it must leave as it is; returns what is to be
            compared in place of outputs.
        higher_is_better: whether larger values of ``evaluate`` are; False for a loss.
        include, skip: shell patterns of names of layers, see `select`.
        forward: called with the model and a batch, where batches are not the model's arguments alone.

    Raises ValueError without batches and ``evaluate``, without batches for a scheme that needs calibration,
    if no layer can be quantized, and for patterns that match nothing.
    Source: Wu et al. 2020, arXiv:2004.09602, section 5, on partial quantization. Departs from it: no.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> result = sensitivity(model, [torch.randn(32, 8)])
    >>> sorted(layer.name for layer in result.layers)
    ['0', '2']
    """
    batches = None if batches is None else list(several(batches))
    if not batches and evaluate is None:
        raise ValueError("`batches` must hold data, or `evaluate` be given; got neither. Pass one of them.")
    built = build("quantization-scheme", scheme, **options) if isinstance(scheme, str) else scheme
    ready, observers = _ready(model, batches, built, include=include, skip=skip, forward=forward)
    chosen = {
        n: layer for n, layer in select(ready, include=include, skip=skip).items() if holds_matrix(layer)
    }
    quantized, kept = _quantized(chosen, built, observers)
    if not quantized:
        why = "; ".join(f"{name or 'it'}: {reason}" for name, reason in kept.items()) or "it has none"
        raise ValueError(f"`model` must hold layers that can be quantized, and none can: {why}.")
    reference = None
    if evaluate is None:
        measure = _output_error(ready, batches or [], forward or call)
    else:
        measure, reference = evaluate, float(evaluate(ready))

    def cost(name: str, kind: str, names: Iterable[str]) -> LayerSensitivity:
        changed, count = ready, 0
        for one in names:
            changed = put(changed, chosen[one], quantized[one])
            count += sum(parameter.numel() for parameter in chosen[one].parameters())
        value = float(measure(changed))
        for one in names:
            changed = put(changed, quantized[one], chosen[one])
        lost = value if reference is None else (reference - value if higher_is_better else value - reference)
        return LayerSensitivity(name, kind, count, value, lost)

    costs = [cost(name, type(chosen[name]).__name__, [name]) for name in quantized]
    costs.sort(key=lambda one: -math.inf if math.isnan(one.lost) else -one.lost)  # NaN: all is lost
    title = scheme if isinstance(scheme, str) else type(scheme).__name__
    return Sensitivity(title, costs, cost("all together", "", list(quantized)), reference, kept)


def _ready(
    model: nn.Module,
    batches: list[Any] | None,
    scheme: Scheme,
    *,
    include: Patterns,
    skip: Patterns,
    forward: Forward | None,
) -> tuple[nn.Module, dict[str, Observer]]:
    """A copy whose layers can be exchanged, and observers of their inputs if the scheme wants them."""
    if not isinstance(model, Calibrated):
        if not scheme.needs_inputs:
            example = batches[0] if batches and forward is None else None
            return quantizable_copy(model, example), {}
        if not batches:
            raise ValueError(
                f"`batches` must hold data: {type(scheme).__name__} fixes the ranges of inputs. Pass some, "
                "or `calibrate(model, batches)` in place of the model."
            )
        model = calibrate(model, batches, include=include, skip=skip, forward=forward)
    return quantizable_copy(model.model, fold=False), model.observers


def _quantized(
    layers: dict[str, nn.Module], scheme: Scheme, observers: dict[str, Observer]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    made: dict[str, nn.Module] = {}
    kept: dict[str, str] = {}
    for name, layer in layers.items():
        try:
            made[name] = scheme.quantize(layer, observers.get(name)).eval()
        except NotQuantizable as reason:
            kept[name] = str(reason)
    return made, kept


def _output_error(model: nn.Module, batches: list[Any], forward: Forward) -> Callable[[nn.Module], float]:
    """What measures the relative error of a model's outputs against this one's."""

    def outputs(candidate: nn.Module) -> Iterable[Tensor]:
        with torch.no_grad():
            for batch in batches:
                yield as_float64(logits_of(forward(candidate, batch)))

    expected = list(outputs(model))
    signal = sum(float(y.square().sum()) for y in expected)

    def error(candidate: nn.Module) -> float:
        pairs = zip(outputs(candidate), expected, strict=True)
        noise = sum(float((got - y).square().sum()) for got, y in pairs)
        return math.sqrt(noise / signal) if signal > 0 else (0.0 if noise == 0 else math.inf)

    return error
