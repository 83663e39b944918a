"""What the tests of gradient learners share: small networks, episodes, and MAML as plain loops."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from athena_meta import Episodes

DOUBLE = torch.float64
#: Every way of computing the same thing, for learners that keep no inner steps.
EXPLICIT_WAYS = (
    {"mode": "vmap"},
    {"mode": "vmap", "chunk_size": 2},
    {"mode": "vmap", "memory_budget": 10**9},
    {"mode": "loop"},
    {"mode": "auto"},
)
WAYS = (
    *EXPLICIT_WAYS,
    {"mode": "vmap", "checkpoint_steps": True},
    {"mode": "loop", "checkpoint_steps": True},
)


def mlp(*, inputs: int = 3, outputs: int = 2, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, outputs)).double()


def normed(*, outputs: int = 2) -> nn.Module:
    """A linear layer and a convolution, each with batch norm, one of them without weights."""
    return nn.Sequential(
        *(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Unflatten(1, (2, 2, 2))),
        *(nn.Conv2d(2, 3, 2, padding=1), nn.BatchNorm2d(3, affine=False), nn.Tanh(), nn.Flatten()),
        nn.Linear(27, outputs),
    ).double()


def classes(*, tasks: int = 5, shots: int = 4, queries: int = 3, inputs: int = 3) -> Episodes:
    """Two-way episodes around class centres."""
    centres = torch.randn(tasks, 2, inputs, dtype=DOUBLE)

    def drawn(each: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(2).repeat(each)
        return centres[:, y] + 0.5 * torch.randn(tasks, 2 * each, inputs, dtype=DOUBLE), y.repeat(tasks, 1)

    return Episodes(*drawn(shots), *drawn(queries))


def curves(*, tasks: int = 4, shots: int = 5) -> Episodes:
    """Regression from three inputs to two outputs."""
    return Episodes(*(torch.randn(tasks, shots, size, dtype=DOUBLE) for size in (3, 2, 3, 2)))


def plain_maml(network, episodes, *, lr=0.1, steps=3, first_order=False, loss=F.cross_entropy):
    """Losses of each task and the gradient of their mean, by one loop over tasks and one over steps."""
    theta = dict(network.named_parameters())
    losses = []
    for support_x, support_y, query_x, query_y in zip(*episodes[:4], strict=True):
        phi = theta
        for _ in range(steps):
            inner = loss(functional_call(network, phi, (support_x,)), support_y)
            found = torch.autograd.grad(inner, list(phi.values()), create_graph=True)
            if first_order:
                found = [gradient.detach() for gradient in found]
            phi = {name: phi[name] - lr * gradient for name, gradient in zip(phi, found, strict=True)}
        losses.append(loss(functional_call(network, phi, (query_x,)), query_y))
    mean = torch.stack(losses).mean()
    return mean.detach(), torch.autograd.grad(mean, list(theta.values()))


def gradients(learner, episodes) -> list[Tensor]:
    found = torch.autograd.grad(learner.loss(episodes), learner.trained(), allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(learner.trained(), found, strict=True)
    ]


def assert_slope(learner, episodes, *, step: float = 1e-5) -> None:
    """The gradient along a random direction is that of central differences, of error ``step`` squared."""
    found = gradients(learner, episodes)
    direction = [torch.randn_like(parameter) for parameter in learner.trained()]
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, along in zip(learner.trained(), direction, strict=True):
                parameter.add_(along, alpha=sign * step)
            values.append(learner.loss(episodes))
        for parameter, along in zip(learner.trained(), direction, strict=True):
            parameter.add_(along, alpha=step)
    slope = sum((gradient * along).sum() for gradient, along in zip(found, direction, strict=True))
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def train(
    meta: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    *,
    after: Callable[[Any], None] | None = None,
) -> None:
    """Outer steps on the same episodes, each with the random numbers of its number."""
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        meta.loss(classes()).backward()  # type: ignore[operator]
        optimizer.step()
        if after:
            after(meta)


def saved(*parts: Any) -> io.BytesIO:
    """The states of these as a file."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return file


def restore(file: io.BytesIO, *parts: Any) -> None:
    """Give fresh ones the states of a file, which may hold tensors and primitives only."""
    for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
