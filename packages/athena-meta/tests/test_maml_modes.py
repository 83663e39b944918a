"""How tasks are computed: what is chosen, what chunks a budget gives, and what falls back to a loop."""

from __future__ import annotations

import warnings

import pytest
import torch
from gradient_models import DOUBLE, classes, gradients, mlp
from torch import nn

from athena_meta import MAML
from athena_meta._explicit_gradient import with_gradients
from athena_meta._modes import Way
from athena_meta._saved_bytes import peak_saved_bytes


def test_the_faster_way_is_chosen_once_and_told():
    meta, episodes = MAML(mlp()), classes()
    assert meta.chosen is None
    meta.loss(episodes)
    chosen = meta.chosen
    assert set(chosen.seconds) == {Way("vmap", 5), Way("loop", 1)}
    assert chosen.way == min(chosen.seconds, key=chosen.seconds.get)
    assert str(chosen) in repr(meta)
    assert "ms" in repr(meta)
    meta.loss(episodes)
    assert meta.chosen is chosen
    meta.loss(classes(tasks=3))
    assert meta.chosen is not chosen
    meta.predict(episodes)
    assert set(meta.chosen.seconds) == set(chosen.seconds)


def test_one_task_needs_no_choice():
    meta = MAML(mlp())
    meta.loss(classes(tasks=1))
    assert (meta.chosen.way, meta.chosen.seconds) == (Way("loop", 1), {})


class Branching(nn.Module):
    """Looks at its numbers, which vmap does not allow."""

    def __init__(self):
        super().__init__()
        self.inside = mlp()

    def forward(self, x):
        return self.inside(x if x.sum().item() > 0 else 2 * x)


def test_what_vmap_cannot_take_is_looped_over_and_said_once():
    meta, episodes = MAML(Branching()), classes()
    with pytest.warns(UserWarning, match=r"one by one.*vmap") as said:
        loss = meta.loss(episodes)
    assert len(said) == 1
    torch.testing.assert_close(loss, MAML(meta.network, mode="loop").loss(episodes))
    with warnings.catch_warnings(action="error"):
        meta.loss(classes(tasks=3))
        meta.predict(episodes)
    assert meta.chosen.way == Way("loop", 1)
    with pytest.raises(RuntimeError, match="vmap"):
        MAML(meta.network, mode="vmap").loss(episodes)


def test_an_error_of_the_network_is_its_own():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MAML(mlp(inputs=5)).loss(classes())


def kept(**options):
    meta = MAML(mlp(), mode="loop", **options)
    return peak_saved_bytes(lambda: meta.loss(classes(tasks=1)).backward())


@pytest.mark.parametrize("first_order", [True, False])
def test_a_budget_gives_the_chunks(first_order):
    each = kept(first_order=first_order)
    for budget, chunk in ((each, 1), (3 * each + 1, 3), (100 * each, 5)):
        meta = MAML(mlp(), first_order=first_order, mode="vmap", memory_budget=budget)
        peak = peak_saved_bytes(lambda: meta.loss(classes()).backward())  # noqa: B023
        assert meta.chosen.way == Way("vmap", chunk)
        # A vmap of several keeps each task's own weights from the first step on, where a loop shares them.
        assert peak < 2 * budget
    with pytest.raises(ValueError, match=rf"keeps {each} bytes; got {each - 1}"):
        MAML(mlp(), first_order=first_order, memory_budget=each - 1).loss(classes())


def test_chunks_keep_less():
    whole, parts = (MAML(mlp(), mode="vmap", chunk_size=chunk) for chunk in (None, 2))
    episodes = classes(tasks=8)
    peaks = [peak_saved_bytes(lambda: meta.loss(episodes).backward()) for meta in (whole, parts)]  # noqa: B023
    assert peaks[1] < peaks[0] / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "`mode` must be 'auto', 'vmap' or 'loop'; got 'fast'"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1; got 0"),
        ({"chunk_size": 2, "memory_budget": 10}, "must not both be given"),
        ({"mode": "loop", "chunk_size": 2}, "for chunks; got 'loop'"),
        ({"mode": "loop", "memory_budget": 2}, "for chunks; got 'loop'"),
    ],
)
def test_refused_modes(options, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(), **options)


def test_an_explicit_gradient_scales_and_says_none():
    used, unused = (torch.randn(3, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    slope = torch.randn(3, dtype=DOUBLE)
    loss = with_gradients(torch.ones(()), [slope, None], [used, unused])
    found = torch.autograd.grad(3 * loss, [used, unused], allow_unused=True)
    torch.testing.assert_close(found[0], 3 * slope)
    assert found[1] is None
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once = torch.autograd.grad(with_gradients(loss, [slope], [used]) ** 2, used, create_graph=True)
        once[0].sum().backward()


def test_what_autograd_keeps_is_counted_once_and_let_go():
    x = torch.ones(1000, requires_grad=True)
    assert peak_saved_bytes(lambda: x.exp().sum().backward()) == 4000
    assert peak_saved_bytes(lambda: [x.exp().sum().backward() for _ in range(5)]) == 4000
    held = []
    assert peak_saved_bytes(lambda: held.extend(x.exp() for _ in range(5))) == 20000
    shared = x.exp()
    assert peak_saved_bytes(lambda: (shared.exp() * shared).sum()) == 8000  # `shared` and its exponential
    assert peak_saved_bytes(lambda: (2 * x).sum()) == 0


def test_measuring_lets_go_of_graphs_that_are_never_used():
    x = torch.ones(1000, requires_grad=True)

    def slopes(count):
        for _ in range(count):
            (slope,) = torch.autograd.grad(x.exp().sum(), x, create_graph=True)
            assert slope.requires_grad

    assert peak_saved_bytes(lambda: slopes(20)) == peak_saved_bytes(lambda: slopes(2))


def test_measuring_changes_no_derivative():
    x = torch.randn(3, dtype=DOUBLE, requires_grad=True)
    found = []

    def twice():
        (slope,) = torch.autograd.grad(x.exp().square().sum(), x, create_graph=True)
        found.extend(torch.autograd.grad(slope.sum(), x))

    peak_saved_bytes(twice)
    torch.testing.assert_close(found[0], 4 * (2 * x).exp().detach())


def test_double_precision_gradients_survive_float32_parts():
    """A network of several types adapts each of its parameters in its own type."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4).double(), nn.Linear(4, 2).float()

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)).float())

    episodes = classes()
    meta = MAML(Mixed(), mode="vmap")
    looped = MAML(meta.network, mode="loop")
    for ours, other in zip(gradients(meta, episodes), gradients(looped, episodes), strict=True):
        assert ours.dtype == other.dtype
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)
