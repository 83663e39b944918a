"""The kernel of add_layer_norm."""

from __future__ import annotations

import pytest
import torch
from draw_norms import WIDE, added_arguments, check_reproducible, check_rows_stay_apart, draw_shape
from drawn import KERNELS, draw_int

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import TransformerBlock, add_layer_norm

KERNEL = KERNELS["athena_nn::add_layer_norm"]


def test_drawn() -> None:
    def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple:
        biased = bool(draw_int(0, 1, generator))
        return added_arguments(draw_shape(generator), dtype, generator, biased=biased)

    check_drawn(KERNEL, draw)


def test_wider_than_a_block() -> None:
    check_drawn(
        KERNEL, lambda dtype, draw: added_arguments((2, WIDE), dtype, draw, biased=True), draws=12, least=0.25
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy tells of NaN
def test_rows_stay_apart() -> None:
    args = added_arguments((5, 7), torch.float32, torch.Generator().manual_seed(0), biased=True)
    check_rows_stay_apart(KERNEL, add_layer_norm, args)


def test_the_sum_is_rounded_before_its_norm() -> None:
    """2048 and 2049 are one number in float16, and what is left of it without its mean is nothing."""
    x, residual = torch.full((2, 6), 2048.0).half(), torch.tensor([0.0, 1.0] * 3).half().repeat(2, 1)
    weight, bias = torch.ones(6).half(), torch.full((6,), 0.5).half()
    with offered(KERNEL):
        total, y = add_layer_norm(x, residual, weight, bias, 1e-5)
    assert torch.equal(total, x)
    assert torch.equal(y, bias.expand(2, 6))


def test_a_block_of_either_order_trains_as_with_the_reference() -> None:
    kernels = [one for name, one in KERNELS.items() if "norm" in name]
    for norm in ("rms", "layer"):
        for norm_first in (True, False):
            block = TransformerBlock(16, 2, ff_dim=24, norm=norm, norm_first=norm_first, memory_dim=8)
            x, memory = torch.randn(2, 5, 16), torch.randn(2, 3, 8)

            def gradients(block: TransformerBlock, x: torch.Tensor, memory: torch.Tensor) -> tuple:
                return torch.autograd.grad(block(x, memory).square().mean(), list(block.parameters()))

            expected = gradients(block, x, memory)
            with offered(*kernels):
                found = gradients(block, x, memory)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_weights_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(shape: tuple[int, int]) -> tuple:
        return added_arguments(shape, torch.float32, torch.Generator().manual_seed(0), biased=True)

    check_reproducible(KERNEL, add_layer_norm, draw, monkeypatch)
