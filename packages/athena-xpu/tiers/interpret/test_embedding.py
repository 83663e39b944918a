"""The gradient kernel of embedding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from drawn import KERNELS, draw_int, draw_rows, draw_width
from torch import Tensor

from athena_core.testing import check_drawn
from athena_core.testing._kernels import offered
from athena_nn import Decoder, embedding
from athena_xpu.kernels import _embedding
from athena_xpu.kernels._embedding import PIECE, embedding_backward

KERNEL = KERNELS["athena_nn::embedding"]


def draw(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, int | None]:
    """Few words or many, each drawn alike, or one of them most of the time."""
    words, width = draw_int(1, 8, generator), draw_width(generator)
    # Slopes cancel, and are rounded before they are summed: more places would lose more than is tolerated.
    long = draw_int(0, 9, generator) == 0
    shape = (draw_int(0, 3 * PIECE, generator),) if long else (*draw_rows(generator), 3)
    ids = torch.randint(words, shape, generator=generator)
    if draw_int(0, 2, generator) == 0:
        ids[torch.rand(shape, generator=generator) < 0.9] = draw_int(0, words - 1, generator)
    padding = draw_int(-words, words - 1, generator) if draw_int(0, 2, generator) == 0 else None
    weight = torch.randn(words, width, generator=generator).to(dtype)
    return weight, ids.to((torch.int64, torch.int32)[draw_int(0, 1, generator)]), padding


def test_drawn() -> None:
    check_drawn(KERNEL, draw)


def gradients(grad: Tensor, ids: Tensor, words: int, padding: int = -1) -> tuple[Tensor, Tensor]:
    """The kernel's, and torch's in float64."""
    weight = torch.zeros(words, grad.shape[-1], dtype=torch.float64, requires_grad=True)
    y = F.embedding(ids, weight, None if padding < 0 else padding)
    return embedding_backward(grad, ids, words, padding), torch.autograd.grad(y, weight, grad.double())[0]


@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 3])
@pytest.mark.parametrize("before", [0, 1, PIECE - 1, PIECE, PIECE + 1])
def test_a_word_that_fills_pieces(count: int, before: int) -> None:
    ids = torch.cat([torch.zeros(before), torch.ones(count), torch.full((7,), 3.0)]).long()
    ids = ids[torch.randperm(len(ids))]
    found, expected = gradients(torch.randn(len(ids), 5), ids, 4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert found[2].count_nonzero() == 0


def test_wider_than_a_block() -> None:
    found, expected = gradients(torch.randn(2 * PIECE, 2100), torch.randint(2, (2 * PIECE,)), 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_in_float32(dtype: torch.dtype) -> None:
    """In bfloat16 itself, a thousand ones would sum to 256."""
    found = embedding_backward(torch.ones(1000, 3, dtype=dtype), torch.zeros(1000, dtype=torch.int64), 2, -1)
    assert found.dtype == dtype
    assert found.tolist() == [[1000.0] * 3, [0.0] * 3]


def test_padding_reads_nothing() -> None:
    grad = torch.full((3 * PIECE, 4), torch.nan)
    grad[-2:] = 1.0
    ids = torch.zeros(3 * PIECE, dtype=torch.int64)
    ids[-2:] = 1
    assert embedding_backward(grad, ids, 2, 0).tolist() == [[0.0] * 4, [2.0] * 4]


def test_it_is_the_same_to_the_bit() -> None:
    grad, ids = torch.randn(500, 33), torch.randint(3, (500,))
    first = embedding_backward(grad, ids, 3, -1)
    for _ in range(3):
        assert torch.equal(embedding_backward(grad, ids, 3, -1), first)


def test_gradients_of_any_strides_and_none() -> None:
    for grad in (torch.ones(()).expand(2, 3, 5), torch.randn(3, 2, 5).transpose(0, 1), torch.ones(0, 3, 5)):
        ids = torch.randint(4, grad.shape[:-1])
        found, expected = gradients(grad, ids, 4)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_ids_outside_the_table_are_refused_as_torch_does_it() -> None:
    with offered(KERNEL), pytest.raises(IndexError, match="out of range"):
        embedding(torch.zeros(3, 2, requires_grad=True), torch.tensor([3]))


def test_a_model_trains_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Decoder(11, 8, num_layers=1, num_heads=2, ff_dim=16)
    tokens = torch.randint(11, (2, 9))
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model.loss(tokens, tokens), parameters)
    calls, gradient = [], _embedding.embedding_backward
    monkeypatch.setattr(_embedding, "embedding_backward", lambda *args: calls.append(1) or gradient(*args))
    with offered(KERNEL):
        found = torch.autograd.grad(model.loss(tokens, tokens), parameters)
    assert calls
    torch.testing.assert_close(found, expected)


def test_refused_for_the_reference() -> None:
    weight, ids = torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64)
    assert _embedding.supports(weight, ids)
    assert not _embedding.supports(weight.double(), ids)
    assert not _embedding.supports(weight, ids.float())
    assert not _embedding.supports(weight[0], ids)
