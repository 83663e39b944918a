"""Batch norm with weights, and running statistics, of its own for each step of an inner loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from athena_meta._batch_norm import statistics
from athena_meta._inner_update import Tensors, undotted

PREFIX = "by step: "  # of names that no place in a network has


class PerStepBatchNorm(nn.Module):
    """What the batch norms of a network have at each number of steps, 0 to ``steps``.

    Weights after the last step are the network's own; those of the steps before it are rows here. Running
    statistics are all here, those of the network are left as they are. They are the mean over all passes of
    all tasks at that step, gathered between :meth:`begin` and :meth:`commit`; variances are biased ones.

    Args:
        norms: those of a network, by their names in it; none may be given.
        steps: of the inner loop.
        running: with running statistics.

    Raises ValueError for running statistics where a batch norm has none.
    """

    def __init__(self, norms: Mapping[str, _BatchNorm], *, steps: int, running: bool) -> None:
        super().__init__()
        self.steps, self.running = steps, running
        self.weights, self.statistics = nn.ParameterDict(), nn.Module()
        #: The names of the network's own weights, by those of their rows.
        self.places: dict[str, str] = {}
        #: The momentum of each batch norm that has running statistics.
        self.momenta: dict[str, float | None] = {}
        for prefix, norm in norms.items():
            for name, own in norm.named_parameters(prefix, recurse=False):
                self.places[undotted(name)] = name
                rows = own.detach().expand(steps, -1).clone()
                self.weights[undotted(name)] = nn.Parameter(rows, requires_grad=own.requires_grad)
            if running:
                self._register(prefix, norm)
        self._gathering = False
        self._gathered: dict[tuple[str, int], tuple[Tensor, Tensor, int]] = {}

    def _register(self, prefix: str, norm: _BatchNorm) -> None:
        if norm.running_mean is None:
            raise ValueError(
                "`running_statistics` must be False for a network with batch norms that have none; got "
                f"{prefix or 'itself'}. Make it with track_running_stats=True."
            )
        assert norm.running_var is not None
        self.momenta[prefix] = norm.momentum
        for kind, own in (("running_mean", norm.running_mean), ("running_var", norm.running_var)):
            rows = own.expand(self.steps + 1, -1).clone()
            self.statistics.register_buffer(undotted(_place(prefix, kind)), rows)
        self.statistics.register_buffer(
            undotted(_place(prefix, "batches")), torch.zeros(self.steps + 1).long()
        )

    def outer_tensors(self) -> Tensors:
        """The rows of weights by name, for ``values``."""
        return {f"{PREFIX}{place}": self.weights[key] for key, place in self.places.items()}

    def at(self, values: Tensors, step: int, *, running: bool = False) -> Tensors:
        """The values of all places after so many steps, from those and the rows."""
        found = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
        if step < self.steps:
            found |= {place: values[f"{PREFIX}{place}"][step] for place in self.places.values()}
        return found | (self.running_at(step) if running else {})

    def running_at(self, step: int) -> Tensors:
        """Running means and variances after so many steps, by the names of the network's own."""
        return {
            place: self.statistics.get_buffer(undotted(place))[min(step, self.steps)]
            for prefix in self.momenta
            for place in (_place(prefix, "running_mean"), _place(prefix, "running_var"))
        }

    @torch.no_grad()
    def copy_into(self, network: nn.Module, step: int) -> None:
        """Give a copy of the network the weights, and running statistics if any, after so many steps."""
        if step < self.steps:
            for key, place in self.places.items():
                network.get_parameter(place).copy_(self.weights[key][step])
        for place, value in self.running_at(step).items():
            network.get_buffer(place).copy_(value)

    @contextmanager
    def watching(self, network: nn.Module, step: int) -> Iterator[None]:
        """Within it the statistics of what passes through the batch norms are gathered, if asked for."""
        handles = [
            network.get_submodule(prefix).register_forward_pre_hook(partial(self._watch, prefix, step))
            for prefix in (self.momenta if self._gathering else ())
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, prefix: str, step: int, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del norm
        _Tell.apply(partial(self._add, (prefix, min(step, self.steps))), *statistics(inputs[0].detach()))

    def _add(self, place: tuple[str, int], means: Tensor, variances: Tensor) -> None:
        mean, variance, count = self._gathered.get(place, (0, 0, 0))
        self._gathered[place] = (mean + means.sum(0), variance + variances.sum(0), count + len(means))

    def begin(self) -> None:
        """Forget what was gathered."""
        self._gathered = {}

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Within it what is watched is gathered."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False

    def commit(self) -> None:
        """Take what was gathered into the running statistics."""
        for (prefix, step), (mean, variance, count) in self._gathered.items():
            batches = self.statistics.get_buffer(undotted(_place(prefix, "batches")))
            batches[step] += 1
            momentum = self.momenta[prefix]
            share = 1 / int(batches[step]) if momentum is None else momentum
            running = self.statistics.get_buffer(undotted(_place(prefix, "running_mean")))
            running[step].lerp_(mean / count, share)
            running = self.statistics.get_buffer(undotted(_place(prefix, "running_var")))
            running[step].lerp_(variance / count, share)
        self.begin()


class _Tell(torch.autograd.Function):
    """Tells plain tensors to a function from inside a vmap, which would give it its wrapped ones."""

    @staticmethod
    def forward(tell: Any, mean: Tensor, variance: Tensor) -> Tensor:
        tell(mean.unsqueeze(0), variance.unsqueeze(0))
        return mean.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: the statistics are constants."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        del info
        tell, mean, variance = inputs
        means, variances = mean.movedim(in_dims[1], 0), variance.movedim(in_dims[2], 0)
        tell(means, variances)
        return means.clone(), 0


def batch_norms_by_name(network: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of a network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def _place(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
