"""MAML++: against plain loops and its sibling MAML, its annealing, and batch norm by step."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from gradient_models import WAYS, assert_slope, classes, curves, gradients, mlp, normed, restore, saved, train
from torch import nn
from torch.func import functional_call

from athena_meta import MAML, LayerwiseDescent, MAMLPlusPlus

LR, STEPS = 0.1, 3


def plain(network, episodes, importances, *, rates, norms=None):
    """The loss by one loop over tasks and one over steps; ``rates[step]`` and ``norms[step]`` by name."""
    theta = dict(network.named_parameters())
    total = 0
    for support_x, support_y, query_x, query_y in zip(*episodes[:4], strict=True):
        phi = {name: value for name, value in theta.items() if norms is None or name not in norms[0]}
        for step, importance in enumerate(importances):
            own = {} if norms is None else norms[step]
            inner = F.cross_entropy(functional_call(network, phi | own, (support_x,)), support_y)
            slopes = torch.autograd.grad(inner, list(phi.values()), create_graph=True)
            phi = {
                name: value - rates[step][name.split(".")[0]] * slope
                for (name, value), slope in zip(phi.items(), slopes, strict=True)
            }
            own = {} if norms is None else norms[step + 1]
            outer = F.cross_entropy(functional_call(network, phi | own, (query_x,)), query_y)
            total = total + importance * outer / episodes.tasks
    return total


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_is_the_plain_loop(way):
    """All steps count, and each layer has rates of its own."""
    network, episodes = mlp(), classes()
    meta = MAMLPlusPlus(network, inner_steps=STEPS, multi_step_epochs=5, **way)
    meta.advance()
    with torch.no_grad():
        meta.inner.rates.uniform_(0.05, 0.2)
    rates = [dict(zip(("0", "3"), column, strict=True)) for column in meta.inner.rates.unbind(1)]
    assert meta.importances() == pytest.approx([4 / 15, 4 / 15, 7 / 15])
    loss = plain(network, episodes, meta.importances(), rates=rates)
    expected = torch.autograd.grad(loss, meta.trained())
    torch.testing.assert_close(meta.loss(episodes).detach(), loss.detach())
    torch.testing.assert_close(gradients(meta, episodes), list(expected))
    with torch.no_grad():
        torch.testing.assert_close(meta.loss(episodes), loss.detach())


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_last_step_with_fixed_rates_is_maml(way, first_order):
    network, episodes = normed(), classes()
    options = {"inner_lr": LR, "inner_steps": STEPS, "first_order": first_order, "transductive": True, **way}
    other = MAMLPlusPlus(network, multi_step_epochs=0, per_step_batch_norm=False, **options)
    other.inner.requires_grad_(False)
    meta = MAML(network, **options)
    torch.testing.assert_close(other.loss(episodes), meta.loss(episodes))
    torch.testing.assert_close(gradients(other, episodes), gradients(meta, episodes))
    torch.testing.assert_close(other.predict(episodes), meta.predict(episodes))


def test_importances_go_to_the_last_step():
    meta = MAMLPlusPlus(mlp(), inner_steps=4, multi_step_epochs=4)
    seen = []
    for _ in range(6):
        seen.append(meta.importances())
        meta.advance()
    assert seen[0] == [0.25] * 4
    assert seen[2] == [0.125, 0.125, 0.125, 0.625]
    assert seen[4] == seen[5] == [0.0, 0.0, 0.0, 1.0]
    assert all(sum(importances) == 1.0 for importances in seen)
    assert MAMLPlusPlus(mlp(), inner_steps=1).importances() == [1.0]


@pytest.mark.parametrize("mode", ["vmap", "loop", "auto"])
def test_first_order_comes_first(mode):
    network, episodes = mlp(), classes()
    options = {"inner_lr": LR, "inner_steps": STEPS, "multi_step_epochs": 0, "mode": mode}
    meta = MAMLPlusPlus(network, first_order_epochs=2, **options)
    first = MAMLPlusPlus(network, first_order=True, **options)
    second = MAMLPlusPlus(network, **options)
    for expected in (first, first, second, second):
        torch.testing.assert_close(gradients(meta, episodes), gradients(expected, episodes))
        meta.advance()
    assert not torch.allclose(gradients(first, episodes)[0], gradients(second, episodes)[0])
    first.epoch.fill_(100)
    assert first.order == 1
    with torch.no_grad():
        assert meta.order == first.order == 0


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_batch_norm_has_weights_by_step(way):
    network, episodes = normed(), classes()
    meta = MAMLPlusPlus(network, inner_lr=LR, inner_steps=STEPS, transductive=True, **way)
    assert [*meta.adapted_parameters()] == ["0.weight", "0.bias", "4.weight", "4.bias", "8.weight", "8.bias"]
    with torch.no_grad():
        for rows in meta.norms.weights.values():
            rows.add_(0.3 * torch.randn_like(rows))
    last = {name: network.get_parameter(name) for name in ("1.weight", "1.bias")}
    norms = [
        {name: meta.norms.weights[name.replace(".", "/")][step] for name in last} for step in range(STEPS)
    ]
    rates = [dict(zip(("0", "4", "8"), column, strict=True)) for column in meta.inner.rates.unbind(1)]
    loss = plain(copy.deepcopy(network), episodes, meta.importances(), rates=rates, norms=[*norms, last])
    torch.testing.assert_close(meta.loss(episodes).detach(), loss.detach())
    found = dict(zip((name for name, _ in meta.named_parameters()), gradients(meta, episodes), strict=True))
    names = ["inner.rates", "norms.weights.1/weight", "norms.weights.1/bias", "network.1.weight"]
    expected = torch.autograd.grad(loss, [meta.get_parameter(name) for name in names])
    torch.testing.assert_close([found[name] for name in names], list(expected))
    assert all(gradient.any() for gradient in expected)


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_slope_is_that_of_differences(way, transductive):
    meta = MAMLPlusPlus(normed(), inner_lr=LR, inner_steps=2, transductive=transductive, **way)
    assert_slope(meta, classes(tasks=2))


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("steps", [0, 2, 3, 5])
def test_the_adapted_module_is_the_one_that_predicts(steps, running, transductive):
    """Before, at, and beyond the steps of the training."""
    meta = MAMLPlusPlus(
        normed(), inner_lr=LR, inner_steps=STEPS, transductive=transductive, running_statistics=running
    )
    episodes = classes(tasks=2)
    optimizer = torch.optim.SGD(meta.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        meta.loss(episodes).backward()
        optimizer.step()
    outputs = meta.eval().predict_by_step(episodes, steps)[-1]
    for task in range(2):
        adapted = meta.adapt(episodes.support_x[task], episodes.support_y[task], steps=steps)
        torch.testing.assert_close(adapted(episodes.query_x[task]).detach(), outputs[task])
    alone = meta.predict_by_step(
        episodes._replace(query_x=episodes.query_x[:, :2], query_y=episodes.query_y[:, :2]), steps
    )[-1]
    assert torch.allclose(alone, outputs[:, :2]) == (running or not transductive)


class Watched(nn.Module):
    """Keeps what comes to its batch norm, with the number of the step that its own caller set."""

    def __init__(self, momentum):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 2)
        self.double()

    def forward(self, x):
        return self.head(self.norm(x))


@pytest.mark.parametrize("momentum", [0.2, None])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_running_statistics_are_means_over_what_passes(way, momentum):
    """The norm comes first: it sees support sets at steps before the last, and queries after each."""
    network = Watched(momentum)
    meta = MAMLPlusPlus(
        network, inner_steps=2, multi_step_epochs=1, transductive=True, running_statistics=True, **way
    )
    before = copy.deepcopy(network.state_dict())
    expected = {"running_mean": torch.zeros(3, 3), "running_var": torch.ones(3, 3)}
    expected = {name: value.double() for name, value in expected.items()}
    for epoch in range(3):
        episodes = classes(tasks=3)
        meta.loss(episodes).backward()
        support, query = episodes.support_x, episodes.query_x
        passes = [[support], [support, query] if epoch == 0 else [support], [query]]
        share = 1 / (epoch + 1) if momentum is None else momentum
        for step, parts in enumerate(passes):
            mean = torch.stack([part.mean(1).mean(0) for part in parts]).mean(0)
            variance = torch.stack([part.var(1, correction=0).mean(0) for part in parts]).mean(0)
            expected["running_mean"][step].lerp_(mean, share)
            expected["running_var"][step].lerp_(variance, share)
        meta.advance()
    for name, value in expected.items():
        torch.testing.assert_close(meta.norms.statistics.get_buffer(f"norm/{name}"), value)
    after = copy.deepcopy(meta.norms.state_dict())
    meta.predict(episodes)
    meta.adapt(episodes.support_x[0], episodes.support_y[0])
    with torch.no_grad():
        meta.loss(episodes)
    meta.eval().loss(episodes).backward()
    meta.predict_by_step(episodes)
    torch.testing.assert_close(meta.norms.state_dict(), after, rtol=0, atol=0)
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name


def test_resuming_is_going_on():
    def made():
        torch.manual_seed(0)
        meta = MAMLPlusPlus(
            normed(),
            inner_lr=LR,
            inner_steps=2,
            multi_step_epochs=3,
            first_order_epochs=2,
            transductive=False,
            running_statistics=True,
        )
        return meta, torch.optim.Adam(meta.parameters(), lr=0.05)

    meta, optimizer = made()
    train(meta, optimizer, range(1), after=MAMLPlusPlus.advance)
    file = saved(meta, optimizer)
    train(meta, optimizer, range(1, 4), after=MAMLPlusPlus.advance)
    fresh, other = made()
    restore(file, fresh, other)
    assert int(fresh.epoch) == 1
    train(fresh, other, range(1, 4), after=MAMLPlusPlus.advance)
    torch.testing.assert_close(fresh.state_dict(), meta.state_dict())


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_learned_rate_has_the_slope_of_differences(way):
    meta = MAML(mlp(), inner=LayerwiseDescent(LR), inner_steps=2, loss=F.mse_loss, **way)
    assert_slope(meta, curves(tasks=2))


def test_rates_of_later_steps_are_the_last_one_s():
    update = LayerwiseDescent(1.0)
    parameters = {"a.weight": torch.zeros(2), "bare": torch.zeros(1)}
    update.prepare(parameters, steps=2)
    assert update.layers == {"a": 0, "": 1}
    with torch.no_grad():
        update.rates.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ones = {name: torch.ones_like(value) for name, value in parameters.items()}
    for step, (first, second) in enumerate([(1, 3), (2, 4), (2, 4)]):
        moved, _ = update(parameters, ones, {}, step)
        assert (moved["a.weight"] == -first).all()
        assert (moved["bare"] == -second).all()
    update.prepare(parameters, steps=0)
    assert update(parameters, ones, {}, 3)[0]["bare"] == -1


def test_errors():
    for name, least in (("inner_steps", 1), ("multi_step_epochs", 0), ("first_order_epochs", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least {least}; got {least - 1}"):
            MAMLPlusPlus(mlp(), **{name: least - 1})
    for network, by_step in ((mlp(), True), (normed(), False)):
        with pytest.raises(ValueError, match="must be False without batch norms by step"):
            MAMLPlusPlus(network, running_statistics=True, per_step_batch_norm=by_step, transductive=True)
    bare = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"batch norms that have none; got 0. Make it with"):
        MAMLPlusPlus(bare, running_statistics=True, transductive=True)
    with pytest.raises(ValueError, match=r"`adapted` must match a parameter that is no batch norm's"):
        MAMLPlusPlus(normed(), adapted="1.*", transductive=True)
    with pytest.raises(ValueError, match="`inner_lr` must be finite"):
        MAMLPlusPlus(mlp(), inner_lr=float("nan"))
