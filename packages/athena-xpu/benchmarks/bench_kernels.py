"""Every kernel on a GPU, against its reference, torch.compile and Liger-Kernel, and beside its bar.

    python bench_kernels.py [--device auto|cuda|xpu|cpu] [--only NAME] [--smoke] [--repeats 20] [--json FILE]

The bandwidth of a copy is measured first; the limit of a row is what its bytes would take at that speed,
the share how much of it is reached. Before it is timed, each kernel is compared with its reference in
float64. Times are medians by the device's own events; those above the hardware's peak are rejected. A peer
that is not there is left out. Without a GPU nothing is measured. `--device cpu --smoke` tries the script
itself, in Triton's interpreter (``TRITON_INTERPRET=1``), whose times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from kernel_bench import Bench, Row, gradient, name_of
from kernel_cases import CASES, Case
from kernel_steps import STEPS, Step, lists, steps
from torch import Tensor

import athena_compress
import athena_nn
import athena_optim
from athena_core._kernels import OPS
from athena_core.testing.bench import parser, report, row
from athena_xpu import register

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def define_ops() -> None:
    """Bring in the modules that define the ops with kernels."""
    for package, names in (
        (athena_nn, ("Decoder", "linear_cross_entropy", "rotary", "swiglu")),
        (athena_optim, ("AdamW", "Lamb")),
        (athena_compress, ("Int8Linear", "pattern_mask")),
    ):
        for name in names:
            getattr(package, name)


def memory_bound(bench: Bench, case: Case, dtype: torch.dtype) -> Iterator[Row]:
    """Forward and backward of an op whose time is that of memory."""
    args, reference = case.make(bench.draw(dtype)), OPS[case.op].reference
    bench.check(case, args, dtype)
    peers: dict[str, Callable[[], Any]] = {
        "ours": lambda: (OPS[case.op].overload, args),
        "reference": lambda: (bench.plain(reference), args),
        "compiled": lambda: (bench.compiled(reference), args),
    }
    if bench.liger and case.liger:
        peers["Liger"] = partial(case.liger, bench.liger, args)

    def forward(make: Callable[[], Any]) -> Callable[[], Any]:
        function, given = make()
        return partial(function, *given)

    def backward(make: Callable[[], Any]) -> Callable[[], Any]:
        function, given = make()
        return gradient(function, given, case.wanted if given is args else range(len(given)))

    bars: dict[str, Any] = {"share": case.bar, "ratios": {"compiled": 1.0, "Liger": 1.0} if case.bar else {}}
    shape = "x".join(map(str, args[0].shape))
    title = f"{case.name or case.op.partition('::')[2]}, {name_of(dtype)}, {shape}"
    with torch.no_grad():
        calls = bench.usable({name: partial(forward, make) for name, make in peers.items()})
        yield bench.timed(f"{title}, forward", calls, moved=case.forward(args), **bars)
    calls = bench.usable({name: partial(backward, make) for name, make in peers.items()})
    yield bench.timed(f"{title}, backward", calls, moved=case.backward(args), **bars)


def check_step(bench: Bench, step: Step, dtype: torch.dtype, *, size: int) -> None:
    """Compare a step over three parameters with the reference's in float64."""
    given = lists(bench.draw(dtype), 3, size)
    exact = bench.exact(given)
    OPS[step.op].reference(*exact, steps(exact[0]), *step.options)
    bench.kernel(step.op, *given, steps(given[0]), *step.options)
    bench.compare(step.op, dtype, given, exact)


def optimizer(bench: Bench, step: Step, dtype: torch.dtype) -> Iterator[Row]:
    """A billion parameters in float32, a quarter in other dtypes; fewer where memory lacks."""
    draw, name = bench.draw(dtype), step.op.partition("::")[2]
    check_step(bench, step, dtype, size=1_237)
    size = draw.size(2**26, 300)
    # Beside the four lists: the updates of LAMB's reference, their norms' squares, and what compilers hold.
    room = int(0.8 * bench.clock.free_bytes()) // (8 * size * dtype.itemsize)
    count = min(15 if dtype == torch.float32 else 4, room) if not bench.smoke else 3
    if count < 1:
        raise torch.OutOfMemoryError(f"no room for {size} parameters")
    given = lists(draw, count, size)
    times = steps(given[0])
    functions = {
        "ours": lambda: OPS[step.op].overload(*given, times, *step.options),
        "reference": partial(bench.plain(OPS[step.op].reference), *given, times, *step.options),
        "compiled": partial(bench.compiled(step.plain), *given),
    }
    title = f"{name}, {name_of(dtype)}, {count} x {size} parameters"
    moved = step.elements_moved * dtype.itemsize * count * size
    yield bench.timed(title, functions, moved=moved, share=0.85, ratios={"compiled": 1.0})


def vocabulary_loss(bench: Bench, dtype: torch.dtype) -> Iterator[Row]:
    """Loss and gradients of 8 x 2,048 tokens over 128 k words; fewer where plain logits would not fit."""
    op = "athena_nn::linear_cross_entropy"
    draw = bench.draw(dtype)
    wide, words, tokens = draw.size(4_096, 16), draw.size(128 * 1_024, 50), draw.size(8 * 2_048, 9)

    def make(tokens: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
        return draw.floats(tokens, wide), wide**-0.5 * draw.floats(words, wide), draw.integers(words, tokens)

    def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets)

    def both(function: Callable[..., Tensor], args: tuple[Tensor, ...]) -> Callable[[], Any]:
        leaves = [one.detach().requires_grad_() for one in args[:2]]
        return lambda: torch.autograd.grad(function(*leaves, args[2]), leaves)

    small = make(min(512, tokens), min(1_000, words))
    expected = both(lambda h, w, t: F.cross_entropy(h @ w.T, t), bench.exact(small))()
    bench.compare(op, dtype, both(partial(bench.kernel, op), small)(), expected)
    while tokens > 1 and 20 * tokens * words > bench.clock.free_bytes():
        tokens //= 2
    args = make(tokens, words)
    functions = {"ours": both(OPS[op].overload, args), "plain": both(plain, args)}
    if bench.liger:
        functions["Liger"] = both(bench.liger.liger_fused_linear_cross_entropy, args)
    title = f"linear_cross_entropy, {name_of(dtype)}, {tokens} tokens, {words} words"
    yield bench.timed(f"{title}, both ways", functions, ratios={"Liger": 1.0})
    ours, others = (max(1, bench.clock.peak_bytes(functions[name])) / 2**20 for name in ("ours", "plain"))
    verdict = bench.judged([] if others >= 10 * ours else ["memory"])
    peers = {"plain": others}
    yield row(f"{title}, memory", ours=ours, peers=peers, unit="MiB", bar=["0.1 x plain"], verdict=verdict)


def int8_product(bench: Bench, dtype: torch.dtype) -> Iterator[Row]:
    """A product whose input is quantized within, against torch's in the input's dtype."""
    op = "athena_compress::int8_linear"
    draw = bench.draw(dtype)
    size = draw.size(4_096, 40)
    x, weight = draw.floats(size, size), draw.integers(255, size, size).sub(127).to(torch.int8)
    scale = torch.full((size,), 0.01, device=bench.device)
    wide = (scale[:, None] * weight).to(dtype)
    few = x[: min(64, size)]
    bench.compare(
        op, dtype, bench.kernel(op, few, weight, scale), OPS[op].reference(*bench.exact((few, weight, scale)))
    )
    operations = 2.0 * size**3
    (plain,) = bench.clock.medians(bench.repeats, {"torch": lambda: F.linear(x, wide)}).values()
    functions = {"ours": lambda: OPS[op].overload(x, weight, scale), "torch": lambda: F.linear(x, wide)}
    functions["reference"] = partial(bench.plain(OPS[op].reference), x, weight, scale)
    with torch.no_grad():
        yield bench.timed(
            f"int8_linear, {name_of(dtype)}, {size} cubed",
            functions,
            operations=operations,
            throughput=4 * operations / plain,  # int8 units are twice as fast; torch reaches half of its own
            ratios={"torch": 1.3},
        )


def smallest_mask(bench: Bench, dtype: torch.dtype) -> Iterator[Row]:
    """The mask that prunes half of many scores."""
    op = "athena_compress::smallest"
    draw = bench.draw(dtype)
    scores = draw.floats(draw.size(2**26, 99))
    count = len(scores) // 2
    expected = bench.plain(OPS[op].reference)(scores, count)
    assert torch.equal(bench.kernel(op, scores, count), expected), f"{op}: another mask"
    functions = {
        "ours": lambda: OPS[op].overload(scores, count),
        "reference": partial(bench.plain(OPS[op].reference), scores, count),
    }
    moved = len(scores) * (scores.itemsize + 1)
    yield bench.timed(f"smallest, {name_of(dtype)}, {len(scores)} scores", functions, moved=moved)


def plan() -> Iterator[tuple[str, torch.dtype, Callable[[Bench], Iterator[Row]]]]:
    """All rows, each by its op, as a function of the bench."""
    for dtype in DTYPES:
        for case in CASES:
            yield case.op, dtype, partial(memory_bound, case=case, dtype=dtype)
        for step in STEPS:
            yield step.op, dtype, partial(optimizer, step=step, dtype=dtype)
        yield "athena_compress::smallest", dtype, partial(smallest_mask, dtype=dtype)
    yield "athena_nn::linear_cross_entropy", torch.bfloat16, partial(vocabulary_loss, dtype=torch.bfloat16)
    yield "athena_compress::int8_linear", torch.bfloat16, partial(int8_product, dtype=torch.bfloat16)


def rows(bench: Bench, only: str) -> Iterator[Row]:
    """A row that cannot be measured says why; the others are measured all the same."""
    gigabytes = bench.bandwidth / 1e9
    yield {"case": "copy", "ours": gigabytes, "unit": "GB/s", "verdict": "measured"}
    for op, dtype, measure in plan():
        if only not in op:
            continue
        try:
            for made in measure(bench):
                print(f"{made['case']}: {made['verdict']}", file=sys.stderr, flush=True)
                yield made
        except Exception as error:  # noqa: BLE001  # whatever it is, the other rows wait
            traceback.print_exc()
            yield {"case": f"{op}, {name_of(dtype)}", "verdict": f"error: {type(error).__name__}: {error}"}
        bench.clock.forget()


def chosen(device: str) -> torch.device | None:
    """The device asked for; "auto": the accelerator, if it is one for which Triton compiles."""
    if device != "auto":
        return torch.device(device)
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None and found.type in ("cuda", "xpu") else None


def options() -> argparse.ArgumentParser:
    made = parser(__doc__, repeats=20)
    made.add_argument("--device", choices=("auto", "cuda", "xpu", "cpu"), default="auto")
    made.add_argument("--only", default="", metavar="NAME", help="rows of ops whose names hold this")
    made.add_argument("--smoke", action="store_true", help="tiny sizes, to try the script")
    return made


def main() -> int:
    """Returns 1 if a row could not be measured."""
    given = options().parse_args()
    device = chosen(given.device)
    if device is None:
        print("not measured: torch sees neither a CUDA nor an XPU device here")
        return 0
    if device.type == "cpu" and not (given.smoke and os.environ.get("TRITON_INTERPRET") == "1"):
        print("not measured: on the CPU kernels run with --smoke and TRITON_INTERPRET=1 alone")
        return 0
    define_ops()
    if device.type != "xpu":
        register(device.type)
    found = list(rows(Bench(device, repeats=given.repeats, smoke=given.smoke), given.only))
    report(found, given.json)
    return int(any(one["verdict"].startswith("error") for one in found))


if __name__ == "__main__":
    sys.exit(main())
