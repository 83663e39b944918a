"""Kernels that fail when they are told to, as those that cannot be compiled."""

from __future__ import annotations

import threading

import fake_kernels
import torch
from fake_kernels import LOG, Formula

from athena_core import Kernel, KernelFailed, hookimpl

FAILING: set[str] = set()  # "square", "square's backward", "square's own forward", "axpy"
MEETING: list[threading.Barrier] = []  # where threads wait for each other before they fail


def _fail(what: str) -> None:
    if what in FAILING:
        LOG.append("failed")
        for barrier in MEETING:
            barrier.wait(timeout=30)
        raise KernelFailed("no compiler")


def square(x, weight, eps=1e-6):
    _fail("square")
    return fake_kernels.kernel(x, weight, eps)


class SquareFormula(Formula):
    @staticmethod
    def backward(ctx, grad):
        _fail("square's backward")
        return Formula.backward(ctx, grad)


class OwnForward(fake_kernels.OwnForward):
    @staticmethod
    def forward(ctx, x, weight, eps):
        _fail("square's own forward")
        return fake_kernels.OwnForward.forward(ctx, x, weight, eps)


@torch.library.custom_op("athena_test::frail_slope", mutates_args=())
def frail_slope(x: torch.Tensor) -> torch.Tensor:
    raise KernelFailed("no compiler")


frail_slope.register_fake(torch.empty_like)


class Traced(Formula):
    """A formula that a compiler sees through, down to an op that cannot run."""

    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return frail_slope(x) * grad, (x.square() * grad).sum(0), None


def axpy(values, steps, rate=1.0):
    _fail("axpy")
    fake_kernels.axpy_kernel(values, steps, rate)


class Frail:
    @hookimpl
    def athena_kernels(self):
        return [
            Kernel(
                "athena_test::square", "cpu", "frail_kernels:square", autograd="frail_kernels:SquareFormula"
            ),
            Kernel("athena_test::axpy", "cpu", "frail_kernels:axpy"),
        ]
