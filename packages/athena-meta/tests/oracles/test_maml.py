"""Meta-gradients are those of `higher` and of TorchOpt, on the same network and episodes."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta import MAML, Episodes, InnerAdam, InnerMomentum

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own imports
    import higher
    import torchopt

LR, STEPS = 0.05, 5
INNER = {
    "descent": (
        lambda: None,
        lambda p: torch.optim.SGD(p, lr=LR),
        lambda net: torchopt.MetaSGD(net, lr=LR),
    ),
    "momentum": (
        lambda: InnerMomentum(LR, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
        lambda net: torchopt.MetaSGD(net, lr=LR, momentum=0.9),
    ),
    "adam": (
        lambda: InnerAdam(LR),
        None,  # higher's Adam has other gradients than TorchOpt's, ours and differences
        lambda net: torchopt.MetaAdam(net, lr=LR),
    ),
}


def network(convolutional: bool) -> nn.Module:
    if convolutional:
        layers = (nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    else:
        layers = (nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 5))
    return nn.Sequential(*layers).double()


def episodes(tasks: int = 3) -> Episodes:
    y = torch.arange(5).repeat(2).expand(tasks, -1)
    x, query_x = torch.randn(2, tasks, 10, 36, dtype=torch.float64)
    return Episodes(x, y, query_x, y)


def by_higher(net: nn.Module, batch: Episodes, optimizer, *, first_order: bool = False) -> list[Tensor]:
    net.zero_grad()
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        made = optimizer(net.parameters())
        with higher.innerloop_ctx(
            net, made, copy_initial_weights=False, track_higher_grads=not first_order
        ) as (fast, steps):
            for _ in range(STEPS):
                steps.step(F.cross_entropy(fast(support_x), support_y))
            loss = F.cross_entropy(fast(query_x), query_y) / batch.tasks
            if first_order:  # higher has detached the steps: the gradient at the end is that of the start
                for parameter, grad in zip(
                    net.parameters(), torch.autograd.grad(loss, list(fast.parameters())), strict=True
                ):
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad
            else:
                loss.backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


def by_torchopt(net: nn.Module, batch: Episodes, optimizer) -> list[Tensor]:
    net.zero_grad()
    steps = optimizer(net)
    start = torchopt.extract_state_dict(net, by="reference")
    slots = torchopt.extract_state_dict(steps, by="reference")
    leaves = list(net.parameters())
    found = [torch.zeros_like(leaf) for leaf in leaves]
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        for _ in range(STEPS):
            steps.step(F.cross_entropy(net(support_x), support_y))
        loss = F.cross_entropy(net(query_x), query_y) / batch.tasks
        found = [a + b for a, b in zip(found, torch.autograd.grad(loss, leaves), strict=True)]
        torchopt.recover_state_dict(net, start)
        torchopt.recover_state_dict(steps, slots)
    return found


@pytest.mark.parametrize("mode", ["vmap", "loop"])
@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("inner", INNER)
def test_second_order(inner, convolutional, mode):
    net, batch = network(convolutional), episodes()
    update, for_higher, for_torchopt = INNER[inner]
    meta = MAML(net, inner_lr=LR, inner_steps=STEPS, inner=update(), mode=mode)
    ours = torch.autograd.grad(meta.loss(batch), list(net.parameters()))
    # Adam divides by roots of squared gradients, some of which are near 0.
    torch.testing.assert_close(list(ours), by_torchopt(net, batch, for_torchopt), rtol=1e-5, atol=1e-5)
    if for_higher:
        torch.testing.assert_close(list(ours), by_higher(net, batch, for_higher))


@pytest.mark.parametrize("mode", ["vmap", "loop"])
@pytest.mark.parametrize("convolutional", [False, True])
def test_first_order(convolutional, mode):
    net, batch = network(convolutional), episodes()
    meta = MAML(net, inner_lr=LR, inner_steps=STEPS, first_order=True, mode=mode)
    ours = torch.autograd.grad(meta.loss(batch), list(net.parameters()))
    theirs = by_higher(net, batch, INNER["descent"][1], first_order=True)
    torch.testing.assert_close(list(ours), theirs)
