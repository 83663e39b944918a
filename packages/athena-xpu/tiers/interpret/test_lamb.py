"""The kernel of LAMB over lists of tensors."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from drawn import KERNELS, draw_int
from drawn_lists import draw_lists, draw_rates, draw_shape
from torch import Tensor, nn

from athena_core import KernelFailed, _kernels
from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_optim import Lamb
from athena_optim._lamb_op import lamb_
from athena_xpu.kernels import _lamb, _lists

KERNEL = KERNELS["athena_optim::lamb_"]
SHAPES = [(7, 5), (), (0,), (300,), (1, 1)]


def draw(
    dtype: torch.dtype, generator: torch.Generator, shapes: list[tuple[int, ...]] | None = None
) -> tuple[Any, ...]:
    shapes = shapes or [draw_shape(generator) for _ in range(draw_int(1, 5, generator))]
    params, *others = draw_lists(dtype, generator, shapes)
    if draw_int(0, 2, generator) == 0:
        params[0].zero_()
    norm = None if draw_int(0, 1, generator) else torch.tensor(0.3 + draw_int(0, 3, generator), dtype=dtype)
    corrects, adapts, maximize = (bool(draw_int(0, 2, generator) % 2) for _ in range(3))
    low, high = [(0.0, inf), (0.0, 0.5), (2.0, 10.0)][draw_int(0, 2, generator)]
    rates = draw_rates(generator)
    return (params, *others, norm, None, *rates, corrects, not adapts, low, high, maximize)


def plain(
    param: Tensor,
    grads: list[Tensor],
    norms: list[float],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    decay: float,
) -> Tensor:
    """Algorithm 2 of arXiv:1904.00962 in float64."""
    x, m, v = param.double(), torch.zeros(()), torch.zeros(())
    for t, (grad, norm) in enumerate(zip(grads, norms, strict=True), start=1):
        g = grad.double() / norm
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        u = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-6) + decay * x
        ratio = x.norm() / u.norm() if x.norm() > 0 and u.norm() > 0 else 1.0
        x = x - lr * ratio * u
    return x


def test_drawn() -> None:
    check_drawn(KERNEL, draw, least=0.3)  # of four layouts, two have gaps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longer_than_a_chunk(dtype: torch.dtype) -> None:
    shapes = [(3,), (2 * _lists.CHUNK + 77,), (_lists.CHUNK,)]
    check_drawn(KERNEL, lambda kind, one: draw(kind, one, shapes), draws=4, dtypes=[dtype], least=0.25)


def test_sums_of_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass adds several blocks of sums; the same each time, to the bit."""
    for module, name, value in ((_lists, "CHUNK", 64), (_lists, "BLOCK", 16), (_lamb, "_SUMS", 8)):
        monkeypatch.setattr(module, name, value)
    _lists._PLANS.clear()
    generator = torch.Generator().manual_seed(3)
    args = draw(torch.float32, generator, [(5,), (64 * 21 + 3,)])
    once, twice, exact = (
        tuple([one.to(kind, copy=True) for one in part] if isinstance(part, list) else part for part in args)
        for kind in (torch.float32, torch.float32, torch.float64)
    )
    options = (None, None, 0.1, 0.9, 0.999, 1e-6, 0.1, True, True, 0.0, inf, False)
    _lamb.run(*once[:5], *options)
    _lamb.run(*twice[:5], *options)
    _lists._PLANS.clear()
    _kernels.OPS["athena_optim::lamb_"].reference(*exact[:5], *options)
    for found, again, expected in zip(once[0], twice[0], exact[0], strict=True):
        assert torch.equal(found, again)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_three_steps_of_the_optimizer(normalize: bool) -> None:
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    before = [p.detach().clone() for p in params]
    grads = [[torch.randn(shape) for shape in SHAPES] for _ in range(3)]
    norms = [sum(g.double().square().sum() for g in one).sqrt().item() if normalize else 1.0 for one in grads]
    optimizer = Lamb(params, lr=0.1, weight_decay=0.3, normalize_gradients=normalize)
    op = _kernels.OPS["athena_optim::lamb_"]
    with offered(KERNEL):
        for drawn in grads:
            for param, grad in zip(params, drawn, strict=True):
                param.grad = grad.clone()
            optimizer.step()
        assert "cpu" in op.installed, "the optimizer did not call the op"
    for place, (param, start) in enumerate(zip(params, before, strict=True)):
        mine = [drawn[place] for drawn in grads]
        expected = plain(start, mine, norms, lr=0.1, beta1=0.9, beta2=0.999, decay=0.3)
        torch.testing.assert_close(param.detach().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("failing", ["_ratios", "_apply"])
def test_nothing_changes_where_a_later_launch_cannot_be_compiled(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kernel: Any, *args: Any, on: Tensor, **meta: Any) -> None:
        if kernel is getattr(_lamb, failing):
            raise KernelFailed("no compiler")

    monkeypatch.setattr(_lists, "prepare", refuse)
    args = draw(torch.float32, torch.Generator().manual_seed(1), [(4,), (9,)])
    before = [[one.clone() for one in part] for part in args[:5]]
    with pytest.raises(KernelFailed, match="no compiler"):
        _lamb.run(*args[:5], None, None, 0.1, 0.9, 0.99, 1e-6, 0.1, True, True, 0.0, inf, False)
    for part, held in zip(args[:5], before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, held, strict=True))


def test_nan_stays_in_its_tensor() -> None:
    """As in the reference; also the ratio of two infinite norms, which is no number."""
    lists = draw_lists(torch.float32, torch.Generator().manual_seed(2), [(5,), (3,), (4,)])
    lists[1][0][1] = torch.nan
    lists[0][2].fill_(torch.inf)
    options = (None, None, 0.1, 0.9, 0.99, 1e-6, 0.1, True, True, 0.0, 10.0, False)
    expected = [[one.clone() for one in part] for part in lists]
    _kernels.OPS["athena_optim::lamb_"].reference(*expected, *options)
    with offered(KERNEL), np.errstate(all="ignore"):  # of which a device does not warn
        lamb_(*lists, *options)
    for found, other in zip(lists[0], expected[0], strict=True):
        torch.testing.assert_close(found, other, equal_nan=True)


def test_without_an_update_or_an_epsilon() -> None:
    """Of no update the ratio is 1; without an epsilon, places beyond the last are 0 / 0 and not summed."""
    still = [[torch.ones(3)], *([torch.zeros(3)] for _ in range(3)), [torch.tensor(2.0)]]
    moving = draw_lists(torch.float32, torch.Generator().manual_seed(5), [(5,), (70,)])
    for lists, eps in ((still, 1e-6), (moving, 0.0)):
        options = (None, None, 0.1, 0.9, 0.99, eps, 0.0, True, True, 0.0, inf, False)
        expected = [[one.clone() for one in part] for part in lists]
        _kernels.OPS["athena_optim::lamb_"].reference(*expected, *options)
        with offered(KERNEL), np.errstate(all="ignore"):  # of which a device does not warn
            lamb_(*lists, *options)
        for found, other in zip(lists[0], expected[0], strict=True):
            assert found.isfinite().all()
            torch.testing.assert_close(found, other)


def test_a_norm_that_lies_elsewhere_is_refused() -> None:
    args = list(draw(torch.float32, torch.Generator().manual_seed(4), [(4,)]))
    for norm, taken in ((None, True), (torch.ones(()), True), (torch.ones((), device="meta"), False)):
        args[5] = norm
        assert _lamb.supports(*args) is taken
