"""Transfer analysis: on which layers of which columns a prediction relies, by noise in each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from athena_multitask._progressive_network import ProgressiveNetwork

Predict = Callable[[Any], Any]


class PerturbationSensitivity(NamedTuple):
    """What noise in each layer of each column does; both are ``(layers, columns)``.

    Args:
        sensitivity: shares of the columns, which sum to 1 in each layer; NaN in a layer where no noise hurts.
        precision: of the noise that takes the share ``drop`` of the performance; 0 where none does.

    >>> PerturbationSensitivity(torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 3.0]])).sensitivity.sum()
    tensor(1.)
    """

    sensitivity: Tensor
    precision: Tensor


def average_perturbation_sensitivity(
    network: ProgressiveNetwork,
    performance: Callable[[Predict], float],
    *,
    column: int | None = None,
    drop: float = 0.5,
    largest: float = 1e4,
    steps: int = 20,
    seed: int = 0,
) -> PerturbationSensitivity:
    r"""How much a column's predictions rely on each hidden layer of each column.

    Gaussian noise is added to the hidden activations of one layer of one column, in all else the network is
    whole. The more precise the noise that halves the performance, the more the network relies on the layer:

    .. math:: \Lambda_i^{(k)} = 1 / \sigma^2 : \; P(\sigma) = (1 - \mathrm{drop})\, P(0), \qquad
        \mathrm{APS}_i^{(k)} = \Lambda_i^{(k)} \Big/ \sum_{k'} \Lambda_i^{(k')}

    The deviation is found by bisection of its logarithm, from ``largest`` down to its inverse, with the same
    draws for every deviation. The network is in eval mode meanwhile, and calculates no gradients.

    Args:
        network: trained.
        performance: is given a function that predicts, and returns how good the predictions are, above 0 and
            0 for useless ones: subtract from an accuracy that of chance.
        column: whose predictions; by default the newest's.
        drop: the share of the performance that is lost.
        largest: deviation that is tried.
        steps: of bisection; the deviation is exact to a factor of ``largest`` to the power of 2 / 2 ** steps.
        seed: of the noise.

    Shape: both results are ``(layers, columns)``, of hidden layers and of the columns up to ``column``.

    Raises ValueError for a performance that is not above 0, or options outside their range.

    Source: Rusu et al. 2016, arXiv:1606.04671, its transfer analysis and appendix. Departs from it:
    ``drop`` may be other than a half.

    >>> from torch import nn
    >>> network = ProgressiveNetwork(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)))
    >>> _ = network.add_column()
    >>> x = torch.ones(50, 2)
    >>> target = network(x).detach()
    >>> sensitivity, _ = average_perturbation_sensitivity(
    ...     network, lambda predict: float(1 / (1 + (predict(x) - target).square().mean()))
    ... )
    >>> sensitivity.shape, bool(sensitivity.sum() == 1)
    (torch.Size([1, 2]), True)
    """
    if not 0 < drop < 1 or not largest > 1 or steps < 1:
        raise ValueError(
            f"`drop` must lie in (0, 1), `largest` be above 1 and `steps` at least 1; got {drop}, {largest} "
            f"and {steps}. Keep their defaults."
        )
    number = len(network.columns) - 1 if column is None else network.index(column)
    layers = len(network.columns[0].stages) - 1  # pyright: ignore[reportArgumentType]
    precision = torch.zeros(layers, number + 1, dtype=torch.float64)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            whole = performance(lambda x: network(x, number))
            if not (math.isfinite(whole) and whole > 0):
                raise ValueError(
                    f"`performance` must be above 0 for the network as it is; got {whole}. Train it, or "
                    "subtract less."
                )
            for layer, source in ((i, k) for i in range(layers) for k in range(number + 1)):
                noisy = _Noisy(network, number, (source, layer), seed)
                deviation = _deviation(noisy, performance, (1 - drop) * whole, largest, steps)
                precision[layer, source] = deviation**-2
    finally:
        for module, mode in modes:
            module.training = mode
    sensitivity = precision / precision.sum(dim=1, keepdim=True)
    return PerturbationSensitivity(sensitivity.float(), precision.float())


class _Noisy:
    """The network with noise in one place."""

    def __init__(self, network: ProgressiveNetwork, column: int, place: tuple[int, int], seed: int) -> None:
        self.network, self.column, self.place, self.seed = network, column, place, seed

    def at(self, deviation: float) -> Predict:
        """Predicts with noise of this deviation, from the same draws for each."""
        generator = torch.Generator().manual_seed(self.seed)

        def edit(number: int, stage: int, hidden: Tensor) -> Tensor:
            if (number, stage) != self.place:
                return hidden
            # drawn on the CPU: the same on every device
            noise = torch.randn(hidden.shape, generator=generator).to(hidden)
            return hidden + deviation * noise

        return lambda x: self.network(x, self.column, edit=edit)


def _deviation(
    noisy: _Noisy, performance: Callable[[Predict], float], bar: float, largest: float, steps: int
) -> float:
    """Of noise that brings the performance down to the bar; infinite if none does."""
    if performance(noisy.at(largest)) > bar:
        return math.inf
    high = math.log(largest)
    low = -high
    for _ in range(steps):
        middle = (low + high) / 2
        if performance(noisy.at(math.exp(middle))) > bar:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
