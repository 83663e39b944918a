"""FlexAttention against the bias held whole; on the CPU, where it has a forward pass alone."""

from __future__ import annotations

import pytest
import torch

from athena_nn import (
    AlibiPositions,
    KVCache,
    MultiHeadAttention,
    NoPositions,
    Positions,
    RelativeBias,
    RotaryPositions,
    attention_reference,
    causal_mask,
)
from athena_nn._context import Context
from athena_nn._flex import flex_attend, flex_helps
from athena_nn._masks import visible

POSITIONS = {
    "alibi": lambda: AlibiPositions(4),
    "relative-bias": lambda: RelativeBias(4, max_distance=20),
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("options", [(False, None), (True, None), (True, 5), (False, 5)])
@pytest.mark.parametrize("own_positions", [False, True])
@torch.no_grad()
def test_equals_the_bias_held_whole(name, options, own_positions):
    causal, window = options
    part = POSITIONS[name]()
    q, k, v = torch.randn(2, 4, 150, 16), torch.randn(2, 2, 150, 16), torch.randn(2, 2, 150, 16)
    positions = torch.arange(150) * torch.tensor([[1], [3]]) if own_positions else torch.arange(150)
    order = torch.arange(150)
    seen = visible(order, order, causal=causal, window=window)
    bias = part.bias(positions, positions).masked_fill(~seen, float("-inf"))
    y = flex_attend(q, k, v, part=part, positions=positions, causal=causal, window=window, scale=0.2)
    torch.testing.assert_close(y, attention_reference(q, k, v, mask=bias, scale=0.2), rtol=1e-5, atol=1e-5)


class OnItsDevice(torch.Tensor):
    """Says that it is on an accelerator; nothing is computed with it."""

    @property
    def device(self):
        return torch.device("cuda")


def where(
    part: Positions, time: int = 256, width: int = 64, dropout: float = 0.0, dtype=None, **options
) -> bool:
    q = torch.zeros(1, 4, time, width, dtype=dtype).as_subclass(OnItsDevice)
    context = Context(1, time, torch.device("cpu"), **options)
    return flex_helps(part, q, context, dropout)


def test_it_is_taken_where_a_bias_would_be_held_on_an_accelerator():
    alibi = AlibiPositions(4)
    assert where(alibi)
    assert where(RelativeBias(4))
    assert not where(RotaryPositions(64))
    assert not where(NoPositions())
    assert not where(alibi, time=64)
    assert not where(alibi, width=48)
    assert not where(alibi, dropout=0.1)
    assert where(alibi, dtype=torch.bfloat16)
    assert not where(alibi, dtype=torch.float64)  # which its Triton kernel does not compile
    assert not where(alibi, mask=causal_mask(256))
    assert not where(alibi, cache=KVCache(num_layers=1, batch=1, num_kv_heads=1, head_dim=64))
    assert not flex_helps(alibi, torch.zeros(1, 4, 256, 64), Context(1, 256, torch.device("cpu")), 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", POSITIONS)
def test_on_an_accelerator_forward_and_backward(name):
    attention = MultiHeadAttention(64, 4, num_kv_heads=2, causal=True, positions=POSITIONS[name]()).cuda()
    x = torch.randn(2, 300, 64, device="cuda", requires_grad=True)
    mask = torch.ones(300, 300, dtype=torch.bool, device="cuda")  # with a mask, the bias is held whole
    for y, expected in ((attention(x), attention(x, mask=mask)),):
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
        ours, theirs = (torch.autograd.grad(one.square().sum(), x)[0] for one in (y, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
