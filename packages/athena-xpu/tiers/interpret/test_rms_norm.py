"""The kernel of rms_norm."""

from __future__ import annotations

import pytest
import torch
from draw_norms import WIDE, check_reproducible, check_rows_stay_apart, draw_shape, norm_arguments
from drawn import KERNELS

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import rms_norm
from athena_xpu.kernels._norms import plan

KERNEL = KERNELS["athena_nn::rms_norm"]


def test_drawn() -> None:
    check_drawn(KERNEL, lambda dtype, draw: norm_arguments(draw_shape(draw), dtype, draw, biased=None))


def test_wider_than_a_block() -> None:
    check_drawn(
        KERNEL, lambda dtype, draw: norm_arguments((2, WIDE), dtype, draw, biased=None), draws=12, least=0.25
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy tells of NaN
def test_rows_stay_apart() -> None:
    for width in (7, WIDE):
        args = norm_arguments((5, width), torch.float32, torch.Generator().manual_seed(0), biased=None)
        check_rows_stay_apart(KERNEL, rms_norm, args)


def test_gradients_of_weights_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(shape: tuple[int, int]) -> tuple:
        return norm_arguments(shape, torch.float32, torch.Generator().manual_seed(0), biased=None)

    check_reproducible(KERNEL, rms_norm, draw, monkeypatch)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy tells of NaN
def test_rows_of_zeros() -> None:
    """Without eps their root mean square is 0: rows beyond the last must not spoil the weight's gradient."""
    x, weight = torch.ones(3, 5), torch.ones(5, requires_grad=True)
    with offered(KERNEL):
        rms_norm(x, weight, 0.0).sum().backward()
        torch.testing.assert_close(weight.grad, torch.full((5,), 3.0))
        torch.testing.assert_close(rms_norm(torch.zeros(2, 5), weight, 1e-6), torch.zeros(2, 5))


def test_programs_have_all_rows_and_small_shares() -> None:
    for n_rows in (1, 5, 127, 128, 4096, 100_003):
        for width in (1, 64, 4096, 8192, 30_000):
            deal = plan(n_rows, width)
            assert (deal.n_programs - 1) * deal.per_program < n_rows <= deal.n_programs * deal.per_program
            assert deal.n_programs <= max(128, n_rows // 32)
