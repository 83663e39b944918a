"""Norms, gated activations and the vocabulary loss, forward and backward, against torch's own ways.

    python bench_ops.py [--repeats 15] [--json FILE] [--threads 2]

Rows of a stream of 8 x 256 tokens, width 256, and of a single token being decoded without gradients.
The peer of `rms_norm` is `F.rms_norm`, the limit is torch's `layer_norm`, one fused loop each way. The
vocabulary loss has 8 x 1,024 tokens, width 512, 32,000 words; its peer is `F.cross_entropy` of all
logits, its limit the three matrix products. Peak memory is what the largest resident size of a fresh
process grows by, gradients included.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_nn import geglu, layer_norm, linear_cross_entropy, rms_norm, swiglu

TOKENS, WIDTH, FF = 8 * 256, 256, 682
LOSS_TOKENS, LOSS_WIDTH, WORDS = 8 * 1024, 512, 32_000
DTYPES = (torch.float32, torch.bfloat16)
CALLS = 2000  # of a single row, in one measure

Function = Callable[..., Tensor]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def both_ways(function: Function, arguments: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """One pass forward and backward."""

    def step() -> tuple[Tensor, ...]:
        y = function(*arguments)
        return (y.detach(), *torch.autograd.grad(y, arguments, torch.ones_like(y)))

    return step


def many(function: Function, arguments: tuple[Tensor, ...]) -> Callable[[], None]:
    """Calls without gradients, where what a call costs is what counts."""

    def step() -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                function(*arguments)

    return step


def compare(
    case: str, ours: Function, peer: Function, limit: Function, shapes: list[tuple[int, ...]], repeats: int
) -> list[dict[str, Any]]:
    rows = []
    for dtype in DTYPES:
        for tokens, timed, per in ((TOKENS, both_ways, 1), (1, many, CALLS)):
            full = [(tokens, *shape[1:]) if len(shape) > 1 else shape for shape in shapes]
            arguments = tuple(torch.randn(shape).to(dtype).requires_grad_() for shape in full)
            torch.testing.assert_close(ours(*arguments), peer(*arguments), rtol=2e-2, atol=2e-2)
            steps = [timed(function, arguments) for function in (ours, peer, limit)]
            mine, other, best = medians(repeats, *(partial(seconds, step) for step in steps))
            rows.append(
                row(
                    f"{case}, {name(dtype)}, {'training' if per == 1 else 'one row'}",
                    ours=1e6 * mine / per,
                    peers={"torch": 1e6 * other / per},
                    limit=1e6 * best / per,
                    unit="us",
                )
            )
    return rows


def gated(activation: Callable[[Tensor], Tensor]) -> Function:
    def function(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return activation(gate) * up

    return function


def small_ops(repeats: int) -> list[dict[str, Any]]:
    def torch_layer_norm(x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(x, weight.shape, weight, None, 1e-6)

    norm, halves = [(TOKENS, WIDTH), (WIDTH,)], [(TOKENS, 2 * FF)]
    return [
        *compare(
            "rms_norm",
            lambda x, weight: rms_norm(x, weight, 1e-6),
            lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-6),
            torch_layer_norm,
            norm,
            repeats,
        ),
        *compare(
            "layer_norm",
            lambda x, weight: layer_norm(x, weight, None, 1e-6),
            torch_layer_norm,
            torch_layer_norm,
            norm,
            repeats,
        ),
        *compare("swiglu", swiglu, gated(F.silu), gated(torch.relu), halves, repeats),
        *compare("geglu", geglu, gated(F.gelu), gated(torch.relu), halves, repeats),
    ]


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def loss_step(function: Function, dtype: torch.dtype, tokens: int, words: int) -> Callable[[], list[Tensor]]:
    """The loss and its gradients, parameters in float32, products in ``dtype``."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, LOSS_WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(words, LOSS_WIDTH, generator=generator) * LOSS_WIDTH**-0.5).requires_grad_()
    targets = torch.randint(words, (tokens,), generator=generator)

    def step() -> list[Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = function(hidden, weight, targets)
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    return step


def products(dtype: torch.dtype) -> Callable[[], None]:
    hidden, weight = torch.randn(256, LOSS_WIDTH, dtype=dtype), torch.randn(WORDS, LOSS_WIDTH, dtype=dtype)

    def multiply() -> None:
        for _ in range(LOSS_TOKENS // 256):
            logits = hidden @ weight.T
            torch.mm(logits, weight)
            torch.mm(logits.T, hidden)

    return multiply


def peak_bytes(function: Function, dtype: torch.dtype, threads: int) -> int:
    """How much a step adds to the largest resident size of this process, which does nothing else."""
    torch.set_num_threads(threads)
    loss_step(function, dtype, 8, 16)()  # loads what is loaded on first use
    step = loss_step(function, dtype, LOSS_TOKENS, WORDS)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def vocabulary_loss(repeats: int) -> list[dict[str, Any]]:
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for dtype in DTYPES:
            ours, theirs = (
                pool.apply(peak_bytes, (function, dtype, torch.get_num_threads()))
                for function in (linear_cross_entropy, plain_loss)
            )
            case = f"vocabulary loss, {name(dtype)}, peak memory"
            rows.append(row(case, ours=ours / 2**20, peers={"torch": theirs / 2**20}, unit="MiB"))
    for dtype in DTYPES:
        steps = [loss_step(f, dtype, LOSS_TOKENS, WORDS) for f in (linear_cross_entropy, plain_loss)]
        for one, other in zip(*(step() for step in steps), strict=True):
            scale = other.abs().max()
            torch.testing.assert_close(one / scale, other / scale, rtol=2e-2, atol=2e-2)
        timed = (partial(seconds, step) for step in (*steps, products(dtype)))
        ours, theirs, limit = medians(max(1, repeats // 5), *timed)
        case = f"vocabulary loss, {name(dtype)}, time"
        rows.append(row(case, ours=ours, peers={"torch": theirs}, limit=limit, unit="s"))
    return rows


def rows(*, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    return [*vocabulary_loss(repeats), *small_ops(repeats)]


if __name__ == "__main__":
    run(parser(__doc__, repeats=15), rows)
