"""Norms whose output linear layers alone take, found by what a run of the model computes."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import nn

from athena_compress._calibrate import Forward
from athena_compress._call import call
from athena_compress._channels import runs_as
from athena_compress._data_flow import DataFlow, data_flow


def smoothing_groups(
    model: nn.Module, example_inputs: Any, *, forward: Forward | None = None
) -> dict[str, list[str]]:
    """Names of norms, each with the linear layers that take its output, where nothing else does.

    A norm here is any layer that multiplies the last axis by its one-dimensional ``weight``, and adds its
    ``bias`` if it has one: `torch.nn.LayerNorm`, `torch.nn.RMSNorm`, and others' own, by what they compute.
    Found by watching a run of the model; names and classes of the modules around do not matter. Norms
    after the sum feed the residual stream as well and are not among them, nor are linear layers with a tied
    weight.

    Args:
        model: any module. It is neither changed nor run; a copy in evaluation mode is.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones.
        forward: called with the model and the example, where that is not the model's arguments alone.

    >>> model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    >>> smoothing_groups(model, torch.randn(2, 8))
    {'0': ['1']}
    """
    flow = data_flow(model, example_inputs, forward=forward or call)
    assert flow is not None
    weights = Counter(id(weight) for _, weight in flow.model.named_parameters(remove_duplicate=False))
    groups: dict[str, list[str]] = {}
    for step in flow.steps:
        if not (step.name and len(step.outputs) == 1 and step.shape and flow.is_plain(step.name)):
            continue
        if not is_norm(flow.model.get_submodule(step.name), step.shape[-1]):
            continue
        takers = _takers(flow, step.outputs[0], step.shape[-1])
        if takers and all(weights[id(flow.model.get_submodule(name).weight)] == 1 for name in takers):
            groups[step.name] = takers
    return groups


def is_norm(module: nn.Module, width: int) -> bool:
    """Whether a layer's output is proportional to its weight and bias, along the last axis."""
    parts = dict(module.named_parameters())
    if "weight" not in parts or not set(parts) <= {"weight", "bias"}:
        return False
    if any(part.shape != (width,) for part in parts.values()):
        return False
    scale = 2.0 ** (
        torch.arange(width, device=parts["weight"].device) % 3
    )  # powers of 2, which round nothing
    scale = scale.to(parts["weight"].dtype)
    x = torch.arange(2 * (width + 1) * width, device=scale.device).sin().to(scale.dtype)
    x = x.reshape(2, width + 1, width)  # any other axis has another length
    outputs = []
    with torch.no_grad():
        for factor in (torch.ones_like(scale), scale):
            probe = copy.deepcopy(module).eval()
            for part in probe.parameters():
                part.copy_(1 / factor)
            try:
                outputs.append(probe(x) * factor)
            except Exception:  # noqa: BLE001 - a layer of any class may refuse such an input as it likes
                return False
    return outputs[0].shape == x.shape and torch.allclose(*outputs, rtol=1e-2, atol=1e-3)


def _takers(flow: DataFlow, value: int, width: int) -> list[str] | None:
    """The linear layers that take a value; None if anything else does."""
    names = []
    for step in flow.consumers(value):
        module = flow.model.get_submodule(step.name) if step.name else None
        if module is not None and runs_as(module, nn.Linear) and flow.is_plain(step.name):
            names.append(step.name)
            continue
        passes = step.function in ("view", "clone", "alias", "detach") if module is None else False
        passes = passes or (module is not None and runs_as(module, nn.Identity, nn.Dropout))
        further = None
        if passes and step.shape and step.shape[-1] == width and len(step.outputs) == 1:
            further = _takers(flow, step.outputs[0], width)
        if further is None:
            return None
        names += further
    return names
