"""Which channels hang together, against Torch-Pruning's dependency graph.

It is no oracle for the other models here (1.6.1): what it leaves of nested concatenations and of a layer norm
over places does not run, and it overlooks that padding of channels moves them.
"""

from __future__ import annotations

import warnings
from copy import deepcopy

import pytest
import torch
from models import CASES
from torch import nn

from athena_compress import dependencies, parameter_count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning


def size_of(model: nn.Module) -> tuple[int, list[tuple[int, ...]]]:
    return parameter_count(model), [tuple(one.shape) for one in model.state_dict().values()]


def producer(model: nn.Module, group) -> tuple[str, torch.Tensor] | None:
    """A convolution or linear layer whose outputs are this group's units, one for one, and their ids."""
    for one in group.slices:
        name, _, kind = one.tensor_name.rpartition(".")
        layer = model.get_submodule(name)
        plain = isinstance(layer, (nn.Conv2d, nn.Linear)) and getattr(layer, "groups", 1) == 1
        if plain and kind == "weight" and one.dim == 0 and len(one.units) == group.size:
            return name, one.units
    return None


@pytest.mark.filterwarnings("ignore:::torch_pruning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet"])
def test_the_same_channels_take_as_much_with_them(name):
    model, x = CASES[name]()
    model.eval()
    compared = 0
    for group in [each for each in dependencies(model, x).groups if each.removable]:
        found = producer(model, group)
        if found is None:
            continue
        layer_name, ids = found
        units = torch.randperm(group.size)[: max(group.size // 2, 1)]
        ours, theirs = deepcopy(model), deepcopy(model)
        dependencies(ours, x).remove({group.name: units})
        graph = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=x)
        layer = theirs.get_submodule(layer_name)
        linear = isinstance(layer, nn.Linear)
        prune = torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels
        places = torch.isin(ids, units).nonzero()[:, 0].tolist()
        graph.get_pruning_group(layer, prune, idxs=places).prune()
        assert size_of(ours) == size_of(theirs), f"{name}: {group.name}"
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x))
        compared += 1
    assert compared >= 2
