"""What networks have inside: batch norm, dropout, tied, frozen and unused parameters, buffers, attention."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from gradient_models import DOUBLE, WAYS, assert_slope, classes, curves, gradients, mlp, normed, plain_maml
from torch import nn

from athena_meta import MAML, Episodes

LR = 0.1


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_adaptation_leaves_everything_bit_identical(way, transductive):
    meta = MAML(normed(), inner_lr=LR, inner_steps=2, transductive=transductive, **way)
    episodes = classes(tasks=3)
    for training in (True, False):
        meta.train(training)
        before = copy.deepcopy(meta.state_dict())
        meta.loss(episodes).backward()
        meta.predict(episodes)
        meta.predict_by_step(episodes)
        meta.adapt(episodes.support_x[0], episodes.support_y[0])
        for name, tensor in meta.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert all(module.training == training for module in meta.modules())


class Counting(nn.Module):
    """Writes into a buffer of its own, which is no batch norm's."""

    def __init__(self):
        super().__init__()
        self.inside = mlp()
        self.register_buffer("seen", torch.zeros(3, dtype=DOUBLE))

    def forward(self, x):
        self.seen.add_(x.detach().sum(0))
        return self.inside(x)


def test_other_buffers_are_copies_too():
    meta = MAML(Counting(), inner_lr=LR, mode="loop")
    meta.loss(classes()).backward()
    meta.predict(classes())
    assert torch.equal(meta.network.seen, torch.zeros(3, dtype=DOUBLE))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_batch_norm_by_the_query_set_is_that_of_training_mode(way):
    """A plain loop over a network in training mode normalises everything by its own batch."""
    network, episodes = normed(), classes()
    loss, expected = plain_maml(copy.deepcopy(network), episodes, lr=LR)
    meta = MAML(network, inner_lr=LR, inner_steps=3, transductive=True, **way)
    for training in (True, False):
        meta.train(training)
        torch.testing.assert_close(meta.loss(episodes).detach(), loss)
        torch.testing.assert_close(gradients(meta, episodes), list(expected))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_batch_norm_by_the_support_set_is_the_same_in_every_way(way):
    network, episodes = normed(), classes()
    plain = MAML(network, inner_lr=LR, transductive=False, mode="loop")
    meta = MAML(network, inner_lr=LR, transductive=False, **way)
    torch.testing.assert_close(meta.loss(episodes), plain.loss(episodes))
    torch.testing.assert_close(gradients(meta, episodes), gradients(plain, episodes))


def test_batch_norm_of_images_is_mapped_without_its_weights_on_a_gpu(monkeypatch):
    """Where torch cannot map it with them: losses and gradients of second order stay what they are."""
    network = nn.Sequential(
        *(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 4, 2, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(16, 2)),
    ).double()
    nn.init.normal_(network[2].weight)
    episodes = classes(tasks=3)
    meta = MAML(network, inner_lr=LR, inner_steps=2, transductive=True, mode="vmap")
    expected = gradients(meta, episodes)
    mapped = []

    def unmapped(x: torch.Tensor) -> bool:
        mapped.append(torch._C._functorch.is_batchedtensor(x))
        return mapped[-1]

    monkeypatch.setattr("athena_meta._batch_norm._unmapped", unmapped)
    torch.testing.assert_close(gradients(meta, episodes), expected)
    assert mapped
    assert all(mapped)


@pytest.mark.parametrize("transductive", [True, False])
def test_no_third_derivative_of_batch_norm_is_given(transductive):
    """torch's is silently wrong (pytorch#186779)."""
    meta = MAML(normed(), inner_steps=1, transductive=transductive, mode="vmap")
    found = torch.autograd.grad(meta.loss(classes(tasks=2)), meta.trained(), create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(found[0].sum(), meta.trained()[0])


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_single_query_is_predicted_as_in_a_batch_unless_transductive(mode):
    network, episodes = normed(), classes(queries=4)
    for transductive in (False, True):
        meta = MAML(network, inner_lr=LR, transductive=transductive, mode=mode).eval()
        together = meta.predict(episodes)
        pairs = [
            meta.predict(episodes._replace(query_x=episodes.query_x[:, at], query_y=episodes.query_y[:, at]))
            for at in (slice(0, 2), slice(2, 8))
        ]
        apart = torch.cat(pairs, dim=1)
        assert torch.allclose(apart, together) == (not transductive)
    single = episodes._replace(query_x=episodes.query_x[:, :1], query_y=episodes.query_y[:, :1])
    meta = MAML(network, inner_lr=LR, transductive=False, mode=mode).eval()
    torch.testing.assert_close(meta.predict(single), meta.predict(episodes)[:, :1])


@pytest.mark.parametrize("transductive", [True, False])
def test_the_adapted_module_normalises_as_the_learner(transductive):
    meta = MAML(normed(), inner_lr=LR, transductive=transductive)
    episodes = classes(tasks=2)
    outputs = meta.predict(episodes)
    adapted = meta.adapt(episodes.support_x[1], episodes.support_y[1])
    assert not adapted.training
    torch.testing.assert_close(adapted(episodes.query_x[1]).detach(), outputs[1])
    if not transductive:
        torch.testing.assert_close(adapted(episodes.query_x[1, :1]).detach(), outputs[1, :1])
    copy.deepcopy(adapted).load_state_dict(adapted.state_dict())


def test_one_batch_norm_at_two_places():
    norm = nn.BatchNorm1d(3)
    network = nn.Sequential(norm, nn.Linear(3, 3), norm, nn.Linear(3, 2)).double()
    episodes = classes()
    meta = MAML(network, inner_lr=LR, transductive=False)
    assert meta.predict(episodes).isfinite().all()
    with pytest.raises(ValueError, match="call each batch norm once"):
        meta.adapt(episodes.support_x[0], episodes.support_y[0])
    MAML(network, transductive=True).adapt(episodes.support_x[0], episodes.support_y[0])


def test_dropout_follows_the_mode_and_differs_between_tasks():
    one = classes(tasks=1)
    episodes = Episodes(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in one[:4]))
    for mode in ("vmap", "loop"):
        meta = MAML(mlp(dropout=0.5), inner_lr=LR, mode=mode)
        random = meta.predict(episodes)
        assert not torch.allclose(random[0], random[1])
        plain = meta.eval().predict(episodes)
        torch.testing.assert_close(plain[0], plain[1])
        torch.testing.assert_close(meta.predict(episodes), plain)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_step_done_again_draws_the_same_dropout(mode):
    network, episodes = mlp(dropout=0.5), classes()
    found = []
    for checkpoint in (False, True):
        meta = MAML(network, inner_lr=LR, mode=mode, checkpoint_steps=checkpoint)
        torch.manual_seed(1)
        found.append((gradients(meta, episodes), torch.rand(())))
    torch.testing.assert_close(found[0], found[1])


def test_choosing_draws_no_random_numbers():
    meta, episodes = MAML(mlp(dropout=0.5), inner_lr=LR), classes()
    drawn = []
    for _ in range(2):  # the first call measures and chooses
        torch.manual_seed(1)
        drawn.append((gradients(meta, episodes), torch.rand(())))
    torch.testing.assert_close(*drawn)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.last = nn.Linear(3, 2)
        self.double()

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x))))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_tied_weights_are_one_parameter(way):
    network, episodes = Tied(), classes()
    meta = MAML(network, inner_lr=LR, inner_steps=3, **way)
    assert [*meta.adapted_parameters()] == [
        *("first.weight", "first.bias", "second.bias", "last.weight", "last.bias")
    ]
    loss, expected = plain_maml(network, episodes, lr=LR)
    torch.testing.assert_close(meta.loss(episodes).detach(), loss)
    torch.testing.assert_close(gradients(meta, episodes), list(expected))
    adapted = meta.adapt(episodes.support_x[0], episodes.support_y[0])
    assert adapted.first.weight is adapted.second.weight
    assert adapted.first.weight is not network.first.weight


class Partial(nn.Module):
    """A frozen layer, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.frozen, self.unused, self.used = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.frozen.requires_grad_(False)
        self.double()

    def forward(self, x):
        return self.used(torch.tanh(self.frozen(x)))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_frozen_and_unused_parameters_stay(way):
    network, episodes = Partial(), classes()
    meta = MAML(network, inner_lr=LR, inner_steps=3, **way)
    meta.loss(episodes).backward()
    assert network.frozen.weight.grad is None
    assert network.used.weight.grad.any()
    assert network.unused.weight.grad is None or not network.unused.weight.grad.any()
    adapted = meta.adapt(episodes.support_x[0], episodes.support_y[0])
    assert torch.equal(adapted.frozen.weight, network.frozen.weight)
    assert torch.equal(adapted.unused.weight, network.unused.weight)
    assert not torch.equal(adapted.used.weight, network.used.weight)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_parameters_frozen_later_stay_too(mode):
    network = mlp()
    meta = MAML(network, inner_lr=LR, mode=mode)
    network[0].requires_grad_(False)
    meta.loss(classes()).backward()
    assert network[0].weight.grad is None
    assert network[3].weight.grad.any()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_attention_has_its_second_order(way):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    network = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 4), layer, nn.Flatten(), nn.Linear(12, 2))
    meta = MAML(network.double(), inner_lr=LR, inner_steps=2, loss=F.mse_loss, **way)
    assert_slope(meta, curves(tasks=2, shots=3))


def test_a_recurrent_network_has_its_second_order():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.recurrent(x.unsqueeze(-1))[0][:, -1])

    assert_slope(MAML(Last().double(), inner_lr=LR, mode="loop"), classes(tasks=2))


class Tokens(nn.Module):
    """Mean embeddings of tokens, of which one is padding."""

    def __init__(self, padding_idx: int | None, *, keyword: bool = False, tokens: int = 5):
        super().__init__()
        self.table = nn.Embedding(tokens, 3, padding_idx=padding_idx, dtype=DOUBLE)
        self.head = mlp()
        self.keyword = keyword

    def forward(self, x):
        if self.keyword:
            found = F.embedding(input=x, weight=self.table.weight, padding_idx=self.table.padding_idx)
        else:
            found = self.table(x)
        return self.head(found.mean(1))


@pytest.mark.parametrize("padding_idx", [0, -2, None])
@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_padding_stays_as_it_is_in_every_task(way, first_order, keyword, padding_idx):
    """torch.vmap of an embedding trains the padding of all tasks but the first."""
    network, episodes = Tokens(padding_idx, keyword=keyword), classes()
    tokens = {
        side: torch.randint(5, (*getattr(episodes, side).shape[:2], 6)) for side in ("support_x", "query_x")
    }
    episodes = episodes._replace(**tokens)
    loss, expected = plain_maml(copy.deepcopy(network), episodes, lr=LR, first_order=first_order)
    meta = MAML(network, inner_lr=LR, inner_steps=3, first_order=first_order, **way)
    torch.testing.assert_close(meta.loss(episodes), loss)
    for ours, theirs in zip(gradients(meta, episodes), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_embeddings_that_overwrite_their_weights():
    network = nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten(), nn.Linear(18, 2))
    with pytest.raises(ValueError, match=r"got embeddings with `max_norm`, which overwrite them: 0\. Pass"):
        MAML(network)


def test_attention_in_evaluation_mode_stays_in_vmap():
    """Its fast path, which torch takes where it sees no gradient wanted, has no rule for vmap."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, dtype=DOUBLE)
    network = nn.Sequential(nn.Unflatten(1, (3, 4)), layer, nn.Flatten(), nn.Linear(12, 2, dtype=DOUBLE))
    episodes = classes(inputs=12)
    stacked, loop = (MAML(network, inner_lr=LR, inner_steps=2, mode=mode).eval() for mode in ("vmap", "loop"))
    torch.testing.assert_close(stacked.predict(episodes), loop.predict(episodes))
    assert torch.backends.mha.get_fastpath_enabled()
