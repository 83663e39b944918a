"""The kernel of add_rms_norm."""

from __future__ import annotations

import pytest
import torch
from draw_norms import WIDE, added_arguments, check_reproducible, check_rows_stay_apart, draw_shape
from drawn import KERNELS

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import add_rms_norm

KERNEL = KERNELS["athena_nn::add_rms_norm"]


def test_drawn() -> None:
    check_drawn(KERNEL, lambda dtype, draw: added_arguments(draw_shape(draw), dtype, draw, biased=None))


def test_wider_than_a_block() -> None:
    check_drawn(
        KERNEL, lambda dtype, draw: added_arguments((2, WIDE), dtype, draw, biased=None), draws=12, least=0.25
    )


def test_half_precision_added_to_float32() -> None:
    """What autocast makes of a block: the stream and the weight in float32, what is added in half."""

    def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple:
        x, residual, *others = added_arguments(draw_shape(generator), torch.float32, generator, biased=None)
        return (x.to(dtype), residual, *others)

    check_drawn(KERNEL, draw, draws=30, dtypes=[torch.bfloat16, torch.float16])


def test_the_sum_is_rounded_before_its_norm() -> None:
    x, residual, weight = torch.randn(3, 8, 64).half().unbind()  # the interpreter truncates to bfloat16
    with offered(KERNEL):
        total, y = add_rms_norm(x, residual, weight[0], 1e-5)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(y, add_rms_norm(x, residual, weight[0], 1e-5)[1], rtol=2e-3, atol=2e-3)


def test_one_result_may_go_unused() -> None:
    x, residual, weight, eps = added_arguments(
        (6, 9), torch.float32, torch.Generator().manual_seed(0), biased=None
    )
    tensors = [one.requires_grad_() for one in (x, residual, weight)]
    for which in (0, 1):
        expected = torch.autograd.grad(add_rms_norm(*tensors, eps)[which].sum(), tensors, allow_unused=True)
        with offered(KERNEL):
            found = torch.autograd.grad(add_rms_norm(*tensors, eps)[which].sum(), tensors)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy tells of NaN
def test_rows_stay_apart() -> None:
    args = added_arguments((5, 7), torch.float32, torch.Generator().manual_seed(0), biased=None)
    check_rows_stay_apart(KERNEL, add_rms_norm, args)


def test_gradients_of_weights_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(shape: tuple[int, int]) -> tuple:
        return added_arguments(shape, torch.float32, torch.Generator().manual_seed(0), biased=None)

    check_reproducible(KERNEL, add_rms_norm, draw, monkeypatch)
