"""Sizes that modules keep as attributes, and how they follow the shapes of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

if TYPE_CHECKING:
    from athena_compress._dependencies import DependencyGraph

Change = tuple[nn.Module, str, Any]

HEADS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads", "n_local_heads")
KEY_HEADS = ("num_kv_heads", "num_key_value_heads", "n_kv_heads", "n_kv_head", "n_local_kv_heads", "kv_heads")
SHARED = ("num_key_value_groups", "n_rep", "num_queries_per_kv")
WIDTHS = ("all_head_size", "split_size", "inner_dim", "attention_dim", "proj_dim", "q_size", "query_dim")
KEY_WIDTHS = ("kv_size", "kv_dim", "key_dim")
HIDDEN = (
    "hidden_dim",
    "hidden_features",
    "intermediate_size",
    "ffn_dim",
    "ff_dim",
    "d_ff",
    "d_inner",
    "time_step_rank",
    "width",
)
LOOSE = ("embed_dim", "hidden_size", "dim", "d_model", "n_embd", "channels", "out_channels", "planes")


class Sizes:
    """Sizes before a removal and after it: of weights, and of each attention's heads."""

    def __init__(self, graph: DependencyGraph, kept: dict[str, dict[int, Tensor]]) -> None:
        self.model = graph.model
        self.modules = dict(graph.model.named_modules())
        self.whole_groups = graph.trace.findings.whole_groups
        self.kept = kept
        components = graph.components
        gone = np.zeros(len(components), dtype=bool)
        self.changes: dict[str, dict[int, tuple[int, int]]] = {}
        for name, dims in kept.items():
            for dim, indices in dims.items():
                labels = graph.trace.labels[name][dim]
                away = np.ones(len(labels), dtype=bool)
                away[indices.numpy()] = False
                gone[components[labels[away]]] = True
                self.changes.setdefault(name, {})[dim] = (len(labels), len(indices))
        self.channels = {
            name: int((~gone[components[labels]]).sum())
            for name, labels in graph.trace.findings.normed.items()
        }
        self.attentions: dict[str, tuple[int, int, int, int, int]] = {}
        for one in graph.trace.findings.attentions:
            queries, keys = (int((~gone[components[labels]]).sum()) for labels in (one.queries, one.keys))
            if queries != len(one.queries) or keys != len(one.keys):
                sizes = (len(one.queries), queries, max(len(one.keys), 1), max(keys, 1), one.width)
                self.attentions.setdefault(one.module, sizes)


def set_sizes(changes: list[Change], undo: list[Callable[[], Any]]) -> None:
    """Set attributes, and note how to put them back."""
    for module, name, value in changes:
        undo.append(_back(module, name, getattr(module, name)))
        setattr(module, name, value)


def _back(module: nn.Module, name: str, value: Any) -> Callable[[], Any]:
    return lambda: setattr(module, name, value)


def layer_sizes(sizes: Sizes) -> list[Change]:
    """Attributes of layers, torch's and those that are written like them, which weights determine."""
    named = dict(sizes.model.named_parameters()) | dict(sizes.model.named_buffers())
    changed = {id(named[name]) for name in sizes.changes}
    changes = []
    for prefix, module in sizes.modules.items():
        held = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for part in module.children():  # of a weight that is computed, what it is computed from
            if isinstance(part, nn.ModuleDict) and any(
                isinstance(one, ParametrizationList) for one in part.values()
            ):
                held += part.parameters()
        if any(id(tensor) in changed for tensor in held) or prefix in sizes.channels:
            changes += [
                (module, name, value)
                for name, value in _sizes_of(sizes, prefix, module)
                if getattr(module, name, value) != value
            ]
    return changes


def _sizes_of(sizes: Sizes, prefix: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    # torch's pruning computes `weight` anew only when the layer runs
    weight = getattr(module, "weight_orig", getattr(module, "weight", None))
    shape = tuple(weight.shape if isinstance(weight, Tensor) else ())
    if isinstance(module, nn.Linear):
        yield from (("out_features", shape[0]), ("in_features", shape[1]))
    elif isinstance(module, nn.modules.conv._ConvNd):
        yield from _conv_sizes(sizes, prefix, module, shape)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        mean = module.running_mean
        counted = sizes.channels.get(prefix, module.num_features)
        yield "num_features", shape[0] if shape else counted if mean is None else len(mean)
    elif isinstance(module, nn.GroupNorm):
        channels = sizes.channels.get(prefix, module.num_channels)
        if module.num_groups > 1:
            yield "num_groups", channels * module.num_groups // module.num_channels
        yield "num_channels", channels
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield "normalized_shape", shape
    elif isinstance(module, nn.Embedding):
        yield "embedding_dim", shape[1]
    elif isinstance(module, nn.PReLU):
        yield "num_parameters", shape[0]
    elif len(shape) == 2 and hasattr(module, "nf"):  # a linear layer with a transposed weight, as GPT-2's
        yield from (("nx", shape[0]), ("nf", shape[1]))
    elif len(shape) == 1 and isinstance(getattr(module, "normalized_shape", None), tuple):
        yield "normalized_shape", shape


def _conv_sizes(
    sizes: Sizes, prefix: str, module: nn.modules.conv._ConvNd, shape: tuple[int, ...]
) -> Iterator[tuple[str, int]]:
    groups = module.groups
    name = f"{prefix}.weight" if prefix else "weight"
    if sizes.whole_groups.get(name, sizes.whole_groups.get(prefix, False)):  # by module if it is computed
        groups = groups * shape[0] // (module.in_channels if module.transposed else module.out_channels)
    yield "groups", groups
    made, read = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    yield made, shape[0]
    yield read, shape[1] * groups


def named_sizes(sizes: Sizes) -> Iterator[list[Change]]:
    """Attributes by the names that models use, from the surest set to the largest."""
    sure = [
        change
        for name, heads in sizes.attentions.items()
        for change in _head_sizes(sizes.modules[name], heads)
    ]
    hidden = sure + _width_sizes(sizes, HIDDEN, sure)
    yield sure
    if len(hidden) > len(sure):
        yield hidden
    loose = hidden + _loose_head_sizes(sizes) + _width_sizes(sizes, LOOSE, hidden)
    if len(loose) > len(hidden):
        yield loose


def _head_sizes(module: nn.Module, heads: tuple[int, int, int, int, int]) -> list[Change]:
    queries, new_queries, keys, new_keys, width = heads
    values = [
        (HEADS, queries, new_queries),
        (KEY_HEADS, keys, new_keys),
        (SHARED, queries // keys, new_queries // new_keys),
        (WIDTHS, queries * width, new_queries * width),
        (KEY_WIDTHS, keys * width, new_keys * width),
    ]
    return [
        (module, name, new)
        for names, old, new in values
        for name in names
        if old != new and _number(module, name) == old
    ]


def _loose_head_sizes(sizes: Sizes) -> list[Change]:
    return [
        (sizes.modules[name], attribute, heads[1] * heads[4])
        for name, heads in sizes.attentions.items()
        for attribute in LOOSE
        if _number(sizes.modules[name], attribute) == heads[0] * heads[4]
    ]


def _width_sizes(sizes: Sizes, names: tuple[str, ...], taken: list[Change]) -> list[Change]:
    """Attributes of a changed layer's parents that are as large as a dimension that changed."""
    known = {(id(module), name) for module, name, _ in taken}
    found: dict[tuple[int, str], Change] = {}
    for tensor_name, dims in sizes.changes.items():
        owner = tensor_name.rpartition(".")[0]
        for prefix in (owner, owner.rpartition(".")[0]):
            module = sizes.modules.get(prefix)
            if module is None:
                continue
            for attribute in names:
                for old, new in dims.values():
                    if _number(module, attribute) == old and (id(module), attribute) not in known:
                        found[id(module), attribute] = (module, attribute, new)
    return list(found.values())


def _number(module: nn.Module, name: str) -> int | None:
    value = module.__dict__.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
