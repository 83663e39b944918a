"""A meta-step of MAML, with its gradients, beside higher, TorchOpt and a plain loop over tasks.

    python bench_maml.py [--repeats 15] [--json FILE] [--threads 2]

The first case is a 1-40-40-1 network, 25 tasks of 10 shots, 5 inner steps, second order; the other a Conv-4
on 28x28, 5-way 1-shot with 15 queries a class, 8 tasks, 5 inner steps, first order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_meta import MAML, Conv4, Episodes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own imports
    import higher
    import torchopt

LR, STEPS = 0.01, 5
Loss = Callable[[Tensor, Tensor], Tensor]


def by_higher(net: nn.Module, batch: Episodes, loss: Loss, *, first_order: bool) -> list[Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    found: list[Any] = []
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, track_higher_grads=not first_order
        ) as (fast, steps):
            for _ in range(STEPS):
                steps.step(loss(fast(support_x), support_y))
            end = list(fast.parameters()) if first_order else list(net.parameters())
            found.append(torch.autograd.grad(loss(fast(query_x), query_y), end))
    return mean(found)


def by_torchopt(net: nn.Module, batch: Episodes, loss: Loss, *, first_order: bool) -> list[Tensor]:
    steps = torchopt.MetaSGD(net, lr=LR)
    start = torchopt.extract_state_dict(net, by="reference")
    leaves, found = list(net.parameters()), []
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        for _ in range(STEPS):
            steps.step(loss(net(support_x), support_y))
            if first_order:
                torchopt.stop_gradient(net)
        end = list(net.parameters()) if first_order else leaves
        if first_order:
            for tensor in end:
                tensor.requires_grad_()
        found.append(torch.autograd.grad(loss(net(query_x), query_y), end))
        torchopt.recover_state_dict(net, start)
    return mean(found)


def by_loop(net: nn.Module, batch: Episodes, loss: Loss, *, first_order: bool) -> list[Tensor]:
    names, leaves = zip(*net.named_parameters(), strict=True)
    found = []
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        phi = leaves
        for _ in range(STEPS):
            inner = loss(functional_call(net, dict(zip(names, phi, strict=True)), (support_x,)), support_y)
            grads = torch.autograd.grad(inner, phi, create_graph=not first_order)
            phi = tuple(value - LR * grad for value, grad in zip(phi, grads, strict=True))
            if first_order:
                phi = tuple(value.detach().requires_grad_() for value in phi)
        outer = loss(functional_call(net, dict(zip(names, phi, strict=True)), (query_x,)), query_y)
        found.append(torch.autograd.grad(outer, phi if first_order else leaves))
    return mean(found)


def mean(found: list[Any]) -> list[Tensor]:
    return [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)]


PEERS = {"higher": by_higher, "torchopt": by_torchopt, "plain loop": by_loop}


def learner(net: nn.Module, loss: Loss, *, first_order: bool) -> MAML:
    return MAML(net, inner_lr=LR, inner_steps=STEPS, first_order=first_order, loss=loss, transductive=True)


def by_ours(meta: MAML, batch: Episodes) -> list[Tensor]:
    return list(torch.autograd.grad(meta.loss(batch), meta.trained()))


def compare(net: nn.Module, batch: Episodes, loss: Loss, *, first_order: bool) -> None:
    """All find the same gradients of two tasks, in float64: after ReLUs and pooling float32 tells little."""
    net = deepcopy(net).double()
    parts = (part.double() if part.is_floating_point() else part for part in batch.take(0, 2)[:4])
    batch = Episodes(*parts)
    expected = by_ours(learner(net, loss, first_order=first_order), batch)
    for name, peer in PEERS.items():
        for mine, other in zip(expected, peer(net, batch, loss, first_order=first_order), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023


def case(
    name: str, net: nn.Module, batch: Episodes, loss: Loss, *, first_order: bool, repeats: int
) -> dict[str, Any]:
    """One row, after the gradients of all were compared."""
    compare(net, batch, loss, first_order=first_order)
    meta = learner(net, loss, first_order=first_order)
    by_ours(meta, batch)  # chooses its way
    peers = {key: partial(peer, net, batch, loss, first_order=first_order) for key, peer in PEERS.items()}
    works = (partial(by_ours, meta, batch), *peers.values())
    ours, *others = (1e3 * time for time in medians(repeats, *(partial(seconds, work) for work in works)))
    return row(
        name, ours=ours, peers=dict(zip(peers, others, strict=True)), unit="ms", chosen=str(meta.chosen)
    )


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    curves = Episodes(*(torch.randn(25, 10, 1) for _ in range(4)))
    yield case("MLP, second order", net, curves, F.mse_loss, first_order=False, repeats=repeats)
    y, query_y = torch.arange(5).expand(8, -1), torch.arange(5).repeat(15).expand(8, -1)
    images = Episodes(torch.rand(8, 5, 1, 28, 28), y, torch.rand(8, 75, 1, 28, 28), query_y)
    conv = Conv4(outputs=5)
    yield case("Conv-4, first order", conv, images, F.cross_entropy, first_order=True, repeats=repeats)


if __name__ == "__main__":
    run(parser(__doc__, repeats=15), rows)
