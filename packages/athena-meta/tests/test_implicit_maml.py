"""Implicit MAML: against the exact implicit gradient, a dense solve, differences, and MAML's limit."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from gradient_models import (
    DOUBLE,
    EXPLICIT_WAYS,
    assert_slope,
    classes,
    curves,
    gradients,
    mlp,
    normed,
    restore,
    saved,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from athena_core import NotFinite
from athena_meta import MAML, ElementwiseDescent, Episodes, ImplicitMAML, InnerAdam
from athena_meta._conjugate_gradient import conjugate_gradient
from athena_meta._saved_bytes import peak_saved_bytes


class Point(nn.Module):
    """Its output is its parameter, whatever the input."""

    def __init__(self, size):
        super().__init__()
        self.point = nn.Parameter(torch.randn(size, dtype=DOUBLE))

    def forward(self, x):
        return self.point.expand(len(x), -1)


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
def test_a_quadratic_has_the_exact_gradient(way):
    r"""With L = (w - c)'H(w - c)/2 the minimum is c + (H + l)^-1 l (w - c), and so is its derivative."""
    size, strength = 4, 0.7
    root = torch.randn(size, size, dtype=DOUBLE)
    curvature = root @ root.T / size
    network = Point(size)
    c, d = (torch.randn(3, 1, size, dtype=DOUBLE) for _ in range(2))

    def loss(outputs, targets):
        return 0.5 * ((outputs - targets) @ curvature * (outputs - targets)).sum()

    meta = ImplicitMAML(
        network, strength=strength, inner_lr=0.2, inner_steps=300, solver_steps=size, loss=loss, **way
    )
    value = meta.loss(Episodes(c, c, d, d))
    (found,) = torch.autograd.grad(value, meta.trained())
    w, c, d = network.point.detach(), c[:, 0], d[:, 0]
    identity = torch.eye(size, dtype=DOUBLE)
    pull = strength * torch.linalg.inv(curvature + strength * identity)
    least = c + (w - c) @ pull
    torch.testing.assert_close(found, ((least - d) @ curvature @ pull).mean(0))
    torch.testing.assert_close(value.detach(), (0.5 * ((least - d) @ curvature * (least - d)).sum(1)).mean())


def dense(network, episodes, *, strength, lr, steps):
    """Losses and gradients by a plain loop, the whole Hessian, and a dense solve."""
    theta = {name: parameter.detach() for name, parameter in network.named_parameters()}
    names, shapes = [*theta], [value.shape for value in theta.values()]
    flat = torch.cat([value.flatten() for value in theta.values()])

    def outputs(vector, x):
        parts = vector.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(network, values, (x,))

    losses, found = [], []
    for support_x, support_y, query_x, query_y in zip(*episodes[:4], strict=True):
        phi = flat
        for _ in range(steps):
            phi = phi.detach().requires_grad_()
            inner = F.cross_entropy(outputs(phi, support_x), support_y)
            inner = inner + strength / 2 * (phi - flat).square().sum()
            phi = phi - lr * torch.autograd.grad(inner, phi)[0]
        phi = phi.detach().requires_grad_()
        loss = F.cross_entropy(outputs(phi, query_x), query_y)
        curvature = hessian(
            lambda p, x=support_x, y=support_y: F.cross_entropy(outputs(p, x), y), phi.detach()
        )
        matrix = torch.eye(len(phi), dtype=DOUBLE) + curvature / strength
        found.append(torch.linalg.solve(matrix, torch.autograd.grad(loss, phi)[0]))
        losses.append(loss.detach())
    parts = torch.stack(found).mean(0).split([shape.numel() for shape in shapes])
    return torch.stack(losses).mean(), [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
def test_every_way_is_the_dense_solve(way):
    network, episodes = mlp(), classes()
    loss, expected = dense(network, episodes, strength=2.0, lr=0.1, steps=4)
    meta = ImplicitMAML(network, strength=2.0, inner_lr=0.1, inner_steps=4, solver_steps=60, **way)
    torch.testing.assert_close(meta.loss(episodes).detach(), loss)
    torch.testing.assert_close(gradients(meta, episodes), expected)
    with torch.no_grad():
        torch.testing.assert_close(meta.loss(episodes), loss)
    meta.loss(episodes).backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], expected)


def test_each_step_of_the_solver_brings_the_gradient_nearer():
    network, episodes = mlp(), classes()
    _, expected = dense(network, episodes, strength=2.0, lr=0.1, steps=4)
    errors = []
    for steps in (0, 2, 4, 8):
        meta = ImplicitMAML(network, strength=2.0, inner_lr=0.1, inner_steps=4, solver_steps=steps)
        pairs = zip(gradients(meta, episodes), expected, strict=True)
        errors.append(sum((found - exact).square().sum() for found, exact in pairs).sqrt())
    for before, after in pairwise(errors):
        assert after < before / 4


@pytest.mark.parametrize("way", EXPLICIT_WAYS, ids=str)
@pytest.mark.parametrize("adapted", ["*", "3.*", "0.weight"])
def test_the_slope_is_that_of_differences(adapted, way):
    """At a converged minimum, for adapted parameters and those that only the outer loss reaches."""
    meta = ImplicitMAML(
        mlp(), strength=2.0, inner_lr=0.3, inner_steps=80, solver_steps=60, adapted=adapted, **way
    )
    assert_slope(meta, classes(tasks=2))


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_the_slope_with_batch_norm(mode, transductive):
    meta = ImplicitMAML(
        nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double(),
        strength=4.0,
        inner_lr=0.15,
        inner_steps=120,
        solver_steps=60,
        mode=mode,
        transductive=transductive,
    )
    before = copy.deepcopy(meta.state_dict())
    assert_slope(meta, classes(tasks=2))
    for name, tensor in meta.state_dict().items():
        if "running" in name or "batches" in name:
            assert torch.equal(tensor, before[name]), name


def test_a_strong_pull_is_the_gradient_at_the_start():
    """With a strength towards infinity nothing moves: MAML without steps."""
    network, episodes = mlp(), classes()
    plain = MAML(network, inner_steps=0)
    meta = ImplicitMAML(network, strength=1e9, inner_lr=1e-10)
    torch.testing.assert_close(gradients(meta, episodes), gradients(plain, episodes), rtol=1e-6, atol=1e-8)


def test_without_a_pull_in_one_step_and_no_solver_it_is_first_order_maml():
    """The first inner step has no proximal term, for it starts at the start."""
    network, episodes = mlp(), classes()
    first_order = MAML(network, inner_lr=0.1, inner_steps=1, first_order=True)
    meta = ImplicitMAML(network, inner_lr=0.1, inner_steps=1, solver_steps=0)
    torch.testing.assert_close(gradients(meta, episodes), gradients(first_order, episodes))
    torch.testing.assert_close(meta.predict(episodes), first_order.predict(episodes))


def test_any_inner_update_goes_to_the_same_minimum():
    network, episodes = mlp(), classes()
    options = {"strength": 2.0, "solver_steps": 60}
    plain = ImplicitMAML(network, inner_lr=0.3, inner_steps=100, **options)
    rates = ImplicitMAML(network, inner=ElementwiseDescent(0.25), inner_steps=150, **options)
    adam = ImplicitMAML(
        network, inner=InnerAdam(0.01, betas=(0.8, 0.9)), inner_steps=400, mode="vmap", **options
    )
    expected = gradients(plain, episodes)
    found = gradients(rates, episodes)
    torch.testing.assert_close(found[: len(expected)], expected)
    assert not any(gradient.any() for gradient in found[len(expected) :])
    torch.testing.assert_close(
        gradients(adam, episodes), expected, rtol=1e-2, atol=1e-3
    )  # Adam's steps end large


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_memory_does_not_grow_with_steps(mode):
    peaks = []
    for steps in (2, 20):
        meta = ImplicitMAML(mlp(), inner_lr=0.1, inner_steps=steps, solver_steps=steps, mode=mode)
        episodes = classes(tasks=2)
        peaks.append(peak_saved_bytes(lambda: meta.loss(episodes).backward()))  # noqa: B023  called here
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_memory_is_flat_over_many_batches(mode):
    meta, episodes = ImplicitMAML(mlp(), inner_lr=0.1, inner_steps=2, mode=mode), classes(tasks=2)

    def train(steps):
        for _ in range(steps):
            meta.zero_grad()
            meta.loss(episodes).backward()

    assert peak_saved_bytes(lambda: train(50)) == peak_saved_bytes(lambda: train(1))


class Counted(torch.autograd.Function):
    """The identity; ``alive`` counts the nodes of it that some graph still holds."""

    alive = 0

    class Token:
        def __init__(self):
            Counted.alive += 1

        def __del__(self):
            Counted.alive -= 1

    @staticmethod
    def forward(ctx, x):
        ctx.token = Counted.Token()
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


def test_no_graph_is_left():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = mlp()

        def forward(self, x):
            outputs = Counted.apply(self.inside(x))
            assert Counted.alive
            return outputs

    meta = ImplicitMAML(Counting(), mode="loop")
    for _ in range(3):
        meta.loss(classes(tasks=2)).backward()
        assert not Counted.alive


def test_parameters_that_nothing_uses_and_losses_without_curvature():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2, dtype=DOUBLE), nn.Linear(3, 2, dtype=DOUBLE)

        def forward(self, x):
            return self.used(x)

    episodes = curves()
    for mode in ("vmap", "loop"):
        meta = ImplicitMAML(Line(), loss=lambda outputs, targets: (outputs * targets).mean(), mode=mode)
        found = gradients(meta, episodes)
        plain = gradients(MAML(meta.network, inner_steps=0, loss=meta.task_loss), episodes)
        torch.testing.assert_close(found, plain)


def test_resuming_is_going_on():
    def made():
        torch.manual_seed(0)
        meta = ImplicitMAML(mlp(), inner_lr=0.1)
        return meta, torch.optim.Adam(meta.parameters(), lr=0.05)

    meta, optimizer = made()
    train(meta, optimizer, range(2))
    file = saved(meta, optimizer)
    train(meta, optimizer, range(2, 4))
    fresh, other = made()
    restore(file, fresh, other)
    train(fresh, other, range(2, 4))
    torch.testing.assert_close(fresh.state_dict(), meta.state_dict())


@given(size=st.integers(1, 6), systems=st.integers(1, 4), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_conjugate_gradients_solve(size, systems, scale):
    torch.manual_seed(size + 10 * systems)
    root = torch.randn(systems, size, size, dtype=DOUBLE)
    matrices = scale * (root @ root.mT + torch.eye(size, dtype=DOUBLE))
    right = torch.randn(systems, size, dtype=DOUBLE)

    def product(x):
        return (matrices @ x.unsqueeze(2)).squeeze(2)

    found = conjugate_gradient(product, right, steps=3 * size)  # rounding costs it some steps
    torch.testing.assert_close(found, torch.linalg.solve(matrices, right), rtol=1e-6, atol=1e-8 / scale)


def test_conjugate_gradients_stop():
    right = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]], dtype=DOUBLE)
    scales = torch.tensor([[1.0, 1.0], [2.0, 3.0], [-1.0, -2.0]], dtype=DOUBLE)
    found = conjugate_gradient(lambda x: scales * x, right, steps=5)
    # The identity and zero are solved from the start; without a minimum the start is kept.
    torch.testing.assert_close(found, right, rtol=0, atol=0)
    assert conjugate_gradient(lambda x: 1 / 0, right, steps=0) is right


def test_errors():
    for strength in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`strength` must be finite and above 0"):
            ImplicitMAML(mlp(), strength=strength)
    with pytest.raises(ValueError, match="`solver_steps` must be at least 0; got -1"):
        ImplicitMAML(mlp(), solver_steps=-1)
    with pytest.raises(ValueError, match="`transductive` must be True or False"):
        ImplicitMAML(normed())
    with pytest.raises(ValueError, match="must not be compiled"):
        network = mlp()
        network.compile(backend="aot_eager")
        ImplicitMAML(network).loss(classes())
    for mode in ("vmap", "loop"):
        with pytest.raises(NotFinite, match=r"of task 0. Lower `inner_lr`"):
            ImplicitMAML(mlp(), inner_lr=1e200, mode=mode).loss(classes())
