"""A model trains with all kernels together as it does without any."""

from __future__ import annotations

import torch
from drawn import KERNELS
from torch import Tensor

from athena_core import _kernels
from athena_core.testing._kernels import offered
from athena_nn import Decoder, RotaryPositions
from athena_optim import AdamW

KERNELED = [
    "athena_nn::add_rms_norm",
    "athena_nn::embedding",
    "athena_nn::linear_cross_entropy",
    "athena_nn::rms_norm",
    "athena_nn::rotary",
    "athena_nn::swiglu",
    "athena_optim::adamw_",
]


def losses() -> list[Tensor]:
    torch.manual_seed(0)
    model = Decoder(7, 8, num_layers=1, num_heads=2, ff_dim=12, positions=RotaryPositions(4))
    optimizer = AdamW(model.parameters(), lr=0.1)
    tokens = torch.arange(10).view(2, 5) % 7
    found = []
    for _ in range(3):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return found


def test_three_steps() -> None:
    expected = losses()
    with offered(*(KERNELS[op] for op in KERNELED)):
        found = losses()
        ran = {op for op in KERNELED if "cpu" in _kernels.OPS[op].installed}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found[-1] < 0.7 * found[0]
    assert ran == set(KERNELED)
