"""Ops with plain references, kernels for them, and kernels with one fault each."""

from __future__ import annotations

import torch

from athena_core import KernelFailed, op

LOG: list[str] = []
TABLE = torch.arange(3.0)  # a constant made on import, as many kernels have


def _samples(device, dtype, generator):
    for shape in ((0, 4), (1, 1), (3, 7), (2, 5, 33), (4, 64)):
        x = torch.randn(shape, generator=generator).to(device, dtype)
        yield x, torch.randn(shape[-1], generator=generator).to(device, dtype), 0.5


def _reference(x, weight, eps=1e-6):
    LOG.append("reference")
    return x * x * weight + eps


square = op(
    "athena_test::square(Tensor x, Tensor weight, float eps=1e-6) -> Tensor",
    reference=_reference,
    samples=_samples,
)


def kernel(x, weight, eps=1e-6):
    LOG.append("kernel")
    return x.square().mul_(weight).add_(eps)


def supports(x, weight, eps=1e-6):
    return x.dtype == torch.float32


class Formula:
    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad):
        LOG.append("formula")
        x, weight = ctx.saved_tensors
        grad_weight = (x.square() * grad).sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None
        return 2 * x * weight * grad, grad_weight, None


class OwnForward:
    """Makes the output and the gradients at once, through an op, as a compiler asks."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        LOG.append("own forward")
        assert len(ctx.needs_input_grad) == 3
        output, *slopes = square_with_slopes(x, weight, eps)
        ctx.save_for_backward(slopes[0], *slopes[1:] if ctx.needs_input_grad[1] else ())
        ctx.shape = weight.shape
        return output

    @staticmethod
    def backward(ctx, grad):
        slope, *slope_of_weight = ctx.saved_tensors
        grad_weight = (slope_of_weight[0] * grad).sum_to_size(ctx.shape) if slope_of_weight else None
        return slope * grad, grad_weight, None


@torch.library.custom_op("athena_test::square_with_slopes", mutates_args=())
def square_with_slopes(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return x * x * weight + eps, 2 * x * weight, x * x


@square_with_slopes.register_fake
def _(x, weight, eps):
    return torch.empty_like(x * weight), torch.empty_like(x * weight), torch.empty_like(x)


class FailingForward(OwnForward):
    @staticmethod
    def forward(ctx, x, weight, eps):
        raise KernelFailed("no compiler")


class ForwardOfOtherValue(OwnForward):
    @staticmethod
    def forward(ctx, x, weight, eps):
        OwnForward.forward(ctx, x, weight, eps)
        return x * x * weight


def wrong_value(x, weight, eps=1e-6):
    return x * x * weight


def ignores_strides(x, weight, eps=1e-6):
    flat = x.as_strided(x.shape, torch.empty(x.shape).stride())
    return flat * flat * weight + eps


def wrong_dtype(x, weight, eps=1e-6):
    return (x * x * weight + eps).float()


def returns_argument(x, weight, eps=1e-6):
    return x.square_().mul_(weight).add_(eps)


def wrong_layout(x, weight, eps=1e-6):
    return (x * x * weight + eps).mT.contiguous().mT


def wrong_signature(x, weight, eps=1e-5):
    return x


class ForgetsWeight(Formula):
    @staticmethod
    def backward(ctx, grad):
        return Formula.backward(ctx, grad)[0], None, None


class LeavesOutConstants(Formula):
    @staticmethod
    def backward(ctx, grad):
        return Formula.backward(ctx, grad)[:2]


class ZeroWeight(Formula):
    @staticmethod
    def backward(ctx, grad):
        return Formula.backward(ctx, grad)[0], torch.zeros_like(ctx.saved_tensors[1]), None


class Untraceable(Formula):
    @staticmethod
    def backward(ctx, grad):
        assert grad.data_ptr()
        return Formula.backward(ctx, grad)


def _list_samples(device, dtype, generator):
    for shape in ((0, 4), (1, 1), (3, 7)):
        values = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]
        yield values, [torch.ones_like(one) for one in values], 0.5


def _axpy_reference(values, steps, rate=1.0):
    LOG.append("reference")
    for value, step in zip(values, steps, strict=True):
        value.add_(step, alpha=rate)


axpy = op(
    "athena_test::axpy(Tensor(a!)[] values, Tensor[] steps, float rate=1.0) -> ()",
    reference=_axpy_reference,
    samples=_list_samples,
)


def axpy_kernel(values, steps, rate=1.0):
    LOG.append("kernel")
    for value, step in zip(values, steps, strict=True):
        value.data.add_(step, alpha=rate)  # like foreign code, unseen by autograd


def _mask_samples(device, dtype, generator):
    for shape in ((0, 4), (1, 1), (3, 7)):
        yield (torch.randn(shape, generator=generator).to(device, dtype),)


def _positive_reference(x):
    LOG.append("reference")
    return x > 0


positive = op(
    "athena_test::positive(Tensor x) -> Tensor",
    reference=_positive_reference,
    samples=_mask_samples,
    differentiable=False,
)


def positive_kernel(x):
    LOG.append("kernel")
    return x.sign() == 1


def _split_reference(x):
    return x * 2, (x * 3).sum()


split = op("athena_test::split(Tensor x) -> (Tensor, Tensor)", reference=_split_reference)


def split_kernel(x):
    LOG.append("kernel")
    return x + x, 3 * x.sum()


class SplitFormula:
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx, grad_double, grad_sum):
        return 2 * grad_double + 3 * grad_sum.expand(ctx.shape)


def _total_reference(values):
    return sum(one.sum() for one in values)


total = op("athena_test::total(Tensor[] values) -> Tensor", reference=_total_reference)


def total_kernel(values):
    return sum(one.sum() for one in values)


def repeat_kernel(values, times):
    LOG.append("kernel")
    values[0].data.mul_(times)


def kept_kernel(x):
    LOG.append("kernel")
    return x.clone()
