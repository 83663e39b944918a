"""What the benchmarks of steps share: parameters, the memory limit, and rows in which all step in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from athena_core.testing.bench import medians, row, seconds

Make = Callable[[list[nn.Parameter]], Optimizer]
SMALL = [(1000,)] * 2000


def decoder_shapes(
    width: int = 512, layers: int = 8, words: int = 8000, ff: int = 1376
) -> list[tuple[int, ...]]:
    """Embedding, and 12 tensors a layer of a decoder: 97 tensors, 29.3 M elements."""
    layer = [(width, width)] * 4 + [(ff, width)] * 3 + [(width,)] * 5
    return [(words, width), *layer * layers]


def bandwidth() -> float:
    """Bytes a second read and written by adding 256 MB to another 256 MB in place, as an optimizer does."""
    source, target = torch.ones(2**26), torch.ones(2**26)
    return 3 * source.nbytes / min(seconds(lambda: target.add_(source)) for _ in range(7))


def parameters(shapes: Iterable[tuple[int, ...]]) -> list[nn.Parameter]:
    """The same parameters and gradients each time."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for shape in shapes:
        drawn.append(nn.Parameter(torch.randn(shape, generator=generator)))
        drawn[-1].grad = torch.randn(shape, generator=generator)
    return drawn


def compare(
    case: str,
    shapes: list[tuple[int, ...]],
    ours: Make,
    peers: Mapping[str, Make],
    *,
    repeats: int,
    speed: float,
    bytes_per_parameter: float,
    equal: Mapping[str, float],
    step: Callable[[Any], Any] = lambda optimizer: optimizer.step(),
    steps: int = 1,
) -> dict[str, Any]:
    """Time a step of ours and of each peer in turn, on parameters of their own, in one process.

    Args:
        bytes_per_parameter: what a step must read and write.
        equal: how far three steps of a peer may end from three of ours, for those that compute the same.
        step: how a step is taken.
        steps: how many are timed together, of optimizers that do more in some of them.
    """
    made = {name: make(parameters(shapes)) for name, make in {"ours": ours, **peers}.items()}
    for optimizer in made.values():
        for _ in range(3):
            step(optimizer)
    held = {name: [p for g in one.param_groups for p in g["params"]] for name, one in made.items()}
    for name, tolerance in equal.items():
        worst = max((a - b).abs().max().item() for a, b in zip(held["ours"], held[name], strict=True))
        if not worst <= tolerance:
            raise SystemExit(f"{case}: ends {worst} from {name}, more than {tolerance}")

    def duration(optimizer: Optimizer) -> float:
        return seconds(lambda: [step(optimizer) for _ in range(steps)]) / steps

    mine, *others = medians(repeats, *(partial(duration, optimizer) for optimizer in made.values()))
    count = sum(p.numel() for p in held["ours"])
    return row(
        f"{case}, {count / 1e6:.1f} M in {len(shapes)} tensors",
        ours=1e3 * mine,
        peers={name: 1e3 * time for name, time in zip(peers, others, strict=True)},
        limit=1e3 * count * bytes_per_parameter / speed,
        unit="ms",
    )
