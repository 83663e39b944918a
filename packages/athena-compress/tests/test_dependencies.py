"""The dependency graph: which units it finds in models of many shapes, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import CASES, FlattenNet, ResNet
from torch import Tensor, nn
from transformer_models import GroupedQueryAttention, Llama, ViT

from athena_compress import dependencies, parameter_count
from athena_compress._dependency_labels import connected
from athena_compress._dependency_reshape import regrouped
from athena_compress._dependency_rules import RULES

#: name -> {group: (units, kind)} of what can be removed without further asking
REMOVABLE: dict[str, dict[str, tuple[int, str]]] = {
    "resnet": {
        "conv": (8, "channels"),
        "blocks.0.conv1": (8, "channels"),
        "blocks.1.conv1": (6, "channels"),
        "blocks.1.conv2": (16, "channels"),
        "blocks.2.conv1": (16, "channels"),
    },
    "densenet": {
        "layers.0.2": (6, "channels"),
        "layers.1.2": (4, "channels"),
        "layers.2.2": (4, "channels"),
    },
    "mobilenet": {"stem": (8, "channels"), "expand.0": (12, "channels"), "squeeze": (4, "channels")},
    "grouped": {
        "reduce": (6, "channels"),
        "wide": (4, "channels"),
        "mix": (4, "channels"),
        "spread": (6, "channels"),
        "up": (4, "channels"),
        "again": (3, "channels"),
    },
    "shufflenet": {"stem": (2, "channels")},
    "unet": {
        "down1.0": (6, "channels"),
        "down2.0": (8, "channels"),
        "up": (5, "channels"),
        "out.0": (6, "channels"),
    },
    "super-resolution": {"first": (6, "channels"), "spread": (3, "channels")},
    "flatten": {"conv": (6, "channels"), "hidden": (10, "neurons")},
    "vit": {
        "blocks.0.attention.query": (4, "heads"),
        "blocks.0.mlp.0": (20, "neurons"),
        "blocks.1.attention.qkv": (2, "heads"),
        "blocks.1.mlp.0": (12, "neurons"),
    },
    "gpt": {
        f"blocks.{layer}.{part}": units
        for layer in range(2)
        for part, units in {"attention.attend": (4, "heads"), "mlp.0": (24, "neurons")}.items()
    },
    "llama": {
        f"layers.{layer}.{part}": units
        for layer in range(2)
        for part, units in {"attention.q_proj": (3, "heads"), "mlp.gate": (20, "neurons")}.items()
    },
    "llama-multi-query": {
        f"layers.{layer}.{part}": units
        for layer in range(2)
        for part, units in {"attention.q_proj": (4, "heads"), "mlp.gate": (20, "neurons")}.items()
    },
    "two-inputs": {"image": (8, "channels"), "shared": (6, "neurons")},
    "experts": {"up": (6, "neurons")},
}


def units(groups: Any, group: str, tensor: str, dim: int) -> list[int]:
    one = next(one for one in groups.group(group).slices if (one.tensor_name, one.dim) == (tensor, dim))
    return one.units.tolist()


@pytest.mark.parametrize("name", CASES)
def test_units_of_each_model(name: str) -> None:
    model, inputs = CASES[name]()
    graph = dependencies(model, inputs)
    found = {group.name: (group.size, group.kind) for group in graph.groups if group.removable}
    assert found == REMOVABLE[name]
    names = [group.name for group in graph.groups]
    assert len(set(names)) == len(names)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for group in graph.groups:
        assert bool(group.why) != group.removable
        for one in group.slices:
            assert one.units.shape == (tensors[one.tensor_name].shape[one.dim],)
            assert set(one.units.tolist()) - {-1} == set(range(group.size))


def test_every_case_has_its_expectation() -> None:
    assert CASES.keys() == REMOVABLE.keys()


def test_a_run_leaves_the_model_as_it_was() -> None:
    model, inputs = CASES["resnet"]()
    model.train()
    model.blocks[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dependencies(model, inputs)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_hooks


def test_residual_streams_couple_what_adds_to_them() -> None:
    model, inputs = CASES["resnet"]()
    graph = dependencies(model, inputs)
    places = {(one.tensor_name, one.dim) for one in graph.group("blocks.1.conv2").slices}
    assert {
        ("blocks.1.conv2.weight", 0),
        ("blocks.1.shortcut.0.weight", 0),
        ("blocks.2.conv1.weight", 1),
        ("blocks.2.conv2.weight", 0),
        ("blocks.2.bn2.running_var", 0),
        ("head.weight", 1),
    } <= places


def test_concatenation_keeps_its_pieces_apart() -> None:
    model, inputs = CASES["densenet"]()
    graph = dependencies(model, inputs)
    assert units(graph, "layers.0.2", "head.weight", 1) == [-1] * 3 + list(range(6)) + [-1] * 8
    assert units(graph, "layers.1.2", "head.weight", 1) == [-1] * 9 + list(range(4)) + [-1] * 4


def test_a_flattened_channel_is_one_unit() -> None:
    graph = dependencies(FlattenNet(), torch.randn(1, 1, 8, 8))
    assert units(graph, "conv", "hidden.weight", 1) == [channel for channel in range(6) for _ in range(16)]


def test_heads_of_a_fused_projection() -> None:
    graph = dependencies(ViT(), torch.randn(1, 3, 8, 8))
    rows = units(graph, "blocks.1.attention.qkv", "blocks.1.attention.qkv.weight", 0)
    assert rows == ([0] * 8 + [1] * 8) * 3


def test_a_key_value_head_takes_its_query_heads_along() -> None:
    graph = dependencies(Llama(), torch.randint(30, (1, 5)))
    name = "layers.0.attention"
    assert units(graph, f"{name}.q_proj", f"{name}.q_proj.weight", 0) == [0] * 8 + [1] * 8 + [2] * 8
    assert units(graph, f"{name}.q_proj", f"{name}.k_proj.weight", 0) == [0] * 4 + [1] * 4 + [2] * 4
    assert units(graph, f"{name}.q_proj", f"{name}.o_proj.weight", 1) == [0] * 8 + [1] * 8 + [2] * 8


def test_grouped_queries_in_the_fused_kernel() -> None:
    class Attention(GroupedQueryAttention):
        def forward(self, x: Tensor) -> Tensor:
            shape = (*x.shape[:-1], -1, self.head_dim)
            q, k, v = (
                layer(x).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
            )
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.o_proj(y.transpose(1, 2).flatten(2))

    graph = dependencies(Attention(16, 6, 2, 4), torch.randn(1, 5, 16))
    assert units(graph, "q_proj", "q_proj.weight", 0) == [0] * 12 + [1] * 12
    assert units(graph, "q_proj", "v_proj.weight", 0) == [0] * 4 + [1] * 4
    graph = dependencies(Attention(16, 6, 1, 4), torch.randn(1, 5, 16))
    assert graph.group("q_proj").size == 6
    assert [one.tensor_name for one in graph.group("q_proj").slices] == ["q_proj.weight", "o_proj.weight"]


def test_grouped_queries_as_a_product_over_groups() -> None:
    class Attention(GroupedQueryAttention):
        def forward(self, x: Tensor) -> Tensor:
            batch, time, _ = x.shape
            q = self.q_proj(x).view(batch, time, -1, 3, self.head_dim)
            k, v = (layer(x).view(batch, time, -1, self.head_dim) for layer in (self.k_proj, self.v_proj))
            scores = torch.einsum("bqgrd,bkgd->bgrqk", q, k)
            y = torch.einsum("bgrqk,bkgd->bqgrd", scores.softmax(-1), v)
            return self.o_proj(y.reshape(batch, time, -1))

    graph = dependencies(Attention(16, 6, 2, 4), torch.randn(1, 5, 16))
    assert units(graph, "q_proj", "q_proj.weight", 0) == [0] * 12 + [1] * 12
    assert units(graph, "q_proj", "o_proj.weight", 1) == [0] * 12 + [1] * 12


def test_a_depthwise_channel_is_one_unit() -> None:
    model, inputs = CASES["mobilenet"]()
    graph = dependencies(model, inputs)
    assert units(graph, "expand.0", "depthwise.0.weight", 0) == list(range(12))


def test_what_a_normalisation_averages_is_said() -> None:
    group = dependencies(ViT(), torch.randn(1, 3, 8, 8)).group("patches")
    assert group.statistics
    assert not group.removable
    assert "statistics" in group.why
    assert "blocks.0.norm1" in group.why


class Chained(nn.Module):
    """A linear layer, a function, a linear layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.function, self.second = nn.Linear(3, 8), function, nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


ONES = torch.ones(8)

#: function of (5, 8) -> units of the first layer and whether they may be removed
FUNCTIONS: dict[str, tuple[Any, int, bool]] = {
    "gelu": (F.gelu, 8, True),
    "hardswish": (F.hardswish, 8, True),
    "leaky": (F.leaky_relu, 8, True),
    "in place": (lambda x: x.mul_(2).relu_(), 8, True),
    "where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), 8, True),
    "written into zeros": (lambda x: x.new_zeros(x.shape).copy_(x), 8, True),
    "normalised": (lambda x: F.normalize(x, dim=0), 8, True),
    "glu": (lambda x: F.glu(x), 4, True),
    "halves": (lambda x: x[:, :4] * x[:, 4:], 4, True),
    "maxout": (lambda x: x.view(5, 4, 2).amax(-1), 4, True),
    "stacked": (lambda x: torch.stack((x, x.tanh()), 1).flatten(1), 8, True),
    "repeated": (lambda x: x.repeat(1, 2), 8, True),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), 8, True),
    "tokens": (lambda x: x.t().unsqueeze(0).permute(0, 2, 1).squeeze(0), 8, True),
    "mixed by parts": (lambda x: torch.cat([x[:, 4:], x[:, :4].sin()], 1), 8, True),
    "softmax": (lambda x: x.softmax(-1), 8, False),
    "cumsum": (lambda x: x.cumsum(-1), 8, False),
    "sorted": (lambda x: x.sort(-1).values, 8, False),
    "flip": (lambda x: x.flip(-1), 8, False),
    "picked": (lambda x: x[:, torch.tensor([1, 0, 3])], 8, False),
    "one of them": (lambda x: x * x[:, 3:4].select(1, 0)[:, None], 8, False),
    "a constant tensor": (lambda x: x * ONES, 8, False),
    "unknown": (lambda x: torch.fft.fft(x).real, 8, False),
    "variance": (lambda x: x / x.std(-1, keepdim=True), 8, False),
    "rms": (lambda x: F.rms_norm(x, (x.shape[-1],)), 8, False),
    "empty": (lambda x: torch.cat([x, x[:, :0]], 1), 8, True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_behind_a_function(name: str) -> None:
    function, size, removable = FUNCTIONS[name]
    model = Chained(function)
    model(torch.randn(5, 3))
    group = dependencies(model, torch.randn(5, 3)).group("first")
    assert (group.size, group.removable) == (size, removable)
    assert removable or group.why


def test_parts_without_a_rule_fix_their_units_only() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True)
            self.second, self.third = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.third(self.second(self.lstm(self.first(x))[0]).relu())

    graph = dependencies(Recurrent(), torch.randn(2, 4, 3))
    assert "lstm" in graph.group("first").why
    assert [group.name for group in graph.groups if group.removable] == ["second"]


def test_tied_weights_are_one_place() -> None:
    model, inputs = CASES["gpt"]()
    graph = dependencies(model, inputs)
    stream = next(group for group in graph.groups if ("tokens.weight", 1) in _places(group))
    assert "head.weight" not in {one.tensor_name for one in stream.slices}
    vocabulary = next(group for group in graph.groups if ("tokens.weight", 0) in _places(group))
    assert not vocabulary.removable


def _places(group: Any) -> set[tuple[str, int]]:
    return {(one.tensor_name, one.dim) for one in group.slices}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.one, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        return self.one(x) if x.sum() > 0 else self.other(x)


def test_a_branch_on_values_is_an_error_that_says_where() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Branching())
    with pytest.raises(
        RuntimeError, match=r"module '1' looks at a computed value \(test_dependencies.py, line"
    ):
        dependencies(model, torch.randn(2, 3))
    assert model.training


def test_looking_at_integers_of_the_input_is_no_branch() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            if bool((tokens >= 5).any()):
                raise ValueError("no such token")
            return self.head(self.embedding(tokens))

    assert dependencies(Checked(), torch.tensor([[1, 2]])).group("embedding").removable


def test_what_the_model_raises_names_the_module() -> None:
    model, _ = CASES["resnet"]()
    with pytest.raises(RuntimeError) as caught:
        dependencies(model, torch.randn(2, 4, 8, 8))
    assert "raised by module 'conv'" in caught.value.__notes__[0]
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_fused_attention_must_be_split_first() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match=r"split_attention\(model\)"):
        dependencies(model, torch.randn(1, 3, 8))


def test_split_attention_has_heads() -> None:
    from athena_compress import split_attention

    layer = split_attention(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval())
    graph = dependencies(layer, torch.randn(1, 3, 8))
    assert [(group.size, group.kind) for group in graph.groups if group.removable] == [
        (2, "heads"),
        (16, "neurons"),
    ]


def test_inputs_as_tensor_tuple_and_mapping() -> None:
    model, inputs = CASES["two-inputs"]()

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, image: Tensor, numbers: Tensor) -> Any:
            return self.inner(image, numbers=numbers)

    graph = dependencies(Positional(), (inputs["image"], inputs["numbers"]))
    assert graph.group("inner.image").size == 8


def test_half_precision_and_double() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        graph = dependencies(ResNet().to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype))
        assert graph.group("blocks.1.conv1").size == 6


def test_a_model_without_weights_has_no_groups() -> None:
    graph = dependencies(nn.ReLU(), torch.randn(2, 3))
    assert graph.groups == []
    with pytest.raises(ValueError, match="begin with: none"):
        graph.group("first")


def test_components_equal_a_plain_union() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 7, 200):
        first, second = generator.integers(0, count, (2, count))
        parent = list(range(count))

        def find(node: int, parent: list[int] = parent) -> int:
            while parent[node] != node:
                node = parent[node]
            return node

        for one, other in zip(first, second, strict=True):
            low, high = sorted((find(int(one)), find(int(other))))
            parent[high] = low
        assert connected(count, first, second).tolist() == [find(node) for node in range(count)]
    chain = np.arange(9_999)
    assert not connected(10_000, chain[::-1], chain[::-1] + 1).any()


def test_groups_of_a_reshape() -> None:
    assert regrouped((2, 1, 6), (2, 2, 3)) == [([0], [0]), ([2], [1, 2])]
    assert regrouped((4, 6), (3, 8)) == [([0, 1], [0, 1])]
    assert regrouped((), (1,)) == []


def test_rules_name_operations_that_exist() -> None:
    missing = [
        name
        for name in RULES
        if not hasattr(torch.ops.aten, name) and not hasattr(torch.ops.aten, f"{name}_")
    ]
    assert missing == []


def test_parameter_count_counts_tied_ones_once() -> None:
    model, _ = CASES["gpt"]()
    assert parameter_count(model) == sum(p.numel() for p in set(model.parameters()))
    assert parameter_count(nn.ReLU()) == 0
