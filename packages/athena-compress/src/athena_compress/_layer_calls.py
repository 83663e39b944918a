"""Calls of layers while a model runs: what went in and came out, and how long one takes again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from athena_compress._call import call
from athena_core import as_float64

_BUDGET = 0.1  # seconds for the repeats of one layer
_LEAST, _MOST = 5, 200  # repeats


@dataclass(frozen=True)
class LayerCall:
    """The first call of a layer in a run."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor | None  # the first tensor in it


def layer_calls(model: nn.Module, names: Iterable[str], example_inputs: Any) -> dict[str, LayerCall]:
    """Run a model, and keep the first call of each of these layers that ran."""
    calls: dict[str, LayerCall] = {}

    def keep(name: str, _: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        # a copy, as a layer that works in place may follow
        first = tensors[0].detach().clone() if tensors else None
        calls.setdefault(name, LayerCall(arguments, options, first))

    handles = [
        model.get_submodule(name).register_forward_hook(partial(keep, name), with_kwargs=True)
        for name in names
    ]
    try:
        with torch.no_grad():
            call(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def relative_error(got: Tensor | None, expected: Tensor | None) -> float | None:
    """The norm of the difference over that of what was expected; None where shapes differ."""
    if got is None or expected is None or got.is_nested or expected.is_nested:
        return None
    if got.shape != expected.shape or not expected.numel():
        return None
    wide = as_float64(expected)
    noise, signal = float((as_float64(got) - wide).norm()), float(wide.norm())
    return noise / signal if signal > 0 else (0.0 if noise == 0 else float("inf"))


def seconds(*runs: Callable[[], Any]) -> list[float]:
    """The shortest time of each, run in turn: what else the machine does adds to it, and to all alike."""
    accelerated = torch.accelerator.is_available()

    def timed(run: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        run()
        if accelerated:
            torch.accelerator.synchronize()
        return time.perf_counter() - begin

    with torch.no_grad():
        for run in runs:  # which warms up
            run()
        begin, times = time.perf_counter(), [[timed(run) for run in runs]]
        while len(times) < _LEAST or (time.perf_counter() - begin < _BUDGET and len(times) < _MOST):
            times.append([timed(run) for run in runs])
    return [min(one) for one in zip(*times, strict=True)]
