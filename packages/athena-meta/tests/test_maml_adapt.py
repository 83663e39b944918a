"""What adaptation gives: a module, predictions by step, and both without gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradient_models import classes, curves, gradients, mlp, plain_maml
from torch.func import functional_call

from athena_meta import ANIL, MAML, ElementwiseDescent, Episodes, MetaSGD

LR = 0.1


def adapted_by_hand(network, x, y, *, steps):
    phi = dict(network.named_parameters())
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(network, phi, (x,)), y)
        found = torch.autograd.grad(loss, list(phi.values()))
        phi = {name: phi[name].detach() - LR * grad for name, grad in zip(phi, found, strict=True)}
        phi = {name: value.requires_grad_() for name, value in phi.items()}
    return phi


@pytest.mark.parametrize("mode", ["vmap", "loop", "auto"])
def test_predictions_by_step(mode):
    network, episodes = mlp(), classes()
    meta = MAML(network, inner_lr=LR, inner_steps=2, mode=mode)
    assert meta.predict_by_step(episodes).shape == (3, 5, 6, 2)
    curve = meta.predict_by_step(episodes, 4)
    for step in range(5):
        for task in range(episodes.tasks):
            x, y, query_x, _ = (part[task] for part in episodes[:4])
            expected = functional_call(network, adapted_by_hand(network, x, y, steps=step), (query_x,))
            torch.testing.assert_close(curve[step, task], expected.detach())
            module = meta.adapt(x, y, steps=step)
            torch.testing.assert_close(module(query_x).detach(), expected.detach())
    torch.testing.assert_close(meta.predict(episodes), curve[2])
    assert not curve.requires_grad


def test_names_are_sorted_classes():
    network, episodes = mlp(outputs=3), classes(tasks=1)
    x = episodes.support_x[0, :4]
    meta = MAML(network, inner_lr=LR)
    named = meta.adapt(x, ["cow", "ant", "cow", "bee"])
    assert named.classes == ("ant", "bee", "cow")
    for labels in ([2, 0, 2, 1], torch.tensor([70, -3, 70, 4])):
        other = meta.adapt(x, labels)
        torch.testing.assert_close(other(x), named(x))
    assert other.classes == (-3, 4, 70)


def test_the_module_is_on_its_own_and_can_be_trained_on():
    network, episodes = mlp(), classes()
    meta = MAML(network, inner_lr=LR)
    x, y = episodes.support_x[0], episodes.support_y[0]
    module = meta.adapt(x, y)
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss = F.cross_entropy(module(x), y)
    loss.backward()
    optimizer.step()
    assert F.cross_entropy(module(x), y) < loss
    assert all(
        torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True)
    )


def test_adaptation_in_inference_mode():
    network, episodes = mlp(), classes()
    meta = MAML(network, inner_lr=LR)
    with torch.inference_mode():
        x, y = episodes.support_x[0] * 1, episodes.support_y[0] * 1
        inside = meta.adapt(x, y)
        assert not meta.predict(Episodes(*(part * 1 for part in episodes[:4]))).requires_grad
    x, y = episodes.support_x[0], episodes.support_y[0]
    torch.testing.assert_close(inside(x), meta.adapt(x, y)(x))


@pytest.mark.parametrize("mode", ["vmap", "loop"])
@pytest.mark.parametrize("first_order", [True, False])
def test_anil_adapts_the_head_and_trains_the_body(mode, first_order):
    network, episodes = mlp(), classes()
    meta = ANIL(network, inner_lr=LR, first_order=first_order, mode=mode)
    assert [*meta.adapted_parameters()] == ["3.weight", "3.bias"]
    module = meta.adapt(episodes.support_x[0], episodes.support_y[0])
    assert torch.equal(module[0].weight, network[0].weight)
    assert torch.equal(module[0].bias, network[0].bias)
    assert not torch.equal(module[3].weight, network[3].weight)
    assert all(bool(gradient.any()) for gradient in gradients(meta, episodes))
    named = ANIL(network, head=("3.*",), inner_lr=LR, first_order=first_order, mode=mode)
    torch.testing.assert_close(gradients(named, episodes), gradients(meta, episodes))


@pytest.mark.parametrize("checkpoint_steps", [True, False])
def test_anil_on_features_is_maml_on_the_head(checkpoint_steps):
    """The head's gradient is MAML's for the head alone, given the body's outputs."""
    network, episodes = mlp(), classes()
    meta = ANIL(network, inner_lr=LR, inner_steps=3, checkpoint_steps=checkpoint_steps)
    with torch.no_grad():
        features = episodes._replace(
            support_x=network[:3](episodes.support_x), query_x=network[:3](episodes.query_x)
        )
    loss, expected = plain_maml(network[3], features, lr=LR, steps=3)
    torch.testing.assert_close(meta.loss(episodes).detach(), loss)
    torch.testing.assert_close(gradients(meta, episodes)[2:], list(expected))


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_meta_sgd_starts_as_maml_and_learns_its_rates(mode):
    network, episodes = mlp(), classes()
    meta = MetaSGD(network, inner_lr=LR, inner_steps=3, mode=mode)
    loss, expected = plain_maml(network, episodes, lr=LR, steps=3)
    torch.testing.assert_close(meta.loss(episodes).detach(), loss)
    found = gradients(meta, episodes)
    torch.testing.assert_close(found[:4], list(expected))
    rates = list(meta.inner.rates.values())
    assert len(found) == 4 + len(rates) == 8
    assert [rate.shape for rate in rates] == [parameter.shape for parameter in meta.inner.parameters()]
    assert all(bool(gradient.any()) for gradient in found[4:])
    torch.testing.assert_close(
        gradients(MAML(network, inner=meta.inner, inner_steps=3, mode=mode), episodes), found
    )
    fresh = MetaSGD(mlp(), inner_lr=0.5, inner_steps=3)
    fresh.load_state_dict(meta.state_dict())
    torch.testing.assert_close(fresh.predict(episodes), meta.predict(episodes))


def test_meta_sgd_can_leave_a_parameter_alone_and_walk_uphill():
    network, episodes = mlp(), curves()
    meta = MetaSGD(network, inner_lr=LR, loss=F.mse_loss)
    assert isinstance(meta.inner, ElementwiseDescent)
    with torch.no_grad():
        meta.inner.rates["0/weight"].zero_()
        meta.inner.rates["3/bias"].neg_()
    x, y = episodes.support_x[0], episodes.support_y[0]
    module = meta.adapt(x, y)
    assert torch.equal(module[0].weight, network[0].weight)
    uphill = torch.autograd.grad(F.mse_loss(network(x), y), network[3].bias)[0]
    torch.testing.assert_close(module[3].bias, network[3].bias + LR * uphill)
