"""The kernel of AdamW over lists of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from drawn import KERNELS, draw_int
from drawn_lists import draw_lists, draw_rates, draw_shape
from torch import Tensor, nn

from athena_core import KernelFailed, _kernels
from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_optim import AdamW
from athena_optim._adamw_op import adamw_
from athena_xpu.kernels import _adamw, _lists

KERNEL = KERNELS["athena_optim::adamw_"]
SHAPES = [(7, 5), (), (0,), (300,), (1, 1)]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
    shapes = [draw_shape(generator) for _ in range(draw_int(1, 5, generator))]
    lists = draw_lists(dtype, generator, shapes)
    return (*lists, *draw_rates(generator), bool(draw_int(0, 1, generator)))


def plain(
    param: Tensor, grads: list[Tensor], *, lr: float, beta1: float, beta2: float, decay: float
) -> Tensor:
    """Algorithm 2 of arXiv:1711.05101 in float64."""
    x, m, v = param.double(), torch.zeros(()), torch.zeros(())
    for t, grad in enumerate(grads, start=1):
        g = grad.double()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        x = x - lr * decay * x - lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-8)
    return x


def test_drawn() -> None:
    check_drawn(KERNEL, draw, least=0.3)  # of four layouts, two have gaps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longer_than_a_chunk(dtype: torch.dtype) -> None:
    """Chunks that are full, and where vectors can be read; a last one that is not."""

    def long(_: torch.dtype, generator: torch.Generator) -> tuple[Any, ...]:
        lists = draw_lists(dtype, generator, [(3,), (2 * _lists.CHUNK + 77,), (_lists.CHUNK,)])
        return (*lists, *draw_rates(generator), False)

    check_drawn(KERNEL, long, draws=4, dtypes=[dtype], least=0.25)


def test_three_steps_of_the_optimizer() -> None:
    """Its own, on real parameters: the first makes the state, the others run the kernel."""
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    before = [p.detach().clone() for p in params]
    grads = [[torch.randn(shape) for shape in SHAPES] for _ in range(3)]
    optimizer = AdamW(params, lr=0.1, betas=(0.9, 0.999), weight_decay=0.3)
    op = _kernels.OPS["athena_optim::adamw_"]
    with offered(KERNEL):
        for drawn in grads:
            for param, grad in zip(params, drawn, strict=True):
                param.grad = grad.clone()
            optimizer.step()
        assert "cpu" in op.installed, "the optimizer did not call the op"
    for place, (param, start) in enumerate(zip(params, before, strict=True)):
        mine = [drawn[place] for drawn in grads]
        expected = plain(start, mine, lr=0.1, beta1=0.9, beta2=0.999, decay=0.3)
        torch.testing.assert_close(param.detach().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "stochastic"])
def test_wide_states_are_stepped_by_the_kernel(precision: str) -> None:
    """16-bit parameters whose states are float32; random rounding is the same where values are."""

    def stepped(*kernels: Any) -> list[Tensor]:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape).bfloat16()) for shape in SHAPES]
        optimizer = AdamW(params, lr=0.1, precision=precision)
        with offered(*kernels) if kernels else _kernels.kernels_disabled():
            for _ in range(3):
                for param in params:
                    param.grad = torch.randn(param.shape).bfloat16()
                optimizer.step()
        return [p.detach() for p in params]

    for found, expected in zip(stepped(KERNEL), stepped(), strict=True):
        # a value at the border of two roundings may go to the other neighbour
        torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)


@triton.jit
def _tell_whole(row, length, told, CHUNK: tl.constexpr):  # noqa: N803
    tl.store(told, _lists.is_whole(row, length, CHUNK))


@pytest.mark.parametrize("column", range(4))
def test_vectors_are_read_of_full_chunks_at_multiples_of_16_bytes(column: int) -> None:
    """Elsewhere a device faults, where the interpreter does not."""
    for place, length, whole in ((0, 64, 1), (4, 64, 0), (8, 64, 0), (0, 63, 0)):
        row, told = torch.full((7,), 4096), torch.zeros(1, dtype=torch.int32)
        row[column] += place
        _tell_whole[(1,)](row, length, told, CHUNK=64)
        assert told.item() == whole


@triton.jit
def _tell_correction(row, log_beta, told):
    tl.store(told, _lists.bias_correction(row, log_beta))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.6065, 0.607, 0.9, 0.999, 0.99999])
@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
def test_bias_corrections_keep_all_digits(beta: float, step: int) -> None:
    """A power near 1, taken from 1 in float32, leaves three digits."""
    count, told = torch.tensor(float(step)), torch.zeros(1)
    row = torch.tensor([0, 0, 0, 0, count.data_ptr(), 0, 0])
    with np.errstate(all="ignore"):  # of the side that is not taken, of which a device does not warn
        _tell_correction[(1,)](row, _adamw.log_of(beta), told)
    assert told.item() == pytest.approx(1 - beta**step, rel=1e-6)


def test_tables_are_kept_while_tensors_stay() -> None:
    params, grads, moments, squares, steps = draw_lists(torch.float32, torch.Generator(), [(5,), (9,)])
    lists = [params, grads, moments, squares]
    assert _lists.takes(lists, steps)
    (first,) = _lists.tables(lists, steps)
    (again,) = _lists.tables(lists, steps)
    assert again.rows is first.rows
    assert again.chunks is first.chunks
    grads[1] = grads[1].clone()
    assert _lists.takes(lists, steps)
    (moved,) = _lists.tables(lists, steps)
    assert moved.rows[1, 1].item() == grads[1].data_ptr()
    assert moved.chunks is first.chunks


def test_a_tensor_that_has_changed_is_looked_at_anew() -> None:
    lists = draw_lists(torch.float32, torch.Generator(), [(4, 4), (3,)])
    assert _lists.takes(lists[:4], lists[4])
    assert _lists.takes(lists[:4], lists[4])
    lists[2][0].t_()
    assert not _lists.takes(lists[:4], lists[4]), "it has gaps now"
    lists[2][0].t_()
    for one in lists[:4]:
        one[0].data = one[0].bfloat16()
    assert _lists.takes(lists[:4], lists[4])
    assert [table.rows.shape[0] for table in _lists.tables(lists[:4], lists[4])] == [1, 1]


def test_plans_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lists, "_MOST_PLANS", 3)
    drawn = [draw_lists(torch.float32, torch.Generator(), [(4,)]) for _ in range(9)]
    assert all(_lists.takes(lists[:4], lists[4]) for lists in drawn)
    assert len(_lists._PLANS) <= 64
    _lists._PLANS.clear()
    assert all(_lists.takes(lists[:4], lists[4]) for lists in drawn)
    assert len(_lists._PLANS) == 3


def test_what_is_refused() -> None:
    lists = list(draw_lists(torch.float32, torch.Generator(), [(6, 4), (3,)]))
    assert _lists.takes(lists[:4], lists[4])
    assert not _lists.takes(([], [], [], []), [])

    def with_other(place: int, tensor: Tensor) -> bool:
        changed = [list(one) for one in lists]
        changed[place][0] = tensor
        return _lists.takes(changed[:4], changed[4])

    assert not with_other(1, torch.zeros(4, 6).mT), "it has gaps"
    assert not with_other(1, torch.zeros(6, 5)), "another size"
    assert not with_other(2, torch.zeros(6, 4, dtype=torch.bfloat16)), "another dtype than its parameter's"
    assert not with_other(3, torch.zeros(6, 4, device="meta")), "another device"
    assert not with_other(4, torch.zeros((), dtype=torch.float64)), "a step in float64"
    assert not _lists.takes([[one.double() for one in part] for part in lists[:4]], lists[4])
    assert not _lists.takes((lists[0], lists[1], lists[2], lists[3][:1]), lists[4]), "one is missing"


def test_nothing_changes_where_a_later_launch_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dtypes are two launches; the second is compiled before the first runs."""

    def refuse(*args: Any, on: Tensor, **meta: Any) -> None:
        raise KernelFailed("no compiler")

    monkeypatch.setattr(_lists, "prepare", refuse)
    lists = draw_lists(torch.float32, torch.Generator().manual_seed(1), [(4,), (4,)])
    for one in lists[:4]:
        one[1] = one[1].bfloat16()
    before = [[one.clone() for one in part] for part in lists]
    with pytest.raises(KernelFailed, match="no compiler"):
        _adamw.run(*lists, 0.1, 0.9, 0.99, 1e-8, 0.1, maximize=False)
    for part, held in zip(lists, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, held, strict=True))


def test_nan_and_infinity_stay_in_their_elements() -> None:
    lists = draw_lists(torch.float32, torch.Generator().manual_seed(2), [(5,), (3,)])
    lists[1][0][1], lists[1][0][3] = torch.nan, torch.inf
    with offered(KERNEL), np.errstate(invalid="ignore"):  # of which a device does not warn
        adamw_(*lists, 0.1, 0.9, 0.99, 1e-8, 0.1, False)
    assert lists[0][0].isfinite().tolist() == [True, False, True, False, True]
    assert lists[0][1].isfinite().all()
