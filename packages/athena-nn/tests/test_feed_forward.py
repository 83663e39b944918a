"""`FeedForward` against its formula; which activations it takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from athena_core import AthenaError
from athena_nn import FeedForward, SwiGLU

NAMES = {
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swiglu": lambda x: F.silu(x[..., :6]) * x[..., 6:],
    "geglu": lambda x: F.gelu(x[..., :6]) * x[..., 6:],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula(name, bias):
    layer = FeedForward(4, 6, activation=name, bias=bias)
    gated = name in ("swiglu", "geglu")
    assert layer.up.weight.shape == (12 if gated else 6, 4)
    assert layer.down.weight.shape == (4, 6)
    assert (layer.up.bias is not None, layer.down.bias is not None) == (bias, bias)
    x = torch.randn(2, 3, 4)
    inner = NAMES[name](F.linear(x, layer.up.weight, layer.up.bias))
    torch.testing.assert_close(layer(x), F.linear(inner, layer.down.weight, layer.down.bias))


def test_takes_a_built_activation():
    assert FeedForward(4, 6, activation=nn.Mish()).up.weight.shape == (6, 4)
    assert FeedForward(4, 6, activation=SwiGLU()).up.weight.shape == (12, 4)


def test_drops_elements_after_the_activation_while_training():
    layer = FeedForward(4, 64, activation="relu", dropout=0.5)
    seen = []
    layer.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(32, 4)
    layer(x)
    layer.eval()
    layer(x)
    dropped = (seen[0] == 0) & (seen[1] != 0)
    kept = seen[0] != 0
    assert 0.4 < dropped.sum() / (dropped | kept).sum() < 0.6
    torch.testing.assert_close(seen[0][kept], 2 * seen[1][kept])


def test_gradcheck():
    layer = FeedForward(3, 4, bias=True).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_empty_widths_are_refused(sizes):
    with pytest.raises(ValueError, match="`embed_dim` and `ff_dim` must be at least 1"):
        FeedForward(*sizes)


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(AthenaError, match="swiglu"):
        FeedForward(4, 4, activation="swigl")
