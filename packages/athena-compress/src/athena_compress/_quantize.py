"""Quantize a model: a copy whose layers are those that a scheme makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from athena_compress._calibrate import Calibrated
from athena_compress._int8_layer import Int8Layer
from athena_compress._named import build
from athena_compress._prepare import put, quantizable_copy
from athena_compress._scheme import NotQuantizable, Scheme
from athena_compress._select import Patterns, check_patterns, matches, select
from athena_compress._weight_only import CodedWeight

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def quantize(
    model: nn.Module,
    scheme: str | Scheme = "int8-dynamic",
    *,
    include: Patterns = ("*",),
    skip: Patterns = (),
    overrides: Mapping[str, str | Scheme | None] | None = None,
    fold: bool = True,
    **options: Any,
) -> nn.Module:
    """A copy of a model with its layers quantized: `nn.Linear`, convolutions, embeddings, attention.

    Args:
        model: any module, or what `calibrate` returned; it is left as it is.
        scheme: ``"int8-dynamic"``, ``"int8-static"`` (which needs a calibrated model),
            ``"int8-weight-only"``, ``"int4-weight-only"``, another name of kind ``quantization-scheme``, or
            one that was built.
        include, skip: patterns of the names of layers, as in `select`; one that matches a module stands
            for all inside it.
        overrides: by pattern, what is to be done otherwise: another scheme, or None to keep layers in
            float. The last pattern that matches a layer holds.
        fold: whether batch norms are folded into the layers before them first.
        options: of the scheme, where it is given by name: ``symmetric=False``, ``per_channel=True``,
            ``weight_observer="mse"``, ``group_size=64``.

    The copy is in evaluation mode, in the same place and dtype; `nn.MultiheadAttention` is split into linear
    layers, and layers that share a weight share its integers. Layers that hold a matrix of weights and
    cannot be quantized stay in float, and a warning names each with the reason.

    Raises ValueError for a pattern that matches nothing, for options beside a built scheme, if a scheme needs
    calibration and there was none, and if nothing at all could be quantized; AthenaError for an unknown
    scheme or option.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> quantize(model, "int8-dynamic", skip="2")
    Sequential(
      (0): Int8Linear(8, 16, bias=True, dynamic)
      (1): ReLU()
      (2): Linear(in_features=16, out_features=2, bias=True)
    )
    """
    schemes = _schemes(scheme, overrides or {}, options)
    observers = None
    if isinstance(model, Calibrated):
        model, observers = model.model, model.observers
    elif needing := [one for _, one in schemes if one is not None and one.needs_inputs]:
        raise ValueError(
            f"`model` must be calibrated for {type(needing[0]).__name__}, which fixes the ranges of inputs; "
            "got a plain one. Pass `calibrate(model, batches)`."
        )
    ready = quantizable_copy(model, fold=fold)
    chosen = select(ready, include=include, skip=skip)
    every = dict(ready.named_modules(remove_duplicate=False))
    check_patterns("overrides", tuple(overrides or {}), every)
    made, kept = _convert(chosen, every, schemes, observers)
    if not made:
        why = "; ".join(f"`{name}`: {reason}" for name, reason in kept.items())
        raise ValueError(
            f"`model` must hold layers that can be quantized, and none was. {why or 'It has none.'}"
        )
    for name, new in made.items():
        ready = put(ready, chosen[name], new)
    share_integers({name: chosen[name] for name in made}, made)
    if kept:
        names = "; ".join(f"`{name}`: {reason}" for name, reason in kept.items())
        warnings.warn(f"kept in float: {names}.", UserWarning, stacklevel=2)
    return ready


def _schemes(
    scheme: str | Scheme, overrides: Mapping[str, str | Scheme | None], options: dict[str, Any]
) -> list[tuple[str, Scheme | None]]:
    """Patterns with their schemes, that of all layers first."""
    if isinstance(scheme, Scheme) and options:
        raise ValueError(
            f"`{next(iter(options))}` belongs to a scheme by name; pass it where you build yours."
        )
    if not isinstance(overrides, Mapping):
        raise ValueError(f"`overrides` must map patterns to schemes or None; got {overrides!r:.60}.")
    others = [(name, None if one is None else _built(one, {})) for name, one in overrides.items()]
    return [("*", _built(scheme, options)), *others]


def _built(scheme: str | Scheme, options: dict[str, Any]) -> Scheme:
    return scheme if isinstance(scheme, Scheme) else build("quantization-scheme", scheme, **options)


def _convert(
    chosen: dict[str, nn.Module],
    every: dict[str, nn.Module],
    schemes: list[tuple[str, Scheme | None]],
    observers: dict[str, Any] | None,
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The new layers by name, and the reasons of those that stay."""
    places: dict[int, list[str]] = {}
    for name, layer in every.items():
        places.setdefault(id(layer), []).append(name)
    made: dict[str, nn.Module] = {}
    kept: dict[str, str] = {}
    for name, layer in chosen.items():
        names = places[id(layer)]
        scheme = [one for pattern, one in schemes if any(matches(name, (pattern,)) for name in names)][-1]
        if scheme is None or not holds_matrix(layer):
            continue
        try:
            made[name] = scheme.quantize(layer, (observers or {}).get(name)).train(layer.training)
        except NotQuantizable as reason:
            kept[name] = str(reason)
    return made, kept


def holds_matrix(layer: nn.Module) -> bool:
    """Whether a layer without layers inside holds float parameters of two axes or more, and is no norm.

    So does a layer whose weight is parametrized, though it holds what computes that.

    >>> (
    ...     holds_matrix(nn.Linear(2, 2)),
    ...     holds_matrix(nn.Sequential(nn.Linear(2, 2))),
    ...     holds_matrix(nn.LayerNorm(2)),
    ... )
    (True, False, False)
    """
    if isinstance(layer, nn.Linear | _ConvNd | nn.Embedding) and is_parametrized(layer):
        return True
    if isinstance(layer, _NORMS) or (any(layer.children()) and not isinstance(layer, nn.MultiheadAttention)):
        return False
    own = layer.parameters(recurse=False)
    return any(one.ndim >= 2 and one.is_floating_point() for one in own)


def share_integers(old: dict[str, nn.Module], made: dict[str, nn.Module]) -> None:
    """Let layers whose float weights were one tensor hold one tensor of integers, where they are equal."""
    first: dict[int, nn.Module] = {}
    for name, new in made.items():
        if not isinstance(new, Int8Layer | CodedWeight):
            continue
        other = first.setdefault(id(old[name].weight), new)
        if other is new or not isinstance(other, Int8Layer | CodedWeight):
            continue
        same = [
            torch.equal(getattr(new, part), getattr(other, part)) for part in ("weight_q", "weight_scale")
        ]
        if all(same):
            new.weight_q, new.weight_scale = other.weight_q, other.weight_scale
