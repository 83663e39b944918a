"""The laws of norms and activations: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from athena_core import Component
from athena_core.testing import Check

WIDTH = 16
NormFactory = Callable[[int], nn.Module]
ActivationFactory = Callable[[], nn.Module]
_LOSES = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


def example_norm(target: NormFactory) -> nn.Module:
    """A norm of rows of 16."""
    return target(WIDTH)


def example_activation(target: ActivationFactory) -> nn.Module:
    """An activation; it takes no arguments."""
    return target()


def norm_checks(component: Component, target: NormFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of norms."""
    build = partial(example_norm, target)
    yield from _shared_checks(build, lambda _: WIDTH)
    yield Check("undoes the scale of a row", partial(_undoes_scale, build))
    yield Check("survives rows of zeros and large rows in half precision", partial(_survives_extremes, build))


def activation_checks(component: Component, target: ActivationFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of activations."""
    build = partial(example_activation, target)
    yield from _shared_checks(build, lambda part: WIDTH // 2 if getattr(part, "gated", False) else WIDTH)
    yield Check("acts on each element alone, with its gate", partial(_acts_elementwise, build))


def _shared_checks(build: Callable[[], nn.Module], width: Callable[[nn.Module], int]) -> Iterator[Check]:
    for dtype in _LOSES:
        name = f"keeps rows, width and dtype, {str(dtype).removeprefix('torch.')}"
        yield Check(name, partial(_keeps_shapes, build, width, dtype))
    yield Check("treats rows alone", partial(_treats_rows_alone, build))
    yield Check("leaves its input as it is", partial(_leaves_input, build))
    yield Check("gradients agree with finite differences", partial(_gradients_agree, build))


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _keeps_shapes(
    build: Callable[[], nn.Module], width: Callable[[nn.Module], int], dtype: torch.dtype
) -> None:
    part = build().to(dtype)
    for shape in ((3, 5, WIDTH), (1, WIDTH), (0, WIDTH), (WIDTH,)):
        x = _draw(*shape)
        y = part(x.to(dtype))
        assert y.shape == (*shape[:-1], width(part)), f"{shape} became {tuple(y.shape)}"
        assert y.dtype == dtype, f"{dtype} became {y.dtype}"
        torch.testing.assert_close(y.float(), build()(x), rtol=_LOSES[dtype], atol=_LOSES[dtype])


def _treats_rows_alone(build: Callable[[], nn.Module]) -> None:
    part, x = build(), _draw(4, 3, WIDTH)
    alone = torch.stack([torch.stack([part(row) for row in batch]) for batch in x])
    torch.testing.assert_close(part(x), alone)


def _leaves_input(build: Callable[[], nn.Module]) -> None:
    x = _draw(3, WIDTH)
    before = x.clone()
    build()(x)
    assert torch.equal(x, before), "the input was changed in place"


def _gradients_agree(build: Callable[[], nn.Module]) -> None:
    part = build().double()
    x = _draw(3, WIDTH).double().requires_grad_()
    assert torch.autograd.gradcheck(part, (x,))
    assert torch.autograd.gradgradcheck(part, (x,))


def _undoes_scale(build: Callable[[], nn.Module]) -> None:
    part, x = build().double(), _draw(3, WIDTH).double()
    # what is added inside the root is at most 1e-5 of it here
    torch.testing.assert_close(part(1000 * x), part(x), rtol=1e-3, atol=1e-3)


def _survives_extremes(build: Callable[[], nn.Module]) -> None:
    for dtype, scale in ((torch.float32, 0.0), (torch.bfloat16, 0.0), (torch.float16, 300.0)):
        x = (scale * _draw(3, WIDTH)).to(dtype).requires_grad_()
        y = build().to(dtype)(x)
        (slope,) = torch.autograd.grad(y.float().sum(), x)
        tolerance = _LOSES[torch.bfloat16]
        torch.testing.assert_close(y.float(), build()(x.float()), rtol=tolerance, atol=tolerance)
        assert torch.isfinite(slope).all(), f"gradient of {dtype} rows of scale {scale} overflows"


def _acts_elementwise(build: Callable[[], nn.Module]) -> None:
    part, x = build(), _draw(3, WIDTH)
    width = part(x).shape[-1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    halves = [half[..., order] for half in x.split(width, dim=-1)]
    torch.testing.assert_close(part(torch.cat(halves, dim=-1)), part(x)[..., order])
