"""What calling an op costs more than calling its body, in microseconds.

The op and the body run in turn, in blocks; a row is the median of the blocks' differences, in processor
time of the one thread, which other work on the machine changes least.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time

import torch

import athena_core._kernels as ops
from athena_core import Kernel, op
from athena_core.testing._kernels import offered
from athena_core.testing.bench import medians, parser, report, row

CALLS = 4000
RESULT = torch.zeros(8)


def body(x, weight, bias, scale, eps=1e-6):
    return RESULT


def grad_body(x, weight, bias, scale, eps=1e-6):
    return RESULT.detach()


def change(values, gradients, rate=1.0):
    return None


class Formula:
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx, grad):
        return grad, grad, grad, grad, None


class Bare(torch.autograd.Function):
    """The same formula, with nothing in between."""

    @staticmethod
    def forward(ctx, *args):
        Formula.setup_context(ctx, args, None)
        return grad_body(*args)

    backward = staticmethod(Formula.backward)


PARAMETERS = "Tensor x, Tensor weight, Tensor bias, Tensor scale, float eps=1e-6"
plain = op(f"athena_bench::plain({PARAMETERS}) -> Tensor", reference=body)
graded = op(f"athena_bench::graded({PARAMETERS}) -> Tensor", reference=grad_body)
changing = op(
    "athena_bench::changing(Tensor(a!)[] values, Tensor[] gradients, float rate=1.0) -> ()", reference=change
)


def seconds(function: Callable[..., object], args: tuple[object, ...], calls: int) -> float:
    start = thread_time()
    for _ in range(calls):
        function(*args)
    return (thread_time() - start) / calls


def overhead(
    repeats: int, ours: Callable[..., object], bare: Callable[..., object], args: tuple, calls: int = CALLS
) -> float:
    """Return what one call of ``ours`` takes longer than one of ``bare``."""
    for function in (ours, bare):
        seconds(function, args, calls // 4 + 1)
    (found,) = medians(repeats, lambda: seconds(ours, args, calls) - seconds(bare, args, calls))
    return 1e6 * found


def cases(repeats: int) -> list[dict[str, object]]:
    few = (*(torch.randn(8) for _ in range(4)), 1e-5)
    wanted = (*(torch.randn(8, requires_grad=True) for _ in range(4)), 1e-5)
    many = ([torch.randn(8) for _ in range(500)], [torch.randn(8) for _ in range(500)], 0.5)
    for name in ("plain", "graded", "changing"):
        ops.OPS[f"athena_bench::{name}"].claims = {}  # as where no plugin offers a kernel
    rows = [
        ("no kernel, 4 tensors", overhead(repeats, plain, body, few), 1.0),
        ("no kernel, lists of 1000", overhead(repeats, changing, change, many), 1.0),
    ]
    autograd = f"{__name__}:Formula"
    with offered(Kernel("athena_bench::plain", "xpu", f"{__name__}:body", autograd=autograd)):
        rows.append(("a kernel for another device", overhead(repeats, plain, body, few), 1.0))
    with offered(
        Kernel("athena_bench::plain", "cpu", f"{__name__}:body", autograd=autograd),
        Kernel("athena_bench::graded", "cpu", f"{__name__}:grad_body", autograd=autograd),
        Kernel("athena_bench::changing", "cpu", f"{__name__}:change"),
    ):
        rows.append(("kernel, 4 tensors", overhead(repeats, plain, body, few), 5.0))
        with torch.inference_mode():
            rows.append(("kernel, inference mode", overhead(repeats, plain, body, few), 5.0))
        gradient = overhead(repeats, graded, Bare.apply, wanted)
        rows.append(("kernel, gradient, beside a bare autograd.Function", gradient, 5.0))
        each = overhead(repeats, changing, change, many, CALLS // 40) / 1000
        rows.append(("kernel, lists of 1000, a tensor", each, 0.2))
    return [row(case, ours=value, peers={"bar": bar}, unit="us") for case, value, bar in rows]


if __name__ == "__main__":
    options = parser(__doc__, repeats=41).parse_args()
    torch.set_num_threads(1)
    report(cases(options.repeats), options.json)
