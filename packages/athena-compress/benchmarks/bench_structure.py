"""Half of a model's structure removed, beside a dense model built at that size; and the dependency graph.

    python bench_structure.py [--repeats 15] [--json FILE] [--threads 2]

Half the channels of a residual network, half the heads and neurons of a ViT and of a decoder with grouped
queries, and half the layers of each are removed by `Pruner`. The same class is built at the smaller sizes
from scratch, and given the pruned weights, so that outputs can be compared first; then a forward pass, and a
forward and backward pass, are timed in turn. ``over_dense`` is ours over the dense model's, ``gain`` the full
model's over ours. The last rows time `dependencies`, tracing included, on models of 200 layers with weights,
beside torch-pruning's graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_compress import Pruner, dependencies
from athena_core.testing.bench import medians, parser, row, run, seconds


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside one of 1x1 where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = normed(inputs, outputs, 3, stride), normed(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.beside = nn.Identity() if same else normed(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.beside(x))


class ResNet(nn.Module):
    """A residual network of three stages; ``blocks`` of each."""

    def __init__(self, width: int = 64, *, blocks: tuple[int, ...] = (4, 4, 4)) -> None:
        super().__init__()
        self.stem = normed(3, width, 3)
        layers, inputs = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Residual(inputs, width << stage, 2 if stage and not block else 1))
                inputs = width << stage
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.head_dim, self.causal = 64, causal
        self.query = nn.Linear(width, heads * self.head_dim)
        self.key = nn.Linear(width, kv_heads * self.head_dim)
        self.value = nn.Linear(width, kv_heads * self.head_dim)
        self.out = nn.Linear(heads * self.head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        grouped = q.shape[1] != k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, neurons: int, *, causal: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, kv_heads, causal=causal)
        self.feed = nn.Sequential(nn.Linear(width, neurons), nn.GELU(), nn.Linear(neurons, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.feed(self.norms[1](x))


class Transformer(nn.Module):
    """Blocks over tokens of a width; ``causal`` with half as many key-value heads as a decoder, or a ViT."""

    def __init__(self, heads: int = 8, neurons: int = 2048, *, blocks: int = 6, causal: bool = False) -> None:
        super().__init__()
        width, kv_heads = 512, heads // 2 if causal else heads
        self.embed = nn.Linear(48, width)
        made = [Block(width, heads, kv_heads, neurons, causal=causal) for _ in range(blocks)]
        self.blocks = nn.Sequential(*made)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[str, ...], Tensor]] = {
    "channels of a ResNet": (ResNet, partial(ResNet, 32), ("channels",), torch.zeros(4, 3, 32, 32)),
    "heads and neurons of a ViT": (
        Transformer,
        partial(Transformer, 4, 1024),
        ("heads", "neurons"),
        torch.zeros(4, 64, 48),
    ),
    "heads and neurons of a decoder": (
        partial(Transformer, causal=True),
        partial(Transformer, 4, 1024, causal=True),
        ("heads", "neurons"),
        torch.zeros(1, 256, 48),
    ),
    "layers of a decoder": (
        partial(Transformer, causal=True),
        partial(Transformer, blocks=3, causal=True),
        ("layers",),
        torch.zeros(1, 256, 48),
    ),
}


def halved(model: nn.Module, what: tuple[str, ...], x: Tensor) -> nn.Module:
    pruner = Pruner(model, x, what=what, schedule=0.5, scope=None if what == ("layers",) else "local")
    pruner.step()
    pruner.finish()
    return model


def forward(model: nn.Module, x: Tensor) -> float:
    with torch.inference_mode():
        return seconds(lambda: model(x))


def backward(model: nn.Module, x: Tensor) -> float:
    model.zero_grad()
    return seconds(lambda: model(x).square().mean().backward())


def structure(*, repeats: int) -> Iterator[dict[str, Any]]:
    for case, (full, small, what, zeros) in CASES.items():
        torch.manual_seed(0)
        x = torch.randn(zeros.shape)
        pruned, dense, whole = halved(full().eval(), what, x), small().eval(), full().eval()
        dense.load_state_dict(pruned.state_dict())
        if not torch.allclose(pruned(x), dense(x), atol=1e-5):
            raise SystemExit(f"{case}: the outputs differ from those of the dense model with these weights")
        for name, step in (("forward", forward), ("forward and backward", backward)):
            models = (pruned, dense, whole)
            for model in models:
                step(model, x)
            ours, built, before = medians(repeats, *(partial(step, model, x) for model in models))
            yield row(
                f"half the {case}, {name}",
                ours=1e3 * ours,
                peers={"dense": 1e3 * built},
                unit="ms",
                over_dense=ours / built,
                full=1e3 * before,
                gain=before / ours,
            )


def their_graph(model: nn.Module, x: Tensor) -> None:
    from torch_pruning import DependencyGraph

    DependencyGraph().build_dependency(model, example_inputs=x)


def graphs(*, repeats: int) -> Iterator[dict[str, Any]]:
    cases: dict[str, tuple[nn.Module, Tensor]] = {
        "residual network": (ResNet(8, blocks=(33, 33, 32)), torch.zeros(1, 3, 16, 16)),
        "decoder": (Transformer(4, 256, blocks=33, causal=True), torch.zeros(1, 8, 48)),
        "chain of linear layers": (
            nn.Sequential(*(nn.Linear(256, 256) for _ in range(200))),
            torch.zeros(1, 256),
        ),
    }
    for case, (model, x) in cases.items():
        layers = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model.modules())
        peers = {"bar": 5.0}
        measures = [lambda model=model, x=x: seconds(lambda: dependencies(model, x))]
        try:
            their_graph(model, x)
        except Exception as error:  # noqa: BLE001  a peer that cannot is told, and left out
            print(f"{case}: torch-pruning fails: {type(error).__name__}: {error}")
        else:
            measures.append(lambda model=model, x=x: seconds(lambda: their_graph(model, x)))
        ours, *theirs = medians(repeats, *measures)
        groups = dependencies(model, x).groups
        yield row(
            f"graph of a {case}",
            ours=ours,
            peers=peers | ({"torch-pruning": theirs[0]} if theirs else {}),
            unit="s",
            layers=layers,
            groups=len(groups),
            removable=sum(group.removable for group in groups),
        )


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    warnings.simplefilter("ignore")  # torch-pruning uses functions of torch that are deprecated
    yield from structure(repeats=repeats)
    yield from graphs(repeats=max(1, repeats // 5))


if __name__ == "__main__":
    run(parser(__doc__, repeats=15), rows)
