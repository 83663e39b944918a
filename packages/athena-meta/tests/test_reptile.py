"""Reptile: against plain loops, joint training, and the persistent state and minibatches of its code."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from gradient_models import EXPLICIT_WAYS, classes, curves, gradients, mlp, normed, restore, saved, train
from torch.func import functional_call

from athena_core import NotFinite
from athena_meta import Descent, InnerAdam, InnerMomentum, Reptile
from athena_meta._saved_bytes import peak_saved_bytes

LR = 0.1
ADAM = {"betas": (0.0, 0.999)}


def pooled(episodes):
    support_x, support_y, query_x, query_y, _ = episodes
    return torch.cat([support_x, query_x], 1), torch.cat([support_y, query_y], 1)


def plain_reptile(network, episodes, optimizer_of, *, steps=3, loss=F.cross_entropy):
    """The mean over the tasks of the start less the end, by a torch optimizer, one task at a time."""
    start = [parameter.detach() for parameter in network.parameters()]
    moved, losses = [], []
    for x, y, query_x, query_y in zip(*pooled(episodes), *episodes[2:4], strict=True):
        own = copy.deepcopy(network)
        optimizer = optimizer_of(own.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            loss(own(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(loss(own(query_x), query_y))
        moved.append([before - after.detach() for before, after in zip(start, own.parameters(), strict=True)])
    return torch.stack(losses).mean(), [torch.stack(parts).mean(0) for parts in zip(*moved, strict=True)]


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
@pytest.mark.parametrize(
    ("inner", "optimizer_of"),
    [
        (Descent(LR), lambda p: torch.optim.SGD(p, lr=LR)),
        (InnerMomentum(LR, momentum=0.9), lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9)),
        (InnerAdam(LR, **ADAM), lambda p: torch.optim.Adam(p, lr=LR, **ADAM)),
    ],
    ids=["descent", "momentum", "adam"],
)
def test_every_way_is_the_plain_loop(inner, optimizer_of, way):
    network, episodes = mlp(), classes()
    loss, expected = plain_reptile(network, episodes, optimizer_of)
    meta = Reptile(network, inner=inner, inner_steps=3, **way)
    torch.testing.assert_close(meta.loss(episodes), loss, check_dtype=True)
    torch.testing.assert_close(gradients(meta, episodes), expected)
    with torch.no_grad():
        torch.testing.assert_close(meta.loss(episodes), loss)
    meta.loss(episodes).backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], expected)


def test_an_outer_step_is_the_papers():
    network, episodes = mlp(), curves(tasks=1)
    meta = Reptile(network, inner_lr=LR, inner_steps=4, loss=F.mse_loss)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    _, moved = plain_reptile(network, episodes, lambda p: torch.optim.SGD(p, lr=LR), steps=4, loss=F.mse_loss)
    meta.loss(episodes).backward()
    torch.optim.SGD(meta.parameters(), lr=0.5).step()
    for before, after, less in zip(start, network.parameters(), moved, strict=True):
        end = before - less
        torch.testing.assert_close(after.detach(), before + 0.5 * (end - before))


def test_one_inner_step_is_joint_training():
    network, episodes = mlp(), classes()
    x, y = (part.flatten(0, 1) for part in pooled(episodes))
    joint = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    meta = Reptile(network, inner_lr=LR, inner_steps=1)
    torch.testing.assert_close(gradients(meta, episodes), [LR * gradient for gradient in joint])


def test_no_inner_step_is_no_gradient():
    meta = Reptile(mlp(), inner_steps=0)
    assert not any(gradient.any() for gradient in gradients(meta, classes()))
    Reptile(mlp(), inner_steps=0, minibatch=2).predict(classes())


def test_predictions_adapt_to_the_support_set_alone():
    network, episodes = mlp(), classes(tasks=1)
    meta = Reptile(network, inner_lr=LR, inner_steps=3)
    other = episodes._replace(query_y=1 - episodes.query_y)
    torch.testing.assert_close(meta.predict(other), meta.predict(episodes), rtol=0, atol=0)
    own = copy.deepcopy(network)
    optimizer = torch.optim.SGD(own.parameters(), lr=LR)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(own(episodes.support_x[0]), episodes.support_y[0]).backward()
        optimizer.step()
    torch.testing.assert_close(meta.predict(episodes)[0], own(episodes.query_x[0]).detach())


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
def test_minibatches_are_the_same_in_every_way(way):
    """Seven steps of three of the fourteen examples: each example once before any comes again."""
    network, episodes = mlp(), classes(tasks=3)
    meta = Reptile(network, inner_lr=LR, inner_steps=7, minibatch=3, **way)
    meta.loss(episodes)  # chooses its way
    torch.manual_seed(1)
    found = gradients(meta, episodes)
    torch.manual_seed(1)
    orders = torch.stack([torch.cat([torch.randperm(14), torch.randperm(14)]) for _ in range(3)])
    moved = []
    for x, y, order in zip(*pooled(episodes), orders, strict=True):
        phi = dict(network.named_parameters())
        for step in range(7):
            part = order[3 * step : 3 * step + 3]
            loss = F.cross_entropy(functional_call(network, phi, (x[part],)), y[part])
            slopes = torch.autograd.grad(loss, list(phi.values()))
            phi = {name: phi[name] - LR * slope for name, slope in zip(phi, slopes, strict=True)}
        moved.append([(p - q).detach() for p, q in zip(network.parameters(), phi.values(), strict=True)])
    torch.testing.assert_close(found, [torch.stack(parts).mean(0) for parts in zip(*moved, strict=True)])


def test_minibatches_are_drawn_in_training_and_fixed_in_evaluation():
    episodes = classes()
    meta = Reptile(mlp(), inner_lr=LR, minibatch=3)
    assert not torch.equal(meta.predict(episodes), meta.predict(episodes))
    meta.eval()
    state = torch.get_rng_state()
    outputs = meta.predict(episodes)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(meta.predict(episodes), outputs, rtol=0, atol=0)
    for task in range(episodes.tasks):
        adapted = meta.adapt(episodes.support_x[task], episodes.support_y[task])
        torch.testing.assert_close(adapted(episodes.query_x[task]).detach(), outputs[task])


def test_a_minibatch_of_all_is_no_minibatch():
    network, episodes = mlp(), classes(shots=2, queries=1)
    plain = Reptile(network, inner_lr=LR)
    for size in (6, 7):
        meta = Reptile(network, inner_lr=LR, minibatch=size)
        torch.testing.assert_close(gradients(meta, episodes), gradients(plain, episodes), rtol=0, atol=0)


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
def test_a_persistent_state_is_one_optimizer_for_all_tasks(way):
    """Pitfall 12: one Adam for all tasks, while weights start anew; evaluation leaves it alone."""
    network, episodes = mlp(), classes(tasks=4)
    meta = Reptile(network, inner=InnerAdam(LR, **ADAM), inner_steps=3, persistent=True, **way)
    own = copy.deepcopy(network)
    start = copy.deepcopy(own.state_dict())
    optimizer = torch.optim.Adam(own.parameters(), lr=LR, **ADAM)

    def run(x, y):
        own.load_state_dict(start)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(own(x), y).backward()
            optimizer.step()

    for part in episodes.split(1):
        run(*(pool[0] for pool in pooled(part)))
        moved = [start[name] - after.detach() for name, after in own.named_parameters()]
        torch.testing.assert_close(gradients(meta, part), moved)
    assert int(meta.persistent.steps) == 12

    slots = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(meta.state_dict())
    meta.eval()
    for task in range(2):
        optimizer.load_state_dict(copy.deepcopy(slots))
        run(episodes.support_x[task], episodes.support_y[task])
        torch.testing.assert_close(meta.predict(episodes)[task], own(episodes.query_x[task]).detach())
    meta.loss(episodes).backward()
    meta.adapt(episodes.support_x[0], episodes.support_y[0])
    with torch.no_grad():
        meta.train().loss(episodes)
    for name, tensor in meta.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_persistent_state_is_the_mean_of_the_tasks_in_every_way():
    network, episodes = mlp(), classes(tasks=3)
    states = []
    for way in EXPLICIT_WAYS:
        meta = Reptile(network, inner=InnerMomentum(LR), persistent=True, **way)
        meta.loss(episodes)
        states.append(meta.persistent.state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state, states[0])
    alone = []
    for part in episodes.split(1):
        meta = Reptile(network, inner=InnerMomentum(LR), persistent=True)
        meta.loss(part)
        alone.append([*meta.persistent.buffers()])
    means = [torch.stack(parts).mean(0) for parts in zip(*(one[1:] for one in alone), strict=True)]
    torch.testing.assert_close([*states[0].values()][1:], means)


@pytest.mark.parametrize("persistent", [False, True])
def test_resuming_is_going_on(persistent):
    def made():
        torch.manual_seed(0)
        inner = InnerAdam(0.01, **ADAM)
        meta = Reptile(mlp(), inner=inner, inner_steps=2, minibatch=3, persistent=persistent, mode="vmap")
        return meta, torch.optim.Adam(meta.parameters(), lr=0.05)

    meta, optimizer = made()
    train(meta, optimizer, range(2))
    file = saved(meta, optimizer)
    train(meta, optimizer, range(2, 4))
    fresh, other = made()
    restore(file, fresh, other)
    train(fresh, other, range(2, 4))
    torch.testing.assert_close(fresh.state_dict(), meta.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("transductive", [True, False])
def test_batch_norm_and_base_buffers(transductive):
    meta = Reptile(normed(), inner_lr=LR, transductive=transductive, minibatch=4)
    episodes = classes(queries=4)
    before = copy.deepcopy(meta.state_dict())
    meta.loss(episodes).backward()
    outputs = meta.eval().predict(episodes)
    single = episodes._replace(query_x=episodes.query_x[:, :2], query_y=episodes.query_y[:, :2])
    assert torch.allclose(meta.predict(single), outputs[:, :2]) == (not transductive)
    for name, tensor in meta.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_frozen_parameters_stay():
    network = mlp()
    network[0].requires_grad_(False)
    meta = Reptile(network, inner_lr=LR, inner=InnerAdam(LR), persistent=True)
    meta.loss(classes()).backward()
    assert network[0].weight.grad is None
    assert network[3].weight.grad.any()


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_memory_does_not_grow_with_steps(mode):
    peaks = []
    for steps in (2, 20):
        meta = Reptile(mlp(), inner_lr=LR, inner_steps=steps, mode=mode)
        episodes = classes(tasks=2)
        peaks.append(peak_saved_bytes(lambda: meta.loss(episodes).backward()))  # noqa: B023  called here
    assert peaks[0] == peaks[1] > 0


def test_errors():
    with pytest.raises(ValueError, match="`minibatch` must be at least 1, or None for all examples; got 0"):
        Reptile(mlp(), minibatch=0)
    with pytest.raises(ValueError, match=r"`persistent` must be False .* got Descent. InnerAdam"):
        Reptile(mlp(), persistent=True)
    with pytest.raises(ValueError, match="`transductive` must be True or False"):
        Reptile(normed())
    for mode in ("vmap", "loop"):
        with pytest.raises(NotFinite, match=r"after step 1 of task 0. Lower `inner_lr`"):
            Reptile(mlp(), inner_lr=1e200, loss=F.mse_loss, mode=mode).loss(curves())
    episodes = curves()
    episodes.query_y[2] = float("nan")
    with pytest.raises(NotFinite, match=r"got nan after step 0 of task 2. Look at its support set"):
        Reptile(mlp(), loss=F.mse_loss, mode="loop").loss(episodes)
