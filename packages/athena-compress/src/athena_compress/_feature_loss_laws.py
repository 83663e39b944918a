"""The laws of feature losses: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from athena_compress._feature_loss import FeatureLoss
from athena_core import Component
from athena_core.testing import Check

Factory = Callable[..., FeatureLoss]
SHAPES = {"sequences": (5, 6, 4), "images": (5, 4, 3, 2)}


def example_feature_loss(target: Factory) -> FeatureLoss:
    """The loss as it is by default."""
    return target()


def _pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return student, torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _mask(shape: tuple[int, ...]) -> Tensor:
    """All positions but the first of each example, and none of the last example."""
    positions = (shape[0], *shape[2:]) if len(shape) > 3 else shape[:2]
    mask = torch.ones(positions, dtype=torch.bool)
    mask.view(len(mask), -1)[:, 0] = False
    mask[-1] = False
    return mask


def _excluded(feature: Tensor, mask: Tensor) -> Tensor:
    return ~(mask[:, None] if feature.dim() > 3 else mask[..., None])


def _gradient(loss: Tensor, feature: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, feature)
    return gradient


def _zero_where_equal(target: Factory, shape: tuple[int, ...]) -> None:
    student, _ = _pair(shape)
    for mask in (None, _mask(shape)):
        loss = target()(student, student.detach().clone(), mask)
        assert loss.shape == (), "the loss is no scalar"
        assert loss.abs() < 1e-5, f"the loss of identical features is {loss.item()}"
        assert _gradient(loss, student).abs().max() < 1e-3, "identical features get a gradient"


def _positive_where_different(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    for scale in (1e-3, 1.0, 1e3):
        assert target()(scale * student, scale * teacher) > 0, f"not above 0 at scale {scale}"


def _teaches_the_student_alone(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    teacher.requires_grad_()
    target()(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad != 0).any(), "the student gets no gradient"
    assert teacher.grad is None, "the teacher gets a gradient"


def _descends(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape, torch.float64)
    loss = target()(student, teacher)
    gradient = _gradient(loss, student)
    moved = student.detach() - 1e-4 * gradient / gradient.norm()
    assert target()(moved, teacher) < loss, "a small step against the gradient does not lower the loss"


def _ignores_masked(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    mask = _mask(shape)
    expected = target()(student, teacher, mask)
    gradient = _gradient(expected, student)
    for junk in (1e4, float("nan"), float("inf")):
        changed = [f.detach().masked_fill(_excluded(f, mask), junk) for f in (student, teacher)]
        leaf = changed[0].requires_grad_()
        loss = target()(leaf, changed[1], mask)
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        torch.testing.assert_close(_gradient(loss, leaf), gradient, rtol=0, atol=0)
    assert not gradient.masked_fill(~_excluded(student, mask), 0).any(), "what is masked gets a gradient"
    assert target()(student, teacher, mask.long()) == expected, "a mask of integers is another mask"
    everything = torch.ones_like(mask)
    torch.testing.assert_close(target()(student, teacher, everything), target()(student, teacher))


def _connected_zero(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    loss = target()(student, teacher, torch.zeros_like(_mask(shape)))
    assert loss.item() == 0, f"the loss of nothing is {loss.item()}"
    assert not _gradient(loss, student).any()


def _finite_on_zeros(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    zeros = torch.zeros(shape, requires_grad=True)
    for one, other in ((zeros, teacher), (student, zeros.detach()), (zeros, zeros.detach())):
        loss = target()(one, other)
        assert loss.isfinite(), f"the loss on zeros is {loss.item()}"
        assert loss >= 0
        assert _gradient(loss, one).isfinite().all(), "a gradient on zeros is not finite"


def _one_example(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = (feature[:1] for feature in _pair(shape))
    loss = target()(student, teacher)
    assert loss.isfinite()
    assert loss >= 0
    assert _gradient(loss, student).isfinite().all()


def _precise(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape, torch.float64)
    exact = target()(student, teacher)
    assert exact.dtype == torch.float64, f"computes float64 in {exact.dtype}"
    for dtype in (torch.float16, torch.bfloat16):
        low = [feature.detach().to(dtype) for feature in (student, teacher)]
        with torch.autocast("cpu", torch.bfloat16):  # whose products would be rounded to 16 bits
            loss = target()(*low)
        expected = target()(*(feature.double() for feature in low))
        assert loss.dtype == torch.float32, f"computes {dtype} in {loss.dtype}"
        torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


def _strided(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = (feature.detach() for feature in _pair(shape))
    strided = student.transpose(0, -1).contiguous().transpose(0, -1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(target()(strided, teacher), target()(student, teacher))


def _widths(target: Factory, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(shape)
    narrow = student[:, :2] if student.dim() > 3 else student[..., :2]
    if not target().needs_projection:
        assert target()(narrow, teacher).isfinite()
        return
    try:
        target()(narrow, teacher)
    except ValueError:
        return
    raise AssertionError("`needs_projection` is True, yet it takes features of different widths")


def feature_loss_checks(component: Component, target: Factory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a feature loss, on sequences and on images."""
    laws = {
        "identical features cost nothing": _zero_where_equal,
        "different features cost something": _positive_where_different,
        "the gradient reaches the student alone": _teaches_the_student_alone,
        "a step against the gradient lowers it": _descends,
        "masked positions do not matter": _ignores_masked,
        "all masked is a connected 0": _connected_zero,
        "finite on zeros": _finite_on_zeros,
        "finite on a batch of one": _one_example,
        "at least float32, under autocast too": _precise,
        "the same on strided features": _strided,
        "needs_projection is what it says": _widths,
    }
    for layout, shape in SHAPES.items():
        for name, law in laws.items():
            yield Check(f"{name}, {layout}", partial(law, target, shape))
