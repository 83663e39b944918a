"""MAML's gradients: against plain loops, a closed form, and differences, in every way of computing them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradient_models import DOUBLE, WAYS, assert_slope, classes, curves, gradients, mlp, normed, plain_maml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from athena_meta import MAML, Episodes, InnerAdam, InnerMomentum
from athena_meta._saved_bytes import peak_saved_bytes

STEPS, LR = 3, 0.1


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_is_the_plain_loop(way, first_order):
    network, episodes = mlp(), classes()
    loss, expected = plain_maml(network, episodes, lr=LR, steps=STEPS, first_order=first_order)
    meta = MAML(network, inner_lr=LR, inner_steps=STEPS, first_order=first_order, **way)
    torch.testing.assert_close(meta.loss(episodes).detach(), loss)
    torch.testing.assert_close(gradients(meta, episodes), list(expected))
    (2 * meta(episodes)).backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], [2 * grad for grad in expected])
    with torch.no_grad():
        torch.testing.assert_close(meta.loss(episodes), loss)


@pytest.mark.parametrize("chunk", [None, 2])
def test_steps_done_again_are_in_the_precision_of_the_first_time(chunk):
    """Of a mixed one too, which is over by the time of ``backward()``."""
    network, found = mlp().float(), []
    episodes = Episodes(*(part.float() if part.is_floating_point() else part for part in classes()[:4]))
    for again in (False, True):
        meta = MAML(
            network, inner_lr=LR, inner_steps=STEPS, mode="vmap", chunk_size=chunk, checkpoint_steps=again
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = meta.loss(episodes)
        found.append(torch.autograd.grad(loss, [*network.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


@given(
    tasks=st.integers(1, 4),
    shots=st.integers(1, 3),
    steps=st.integers(0, 3),
    chunk=st.integers(1, 5),
    first_order=st.booleans(),
)
def test_chunks_of_any_size(tasks, shots, steps, chunk, first_order):
    torch.manual_seed(tasks + 10 * shots)
    network, episodes = mlp(), curves(tasks=tasks, shots=shots)
    expected = plain_maml(network, episodes, lr=LR, steps=steps, first_order=first_order, loss=F.mse_loss)
    meta = MAML(
        network,
        inner_lr=LR,
        inner_steps=steps,
        first_order=first_order,
        loss=F.mse_loss,
        mode="vmap",
        chunk_size=chunk,
    )
    torch.testing.assert_close(meta.loss(episodes).detach(), expected[0])
    torch.testing.assert_close(gradients(meta, episodes), list(expected[1]))


class Point(nn.Module):
    """Its output is its parameter, whatever the input."""

    def __init__(self, size):
        super().__init__()
        self.point = nn.Parameter(torch.randn(size, dtype=DOUBLE))

    def forward(self, x):
        return self.point.expand(len(x), -1)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_quadratic_has_the_closed_form(way, first_order):
    r"""With L = (w - c)'H(w - c)/2: phi_T - c = (I - aH)^T (w - c); the gradient: (I - aH)^T H(phi_T - d)."""
    size = 4
    root = torch.randn(size, size, dtype=DOUBLE)
    hessian = root @ root.T / size
    network = Point(size)
    c, d = (torch.randn(3, 1, size, dtype=DOUBLE) for _ in range(2))

    def loss(outputs, targets):
        return 0.5 * ((outputs - targets) @ hessian * (outputs - targets)).sum()

    meta = MAML(network, inner_lr=LR, inner_steps=STEPS, first_order=first_order, loss=loss, **way)
    (found,) = gradients(meta, Episodes(c, c, d, d))
    w, c, d = network.point.detach(), c[:, 0], d[:, 0]
    shrink = torch.matrix_power(torch.eye(size, dtype=DOUBLE) - LR * hessian, STEPS)
    phi = c + (w - c) @ shrink
    expected = (phi - d) @ hessian
    torch.testing.assert_close(found, (expected if first_order else expected @ shrink).mean(0))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(
    "network",
    [(mlp, None), (normed, True), (normed, False)],
    ids=["plain", "transductive batch norm", "batch norm of the support set"],
)
def test_the_slope_is_that_of_differences(network, way):
    build, transductive = network
    meta = MAML(build(), inner_lr=LR, inner_steps=STEPS, transductive=transductive, **way)
    for training in (True, False):
        assert_slope(meta.train(training), classes(tasks=2))


@pytest.mark.parametrize("inner", [InnerMomentum, InnerAdam])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_slope_with_another_inner_update(inner, way):
    meta = MAML(mlp(), inner=inner(0.05), inner_steps=STEPS, **way)
    assert_slope(meta, classes(tasks=2))


def test_the_mean_does_not_depend_on_how_many_tasks_there_are():
    episodes = classes(tasks=3)
    twice = Episodes(*(torch.cat([part, part]) for part in episodes[:4]))
    for way in WAYS:
        meta = MAML(mlp(), inner_lr=LR, **way)
        torch.testing.assert_close(meta.loss(twice), meta.loss(episodes))
        torch.testing.assert_close(gradients(meta, twice), gradients(meta, episodes))


def test_no_inner_steps_is_plain_training():
    network, episodes = mlp(), classes()
    meta = MAML(network, inner_steps=0)
    expected = F.cross_entropy(network(episodes.query_x).flatten(0, 1), episodes.query_y.flatten())
    torch.testing.assert_close(meta.loss(episodes), expected)


def test_other_layouts_of_the_same_numbers():
    network, episodes = mlp(), classes()
    meta = MAML(network, inner_lr=LR, mode="vmap")
    strided = Episodes(*(part.transpose(0, 1).contiguous().transpose(0, 1) for part in episodes[:4]))
    assert not strided.support_x.is_contiguous()
    torch.testing.assert_close(gradients(meta, strided), gradients(meta, episodes))


def test_a_whole_vmap_can_be_differentiated_twice_and_chunks_say_that_they_cannot():
    network, episodes = mlp(), classes(tasks=2)
    for way, works in (({"mode": "vmap"}, True), ({"mode": "loop"}, False)):
        meta = MAML(network, inner_lr=LR, inner_steps=1, **way)
        found = torch.autograd.grad(meta.loss(episodes), meta.trained(), create_graph=True)
        if works:
            torch.autograd.grad(found[0].sum(), meta.trained()[0])
        else:
            with pytest.raises(RuntimeError, match="does not require grad"):
                torch.autograd.grad(found[0].sum(), meta.trained()[0])


def peak(*, steps, **options):
    meta = MAML(mlp(), inner_lr=LR, inner_steps=steps, **options)
    episodes = classes()
    return peak_saved_bytes(lambda: meta.loss(episodes).backward())


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_memory_by_inner_steps(mode):
    first = [peak(steps=steps, first_order=True, mode=mode) for steps in (2, 20)]
    assert first[1] == first[0]
    second = [peak(steps=steps, mode=mode) for steps in (2, 20)]
    assert second[1] > 5 * second[0]
    again = [peak(steps=steps, mode=mode, checkpoint_steps=True) for steps in (2, 20)]
    assert again[1] < second[1] / 3


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_memory_is_flat_over_two_hundred_steps(way):
    network, episodes = mlp(), classes(tasks=2, shots=1)
    meta = MAML(network, inner_lr=LR, inner_steps=1, **way)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    meta.loss(episodes)  # chooses its way

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            meta.loss(episodes).backward()
            optimizer.step()

    assert peak_saved_bytes(lambda: train(200)) == peak_saved_bytes(lambda: train(2))


def test_a_leak_would_be_seen():
    network, (x, y, *_) = mlp(), classes(tasks=1)

    def leak(steps):
        for _ in range(steps):  # without zero_grad(), whose None breaks the cycle through `.grad`
            F.cross_entropy(network(x[0]), y[0]).backward(create_graph=True)

    with pytest.warns(UserWarning, match="create_graph"):
        assert peak_saved_bytes(lambda: leak(20)) > 5 * peak_saved_bytes(lambda: leak(2))
    for parameter in network.parameters():
        parameter.grad = None
