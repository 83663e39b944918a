"""What the tests of norms draw, and what all of them are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn import draw_rows, draw_width
from torch import Tensor

from athena_core import Kernel
from athena_core.testing._kernels import offered
from athena_xpu.kernels import _norms

WIDE = 9001  # one more block than rows that are held in registers have, and odd


def norm_arguments(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, *, biased: bool | None
) -> tuple[Any, ...]:
    """x, weight, where ``biased`` is not None a bias or None, and eps."""
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    weight, bias = torch.randn(2, shape[-1], generator=generator).to(dtype)
    return (x, weight, *(() if biased is None else (bias if biased else None,)), 1e-5)


def added_arguments(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, *, biased: bool | None
) -> tuple[Any, ...]:
    """The same with a residual. Eighths, whose sums no dtype rounds: a float64 reference would not either."""
    x, residual = ((4 * torch.randn(2, *shape, generator=generator)).round() / 8).to(dtype)
    return x, residual, *norm_arguments(shape, dtype, generator, biased=biased)[1:]


def draw_shape(generator: torch.Generator) -> tuple[int, ...]:
    return (*draw_rows(generator), draw_width(generator))


def check_rows_stay_apart(kernel: Kernel, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """NaN and infinity in one row of x stay there, in results and in x's gradient."""
    x, others = args[0], args[1:]
    bad = x.clone()
    bad[1, 2], bad[3, 0] = float("nan"), float("inf")
    good = [row for row in range(len(x)) if row not in (1, 3)]
    with offered(kernel):
        found = [_rows(call, one.requires_grad_(), others) for one in (bad, x)]
    for spoilt, clean in zip(*found, strict=True):
        assert torch.equal(spoilt[good], clean[good])
    assert found[0][0][[1, 3]].isnan().any(1).all()


def _rows(call: Callable[..., Any], x: Tensor, others: tuple[Any, ...]) -> list[Tensor]:
    y = call(x, *others)
    results = [y] if isinstance(y, Tensor) else [y[1], y[0]]
    return [*results, *torch.autograd.grad(results, [x], [torch.ones_like(one) for one in results])]


def check_reproducible(
    kernel: Kernel,
    call: Callable[..., Any],
    draw: Callable[[tuple[int, int]], tuple[Any, ...]],
    patch: pytest.MonkeyPatch,
) -> None:
    """Of more rows than programs: the same bits each time, and equal to the reference."""
    for name in ("LEAST_PROGRAMS", "MOST_PROGRAMS"):
        patch.setattr(_norms, name, 2)
    try:
        for shape in ((300, 2), (5, WIDE)):
            _norms.plan.cache_clear()
            assert _norms.plan(*shape).n_programs == 2
            args = draw(shape)
            with offered(kernel):
                first, second = (_gradients(call, args) for _ in range(2))
            exact = _gradients(call, tuple(one.double() if isinstance(one, Tensor) else one for one in args))
            for one, again, other in zip(first, second, exact, strict=True):
                assert torch.equal(one, again)
                torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)
    finally:
        _norms.plan.cache_clear()


def _gradients(call: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    mine = [one.detach().requires_grad_() if isinstance(one, Tensor) else one for one in args]
    y = call(*mine)
    y = y if isinstance(y, Tensor) else y[1]
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad(y, [one for one in mine if isinstance(one, Tensor)], slope)
