"""What each layer of a model holds, what compressing it cost, and how fast it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from athena_compress._bars import Panel, bar_panels
from athena_compress._call import call
from athena_compress._copied import check_sizes
from athena_compress._fold import conv_norm_pairs
from athena_compress._layer_calls import LayerCall, layer_calls, relative_error, seconds
from athena_compress._layer_facts import LayerFacts, facts, summed
from athena_compress._modes import evaluating
from athena_compress._prepare import quantizable_copy
from athena_compress._tables import ABSENT, duration, percent, size, table
from athena_core.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOTAL = "whole model"
Run = tuple[nn.Module, Callable[[], Any]]  # what runs, and how


@dataclass(frozen=True)
class LayerReport:
    """One layer, or the whole model: its facts, those of the layer that it came from, and both times.

    ``error`` is the relative error of its output, errors of the layers before it included.

    >>> layer = report(nn.Linear(4, 2)).layers[0]
    >>> layer.now.parameters, layer.now.n_bytes, layer.before
    (10, 40, None)
    """

    name: str
    now: LayerFacts
    before: LayerFacts | None = None
    error: float | None = None
    seconds: float | None = None
    seconds_before: float | None = None

    @property
    def kept(self) -> float | None:
        """The share of the parameters that is left."""
        if self.before is None or not self.before.parameters:
            return None
        return self.now.parameters / self.before.parameters

    @property
    def speedup(self) -> float | None:
        """The time before over the time now."""
        return self.seconds_before / self.seconds if self.seconds and self.seconds_before else None


@dataclass(frozen=True)
class Report:
    """A model layer by layer, and as a whole: prints as a table, and draws itself. Made by `report`.

    >>> print(report(nn.Sequential(nn.Linear(4, 2), nn.ReLU())))
    layer        type    parameters  size  zeros  held as
    0            Linear          10  40 B    0 %  float32
    whole model                  10  40 B    0 %
    """

    layers: list[LayerReport]
    total: LayerReport

    def __str__(self) -> str:
        rows = [*self.layers, self.total]
        columns: dict[str, list[str]] = {
            "layer": [one.name for one in self.layers] + [_TOTAL],
            "type": [one.now.kind for one in rows],
            "parameters": [f"{one.now.parameters:,}" for one in rows],
            "kept": [percent(one.kept) for one in rows],
            "size": [size(one.now.n_bytes) for one in rows],
            "was": [ABSENT if one.before is None else size(one.before.n_bytes) for one in rows],
            "zeros": [percent(one.now.sparsity) for one in rows],
            "held as": [one.now.held_as for one in rows],
            "error": [percent(one.error) for one in rows],
            "time": [duration(one.seconds) for one in rows],
            "speed": [ABSENT if one.speedup is None else f"{one.speedup:.2f} x" for one in rows],
            "note": [one.now.note for one in rows],
        }
        told = {name: cells for name, cells in columns.items() if set(cells) - {ABSENT, ""}}
        lines = [list(row) for row in zip(*told.values(), strict=True)]
        return table(list(told), lines, words=("layer", "type", "held as", "note"))

    def plot(self, *, limit: int = 30) -> Figure:
        """Draw the ``limit`` largest layers, in the model's order: size, and where known error and speed.

        Raises AthenaError if matplotlib is not installed, ValueError for a limit below 1.

        >>> len(report(nn.Linear(4, 2)).plot().axes)
        1
        """
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {limit}. Leave it out for 30.")
        by_size = sorted(self.layers, key=lambda one: -_largest_bytes(one))
        largest = {one.name for one in by_size[:limit]}
        shown = [one for one in self.layers if one.name in largest]
        title = f"{size(self.total.now.n_bytes)}, {self.total.now.parameters:,} parameters"
        if self.total.before is not None:
            title += f"; before {size(self.total.before.n_bytes)}, {self.total.before.parameters:,}"
        if len(shown) < len(self.layers):
            title += f" (the {limit} largest layers of {len(self.layers)})"
        return bar_panels([one.name or _TOTAL for one in shown], _panels(shown), title=title)


def report(model: nn.Module, *, compared_with: nn.Module | None = None, example_inputs: Any = None) -> Report:
    """What each layer of a model holds, and against another model what is left, lost and gained.

    Rows are the modules that hold parameters or saved buffers themselves. Columns that nothing is known of
    are left out. Sizes are those of a saved model; int8 layers on a CPU hold their weights once more when
    they run.

    Args:
        model: any module; it is run, if it is, in evaluation mode, and left as it is.
        compared_with: the model that it was made from. Its layers are taken by name, its attention split
            and its batch norms folded where they were: layers that have other names now, as those behind a
            removed one in a list, are compared with another.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones, on which both
            are run: for errors of outputs and the time of a call, each layer on what came in there.

    >>> from athena_compress import quantize
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))
    >>> _ = nn.init.constant_(model[0].weight, 0.5)
    >>> print(report(quantize(model, skip="1"), compared_with=model))  # doctest: +NORMALIZE_WHITESPACE
    layer        type        parameters   kept     size       was  zeros  held as        note
    0            Int8Linear       4,160  100 %  4.5 KiB  16.2 KiB    0 %  int8, dynamic
    1            Linear              65  100 %    260 B     260 B    0 %  float32
        kept in float: not chosen
    whole model                   4,225  100 %  4.8 KiB  16.5 KiB    0 %
    """
    check_sizes(model)
    reference = None if compared_with is None else _reference(model, compared_with, example_inputs)
    now, before = facts(model), {} if reference is None else facts(reference)
    removed = {
        name: LayerFacts(old.kind, 0, 0, note="removed") for name, old in before.items() if name not in now
    }
    calls = _calls(model, list(now), example_inputs)
    calls_before = {} if reference is None else _calls(reference, list(before), example_inputs)
    layers = []
    for name, fact in (now | removed).items():
        call_now, call_before = calls.get(name), calls_before.get(name)
        runs = [
            _run(model, name, call_now),
            None if reference is None else _run(reference, name, call_before),
        ]
        error = _error(call_now, call_before)
        layers.append(LayerReport(name, fact, before.get(name), error, *_seconds(*runs)))
    runs = [_whole_run(model, example_inputs), _whole_run(compared_with, example_inputs)]
    error = _error(calls.get(""), calls_before.get(""))
    total_before = None if reference is None else summed(before.values())
    return Report(layers, LayerReport("", summed(now.values()), total_before, error, *_seconds(*runs)))


def _reference(model: nn.Module, compared_with: nn.Module, example_inputs: Any) -> nn.Module:
    """The other model with attention split, and batch norms folded if this one's are."""
    modules = dict(model.named_modules())
    norms = [norm for _, norm in conv_norm_pairs(compared_with, example_inputs)]
    folded = any(isinstance(modules.get(norm), nn.Identity) for norm in norms)
    return quantizable_copy(compared_with, example_inputs, fold=folded)


def _calls(model: nn.Module, names: list[str], example_inputs: Any) -> dict[str, LayerCall]:
    if example_inputs is None:
        return {}
    with evaluating(model):
        return layer_calls(model, dict.fromkeys(["", *names]), example_inputs)


def _error(now: LayerCall | None, before: LayerCall | None) -> float | None:
    return None if now is None or before is None else relative_error(now.output, before.output)


def _run(model: nn.Module, name: str, layer_call: LayerCall | None) -> Run | None:
    """What calls a layer as it was called."""
    if layer_call is None:
        return None
    layer = model.get_submodule(name)
    return layer, lambda: layer(*layer_call.arguments, **layer_call.options)


def _whole_run(model: nn.Module | None, example_inputs: Any) -> Run | None:
    return None if model is None or example_inputs is None else (model, lambda: call(model, example_inputs))


def _seconds(*runs: Run | None) -> list[float | None]:
    """The time of each, where there is one."""
    known = [run for run in runs if run is not None]
    with ExitStack() as stack:
        for module, _ in known:
            stack.enter_context(evaluating(module))
        times = iter(seconds(*(run for _, run in known)) if known else [])
    return [None if run is None else next(times) for run in runs]


def _largest_bytes(layer: LayerReport) -> int:
    return max(layer.now.n_bytes, 0 if layer.before is None else layer.before.n_bytes)


def _panels(layers: list[LayerReport]) -> list[Panel]:
    unit, name = 1, "B"
    for larger in ("KiB", "MiB", "GiB"):
        if max(map(_largest_bytes, layers), default=0) >= 1024 * unit:
            unit, name = 1024 * unit, larger
    compared = any(one.before is not None for one in layers)
    panels = [
        Panel(
            f"size ({name})",
            [one.now.n_bytes / unit for one in layers],
            [size(one.now.n_bytes) for one in layers],
            before=[one.before.n_bytes / unit if one.before else None for one in layers]
            if compared
            else None,
        )
    ]
    if any(one.error is not None for one in layers):
        shares = [None if one.error is None else 100 * one.error for one in layers]
        texts = [percent(one.error) for one in layers]
        panels.append(Panel("error of the output (%)", shares, texts, colour=PALETTE[1]))
    if any(one.speedup is not None for one in layers):
        ratios = [one.speedup for one in layers]
        texts = [ABSENT if ratio is None else f"{ratio:.2f} x" for ratio in ratios]
        panels.append(
            Panel(
                "speed (time before / after)",
                ratios,
                texts,
                colour=PALETTE[2],
                line=1.0,
                line_label="as before",
            )
        )
    elif any(one.seconds is not None for one in layers):
        times = [None if one.seconds is None else 1e3 * one.seconds for one in layers]
        panels.append(
            Panel("time of a call (ms)", times, [duration(one.seconds) for one in layers], colour=PALETTE[2])
        )
    return panels
