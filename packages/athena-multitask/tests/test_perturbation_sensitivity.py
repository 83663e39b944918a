"""Average perturbation sensitivity, on networks where it is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from athena_multitask import ProgressiveNetwork, average_perturbation_sensitivity

INPUTS = torch.linspace(-1, 1, 400)[:, None]


def line(*, own: float, lateral: float) -> Any:
    """Two columns of one hidden unit; the newest gives ``own h_1 + lateral h_0``, both ``h = x``."""
    network: Any = ProgressiveNetwork(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    network.add_column()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for column in network.columns:
            column.stages[0].layer.weight.fill_(1)
        network.columns[1].stages[1].layer.weight.fill_(own)
        network.columns[1].laterals[1].maps[0].weight.fill_(lateral)
        network.columns[0].stages[1].layer.weight.fill_(2.0)
    return network


def performance_of(network: Any, column: int = -1) -> Any:
    """``1 / (1 + mean squared error)``: halved by an error of variance 1."""
    target = network(INPUTS, column).detach()
    return lambda predict: float(1 / (1 + (predict(INPUTS) - target).square().mean()))


@pytest.mark.parametrize(("own", "lateral"), [(3.0, 1.0), (1.0, 1.0), (0.1, 20.0), (-2.0, 0.5)])
def test_precision_is_the_square_of_the_weight(own, lateral):
    network = line(own=own, lateral=lateral)
    sensitivity, precision = average_perturbation_sensitivity(network, performance_of(network), steps=40)
    noise = torch.randn(INPUTS.shape, generator=torch.Generator().manual_seed(0)).square().mean()
    # variance 1 of the output: 1 / sigma² = weight² mean(noise²)
    expected = torch.tensor([[lateral**2, own**2]]) * noise
    torch.testing.assert_close(precision, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(sensitivity, expected / expected.sum(), rtol=1e-3, atol=0)


def test_a_share_other_than_half():
    """Of 0.2, variance 0.25 is enough."""
    network = line(own=1.0, lateral=1.0)
    half = average_perturbation_sensitivity(network, performance_of(network), steps=40).precision
    fifth = average_perturbation_sensitivity(network, performance_of(network), drop=0.2, steps=40).precision
    torch.testing.assert_close(fifth, 4 * half, rtol=1e-3, atol=0)


def test_what_is_not_used_has_none_and_an_older_column_sees_no_newer():
    network = line(own=1.0, lateral=0.0)
    sensitivity, precision = average_perturbation_sensitivity(network, performance_of(network))
    assert precision[0, 0] == 0
    assert sensitivity.tolist() == [[0.0, 1.0]]
    first = average_perturbation_sensitivity(network, performance_of(network, 0), column=0)
    assert first.sensitivity.tolist() == [[1.0]]
    idle = line(own=0.0, lateral=0.0)
    assert average_perturbation_sensitivity(idle, performance_of(idle)).sensitivity.isnan().all()


def test_it_has_a_row_for_each_hidden_layer_and_leaves_the_network_as_it_was():
    network: Any = ProgressiveNetwork(
        nn.Sequential(
            nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)
        ),
        lateral="adapter",
    )
    network.add_column()
    network.add_column()
    network.freeze_old()
    network.eval()
    target = network(INPUTS).detach()

    def performance(predict: Any) -> float:
        return float(1 / (1 + 1e4 * (predict(INPUTS) - target).square().mean()))

    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "extra" not in name}
    modes = [module.training for module in network.modules()]
    generator = torch.get_rng_state()
    sensitivity = average_perturbation_sensitivity(network, performance).sensitivity
    again = average_perturbation_sensitivity(network, performance).sensitivity
    assert sensitivity.shape == (2, 3)
    torch.testing.assert_close(sensitivity.sum(1), torch.ones(2))
    assert torch.equal(sensitivity, again)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": 1.0}, "`drop` must lie in"),
        ({"largest": 1.0}, "`largest` be above 1"),
        ({"steps": 0}, "`steps` at least 1"),
        ({"column": 2}, "`column` must be below 2"),
    ],
)
def test_misuse_is_told_in_one_line(options, words):
    network = line(own=1.0, lateral=1.0)
    with pytest.raises(ValueError, match=words) as error:
        average_perturbation_sensitivity(network, performance_of(network), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("useless", [0.0, -0.1, float("nan")])
def test_a_performance_that_cannot_be_halved(useless):
    network = line(own=1.0, lateral=1.0).train()
    with pytest.raises(ValueError, match="`performance` must be above 0"):
        average_perturbation_sensitivity(network, lambda predict: useless)
    assert network.training
