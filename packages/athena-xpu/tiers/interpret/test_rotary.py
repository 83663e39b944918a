"""The kernel of rotary positions."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from drawn import KERNELS, draw_int
from torch import Tensor

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import MultiHeadAttention, RotaryPositions, rotary
from athena_xpu.kernels import _rotary

KERNEL = KERNELS["athena_nn::rotary"]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Whole and partial turns of one to four axes, in any order in memory; angles shared along some."""
    axes, pairs = draw_int(1, 4, generator), draw_int(1, 9, generator)
    least = 0 if draw_int(0, 9, generator) == 0 else 1
    leading = [draw_int(least, 5, generator) for _ in range(axes - 1)]
    width = 2 * pairs + (draw_int(0, 1, generator) and draw_int(1, 20, generator))
    order = torch.randperm(axes - 1, generator=generator).tolist()
    laid = torch.randn([leading[a] for a in order] + [width], generator=generator).to(dtype)
    x = laid.permute(*(order.index(a) for a in range(axes - 1)), axes - 1)
    own = [size if draw_int(0, 2, generator) else 1 for size in leading]
    angles = torch.randn([*own[draw_int(0, axes - 1, generator) :], pairs], generator=generator)
    return x, angles.cos().to(dtype), angles.sin().to(dtype), bool(draw_int(0, 1, generator))


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("shape", "pairs"), [((2, 3, 70, 64), 32), ((1, 2, 3, 1500), 600)])
def test_more_than_a_tile(shape: tuple[int, ...], pairs: int, interleaved: bool) -> None:
    def draw_one(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, bool]:
        angles = torch.randn(shape[2], pairs, generator=generator)
        x = torch.randn(shape, generator=generator).to(dtype)
        return x, angles.cos().to(dtype), angles.sin().to(dtype), interleaved

    check_drawn(KERNEL, draw_one, draws=4, least=0.25)


def test_the_result_lies_in_memory_as_the_reference_lays_it() -> None:
    base = torch.randn(2, 9, 3, 12)
    cos, sin = torch.randn(2, 5, 6)
    for order in permutations(range(3)):
        sizes = [(2, 3, 5)[axis] for axis in order]
        x = base[: sizes[0], : sizes[1], : sizes[2]] if order == (0, 2, 1) else torch.randn(*sizes, 12)
        x = x.permute(*(order.index(axis) for axis in range(3)), 3)
        for given in (x, x[..., :1].expand(2, 3, 5, 12), x[:1].expand(2, 3, 5, 12)):
            for n in (6, 4):
                expected = rotary(given, cos[:, :n], sin[:, :n])
                with offered(KERNEL):
                    found = rotary(given, cos[:, :n], sin[:, :n])
                torch.testing.assert_close(found, expected)
                assert found.stride() == expected.stride(), (given.stride(), n)


def test_what_attention_passes_reaches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = MultiHeadAttention(16, 4, num_kv_heads=2, causal=True, positions=RotaryPositions(4))
    x = torch.randn(2, 5, 16)
    plain = attention(x)
    gradients = torch.autograd.grad(plain.square().sum(), list(attention.parameters()))
    calls = []
    turned = _rotary._turned
    monkeypatch.setattr(_rotary, "_turned", lambda *args, **also: calls.append(also) or turned(*args, **also))
    with offered(KERNEL):
        y = attention(x)
        found = torch.autograd.grad(y.square().sum(), list(attention.parameters()))
    assert calls == [{"inverse": False}, {"inverse": True}]
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(found, gradients)


def test_back_and_forth_is_what_it_was() -> None:
    x = torch.randn(2, 3, 5, 10)
    angles = torch.randn(5, 4)
    for interleaved in (False, True):
        there = _rotary.run(x, angles.cos(), angles.sin(), interleaved)
        torch.testing.assert_close(_rotary.rotary_backward(there, angles.cos(), angles.sin(), interleaved), x)


def test_refused_for_the_reference() -> None:
    x, angles = torch.zeros(2, 3, 8), torch.zeros(3, 4)
    assert _rotary.supports(x, angles, angles)
    assert not _rotary.supports(x.double(), angles.double(), angles.double())
    assert not _rotary.supports(x.bfloat16(), angles, angles)
    assert not _rotary.supports(x, torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4))  # the result is larger
    assert not _rotary.supports(x, torch.zeros(1, 4), angles)
    assert not _rotary.supports(x, torch.zeros(3, 5), torch.zeros(3, 5))
    assert not _rotary.supports(x.mT.contiguous().mT, angles, angles)
    assert not _rotary.supports(torch.zeros(3, 4096), angles, angles)
    assert not _rotary.supports(x, angles.to("meta"), angles)
    assert not _rotary.supports(x, angles, angles.to("meta"))


def test_rows_are_counted_in_32_bits() -> None:
    angles = torch.empty(1, 1, device="meta")
    for rows, taken in ((2**30, True), (2**31 - 1, False)):
        assert _rotary.supports(torch.empty(rows, 2, device="meta"), angles, angles) is taken
