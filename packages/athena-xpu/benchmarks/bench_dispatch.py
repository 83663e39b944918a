"""What the dispatch of an op with a kernel costs beyond the kernel's own launch, in microseconds.

The bodies do nothing, so that a call through the op less a call of the body is the dispatch: torch's
dispatcher, the core's choice between kernel and reference, ``supports``, autograd's bookkeeping. Where a
gradient is wanted, a bare `autograd.Function` with the same body is what is taken off, as any kernel with a
gradient needs one. ``torch`` is what torch's dispatcher alone takes for the same op, through an
implementation in Python that does nothing either. Times are of the processor, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import thread_time
from typing import Any

import torch
from torch import Tensor

from athena_core import Kernel, op
from athena_core.testing._kernels import offered
from athena_core.testing.bench import medians, parser, row, run

CALLS = 4000
RESULT = torch.zeros(8)
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
COUNTS = (1, 2, 4)


def returned(*args: Any) -> Tensor:
    return RESULT.detach()


# One body for each number of tensors, since the core asks for the schema's parameters.
def run_1(x, eps=1e-6):
    return RESULT.detach()


def run_2(x, weight, eps=1e-6):
    return RESULT.detach()


def run_4(x, weight, bias, residual, eps=1e-6):
    return RESULT.detach()


def supports_1(x, eps=1e-6):
    return x.dtype in DTYPES and x.is_contiguous()


def supports_2(x, weight, eps=1e-6):
    return x.dtype in DTYPES and x.is_contiguous()


def supports_4(x, weight, bias, residual, eps=1e-6):
    return x.dtype in DTYPES and x.is_contiguous()


class Formula:
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.tensors = len(inputs) - 1
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    def backward(ctx, grad):
        return *([grad] * ctx.tensors), None


class Bare(torch.autograd.Function):
    """The same formula, with nothing in between."""

    @staticmethod
    def forward(ctx, *args):
        Formula.setup_context(ctx, args, None)
        return returned(*args)

    backward = staticmethod(Formula.backward)


def change(values, gradients, moments, rate=1.0):
    return None


def supports_lists(values, gradients, moments, rate=1.0):
    return values[0].dtype in DTYPES


PARAMETERS = {1: "Tensor x", 2: "Tensor x, Tensor weight"}
PARAMETERS[4] = f"{PARAMETERS[2]}, Tensor bias, Tensor residual"
BODIES = {1: run_1, 2: run_2, 4: run_4}
OPS = {
    n: op(f"athena_bench::of_{n}({PARAMETERS[n]}, float eps=1e-6) -> Tensor", reference=BODIES[n])
    for n in COUNTS
}
LISTS = "Tensor(a!)[] values, Tensor[] gradients, Tensor(b!)[] moments, float rate=1.0"
changing = op(f"athena_bench::changing({LISTS}) -> ()", reference=change)

LIBRARY = torch.library.Library("athena_bench_torch", "FRAGMENT")
for n in COUNTS:
    LIBRARY.define(f"of_{n}({PARAMETERS[n]}, float eps=1e-6) -> Tensor")
    LIBRARY.impl(f"of_{n}", returned, "CPU")
LIBRARY.define(f"changing({LISTS}) -> ()")
LIBRARY.impl("changing", change, "CPU")


def seconds(function: Callable[..., object], args: tuple[object, ...], calls: int) -> float:
    start = thread_time()
    for _ in range(calls):
        function(*args)
    return (thread_time() - start) / calls


def beyond(
    repeats: int,
    bare: Callable[..., object],
    *functions: Callable[..., object],
    args: tuple[Any, ...],
    calls: int = CALLS,
) -> list[float]:
    """What one call of each function takes longer than one of ``bare``, the median of all repeats."""
    for function in (bare, *functions):
        seconds(function, args, calls // 4 + 1)

    def measure(function: Callable[..., object]) -> Callable[[], float]:
        return lambda: 1e6 * (seconds(function, args, calls) - seconds(bare, args, calls))

    return medians(repeats, *map(measure, functions))


def of_tensors(repeats: int) -> Iterator[dict[str, Any]]:
    for n in COUNTS:
        args = (*(torch.randn(8) for _ in range(n)), 1e-5)
        wanted = (*(torch.randn(8, requires_grad=True) for _ in range(n)), 1e-5)
        ours = OPS[n]
        torchs = getattr(torch.ops.athena_bench_torch, f"of_{n}").default
        offer = Kernel(
            f"athena_bench::of_{n}",
            "cpu",
            f"{__name__}:run_{n}",
            supports=f"{__name__}:supports_{n}",
            autograd=f"{__name__}:Formula",
        )
        with offered(offer):
            found, floor = beyond(repeats, BODIES[n], ours, torchs, args=args)
            yield row(f"{n} tensors", ours=found, peers={"bar": 5.0}, unit="us", torch=floor)
            with torch.inference_mode():
                found, floor = beyond(repeats, BODIES[n], ours, torchs, args=args)
            yield row(f"{n} tensors, inference mode", ours=found, peers={"bar": 5.0}, unit="us", torch=floor)
            (found,) = beyond(repeats, Bare.apply, ours, args=wanted)
            yield row(f"{n} tensors, gradient", ours=found, peers={"bar": 5.0}, unit="us")


def of_lists(repeats: int, length: int) -> Iterator[dict[str, Any]]:
    args = (*([torch.randn(8) for _ in range(length)] for _ in range(3)), 0.5)
    tensors, calls = 3 * length, max(1, CALLS * 12 // (3 * length))
    torchs = torch.ops.athena_bench_torch.changing.default
    offer = Kernel(
        "athena_bench::changing", "cpu", f"{__name__}:change", supports=f"{__name__}:supports_lists"
    )
    with offered(offer), torch.no_grad():
        found, floor = beyond(repeats, change, changing, torchs, args=args, calls=calls)
    case = f"3 lists of {length}, a tensor"
    yield row(case, ours=found / tensors, peers={"bar": 0.2}, unit="us", torch=floor / tensors)


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    yield from of_tensors(repeats)
    for length in (10, 100, 1000):
        yield from of_lists(repeats, length)


if __name__ == "__main__":
    run(parser(__doc__, repeats=41), rows)
