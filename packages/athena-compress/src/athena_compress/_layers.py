"""Whole residual layers: how little each changes what passes through it, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from athena_compress._call import call
from athena_compress._dependency_labels import Array
from athena_compress._dependency_trace import Follower, follow, follower_of, tensors
from athena_compress._modes import evaluating


def layer_candidates(model: nn.Module, example_inputs: Any) -> dict[str, float]:
    r"""Layers that could be left out, by name, with their block influence: how much each changes its input.

    .. math:: \mathrm{BI}_i = 1 - \mathbb{E}_{t}\,
              \frac{x_{i,t}^\top x_{i+1,t}}{\lVert x_{i,t}\rVert\,\lVert x_{i+1,t}\rVert}

    where :math:`x_{i,t}` is what enters layer :math:`i` at token or place :math:`t`, and
    :math:`x_{i+1,t}` what leaves it. The lowest goes first.

    Args:
        model: any module; it runs once, in ``eval()`` and without gradients.
        example_inputs: a tensor, a tuple of arguments, or a mapping of keyword arguments; the more data,
            the better the estimate.

    Candidates are children of a `torch.nn.Sequential` or `torch.nn.ModuleList` that are built of other
    modules, ran exactly once, return a tensor of the shape that they take, and are residual: the units of
    what they return are those of what they take (see `dependencies`).
    Of images, ``(batch, channels, height, width)``, the vectors compared are the channels of a place; else
    the last dimension. Raises what the model raises for inputs that it does not take.
    Source: Men et al. 2024, arXiv:2403.03853, equation 1. Departs from it: no.

    >>> import torch
    >>> class Layer(nn.Module):
    ...     def __init__(self, scale):
    ...         super().__init__()
    ...         self.linear, self.scale = nn.Linear(4, 4), scale
    ...
    ...     def forward(self, x):
    ...         return x + self.scale * self.linear(x)
    >>> layers = nn.Sequential(Layer(10.0), Layer(0.1))
    >>> influence = layer_candidates(layers, torch.randn(8, 4))
    >>> influence["0"] > influence["1"]
    True
    """
    children = {
        f"{name}.{key}" if name else key: child
        for name, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        for key, child in module.named_children()
        if next(child.children(), None) is not None and not isinstance(child, (nn.Sequential, nn.ModuleList))
    }
    follower = follower_of(model)
    watches = {name: _Watch(follower) for name in children}
    with ExitStack() as stack:
        for name, child in children.items():
            watch = watches[name]
            for handle in (
                child.register_forward_pre_hook(watch.enter, with_kwargs=True),
                child.register_forward_hook(watch.leave),
            ):
                stack.callback(handle.remove)
        trace = follow(model, example_inputs, follower)
    components = trace.book.components()
    return {
        name: watch.influence
        for name, watch in watches.items()
        if watch.runs == 1 and watch.before is not None and _equal(components, watch.before, watch.after)
    }


def block_influence(before: Tensor, after: Tensor) -> float:
    """One less the mean cosine similarity of what enters a layer and what leaves it.

    Shape: both ``(batch, channels, height, width)``, or ``(..., width)``. Computed in float32. Vectors of
    length 0 count as unlike.
    Source: Men et al. 2024, arXiv:2403.03853, equation 1. Departs from it: no.

    >>> import torch
    >>> round(block_influence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])), 3)
    1.0
    """
    similarity = F.cosine_similarity(before.float(), after.float(), dim=_features(before))
    return 1 - similarity.mean().item()


def remove_layers(model: nn.Module, names: Sequence[str], example_inputs: Any = None) -> None:
    """Take layers out of their `torch.nn.Sequential` or `torch.nn.ModuleList`, in place.

    Args:
        model: any module.
        names: full names of the layers, as `layer_candidates` returns them.
        example_inputs: what the smaller model is run on, to prove that it works; None does not run it.

    Those after a removed one move up, so names change. Raises ValueError for names that do not exist, for a
    layer elsewhere than in such a list, and if a list would be empty; RuntimeError if the smaller model does
    not run, with all layers put back.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> remove_layers(model, ["1"], torch.randn(1, 2))
    >>> len(model)
    2
    """
    modules = dict(model.named_modules())
    chosen: dict[str, set[str]] = {}
    for name in names:
        parent, _, key = name.rpartition(".")
        if name not in modules or not isinstance(modules[parent], (nn.Sequential, nn.ModuleList)):
            raise ValueError(
                f"`names` must be layers in a Sequential or ModuleList; got {name!r}. `layer_candidates` "
                "returns those that can be removed."
            )
        chosen.setdefault(parent, set()).add(key)
    before = {parent: dict(modules[parent]._modules) for parent in chosen}
    for parent, keys in chosen.items():
        if len(keys) == len(before[parent]):
            raise ValueError(f"`names` must leave at least one layer of {parent!r}; got all. Keep one.")
    for parent, keys in chosen.items():
        kept = [module for key, module in before[parent].items() if key not in keys]
        _fill(modules[parent], {str(number): module for number, module in enumerate(kept)})
    if example_inputs is None:
        return
    try:
        with evaluating(model), torch.no_grad():
            call(model, example_inputs)
    except Exception as error:
        for parent, layers in before.items():
            _fill(modules[parent], layers)
        raise RuntimeError(
            f"The model does not run without {', '.join(map(repr, names))}: {error}. A number of layers is a "
            "constant in its code, or widths differ: keep these. Nothing was changed."
        ) from error


def _fill(container: nn.Module, layers: dict[str, Any]) -> None:
    container._modules.clear()
    container._modules.update(layers)


class _Watch:
    """Notes what enters a layer and what leaves it."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.runs = 0
        self.influence = 0.0
        self.entering: Tensor | None = None
        self.before: Array | None = None
        self.after: Array | None = None

    def enter(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self.runs += 1
        entering = next(tensors([args, kwargs]), None)
        if entering is not None:
            self.before = self._labels(entering)
            with _disable_current_modes():
                self.entering = entering.clone()  # before the layer writes into it

    def leave(self, *run: Any) -> None:
        entering, leaving = self.entering, next(tensors(run[-1]), None)
        self.entering = None
        if entering is None or leaving is None or entering.shape != leaving.shape or entering.ndim < 2:
            self.before = None
            return
        self.after = self._labels(leaving)
        with _disable_current_modes():
            self.influence = block_influence(entering, leaving)

    def _labels(self, tensor: Tensor) -> Array:
        """Labels of the dimension that holds features, none if its size is constant."""
        labels = self.follower.labels_of(tensor)
        dim = _features(tensor) % max(tensor.ndim, 1)
        block = next((one for one in labels.blocks if one.dims == (dim,)), None)
        return np.empty(0, dtype=np.int64) if block is None else block.labels


def _features(tensor: Tensor) -> int:
    return 1 if tensor.ndim == 4 else -1


def _equal(components: Array, before: Array, after: Array | None) -> bool:
    """Whether both are the same units: something was added to what entered."""
    return after is not None and np.array_equal(components[before], components[after])
