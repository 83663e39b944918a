"""SAM against pytorch_optimizer's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from athena_optim import SAM

peers = pytest.importorskip("pytorch_optimizer")


@pytest.mark.parametrize("adaptive", [False, True])
def test_ten_steps_equal_theirs(adaptive):
    """Its adaptive scaling has no share that is independent of a weight's size; weights near 1 hide it."""
    torch.manual_seed(0)
    starts = [1 + 0.1 * torch.rand(4, 3, dtype=torch.float64), 1 + 0.1 * torch.rand(3, dtype=torch.float64)]
    data = torch.randn(16, 4, dtype=torch.float64)
    results = []
    for peer in (False, True):
        weights = [nn.Parameter(start.clone()) for start in starts]
        if peer:
            options = {"rho": 0.1, "adaptive": adaptive, "lr": 0.05}
            optimizer = peers.SAM(weights, base_optimizer=torch.optim.SGD, **options)
        else:
            optimizer = SAM(torch.optim.SGD(weights, lr=0.05), rho=0.1, adaptive=adaptive)

        def closure(weights=weights, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (torch.tanh(data @ weights[0]) * weights[1]).square().mean()
            loss.backward()
            return loss

        for _ in range(10):
            if peer:
                closure()
            optimizer.step(closure)
        results.append([weight.detach() for weight in weights])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=2e-3 if adaptive else 1e-9
        )  # it adds 1e-12 to norms
