"""Conv-4 against its layers in the order of the papers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta import Conv4


def in_the_papers_order(network: Conv4, x: Tensor, *, pools: int = 4) -> Tensor:
    for index, block in enumerate(network.blocks):
        x = F.relu(block.norm(block.convolution(x)))
        if index < pools:
            x = F.max_pool2d(x, 2)
    return network.head(x.flatten(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pools", [4, 2])
def test_equals_the_papers_order(training: bool, pools: int) -> None:
    network = Conv4(2, width=5, size=17, outputs=3, pools=pools).double().train(training)
    with torch.no_grad():  # some channels upside down
        for block in network.blocks:
            block.norm.weight.uniform_(-1, 1)
    x = torch.randn(4, 2, 17, 17, dtype=torch.float64, requires_grad=True)
    found, expected = network(x), in_the_papers_order(network, x, pools=pools)
    torch.testing.assert_close(found, expected)
    wanted = [x, *network.parameters()]
    ours, others = (torch.autograd.grad(output.square().sum(), wanted) for output in (found, expected))
    torch.testing.assert_close(ours, others)


@pytest.mark.parametrize(("size", "features"), [(28, 64), (84, 1600), (16, 64)])
def test_features(size: int, features: int) -> None:
    network = Conv4(size=size)
    assert network.features == features
    assert network(torch.zeros(2, 1, size, size)).shape == (2, features)


def test_parameters_are_those_of_the_papers() -> None:
    # 64 filters: 3 blocks of 64 x 64 x 9 and the first of 64 x 9, biases, two of batch norm; 5 outputs.
    expected = 9 * 64 * (1 + 3 * 64) + 4 * 3 * 64 + 64 * 5 + 5
    assert sum(parameter.numel() for parameter in Conv4(outputs=5).parameters()) == expected
    assert isinstance(Conv4().head, nn.Identity)


def test_no_image() -> None:
    assert Conv4().eval()(torch.zeros(0, 1, 28, 28)).shape == (0, 64)


def test_errors() -> None:
    with pytest.raises(ValueError, match="`size` must be at least 16 for 4 poolings by 2; got 15"):
        Conv4(size=15)
    with pytest.raises(ValueError, match=r"`pools` must lie in \[0, 4\]"):
        Conv4(pools=5)
