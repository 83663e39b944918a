"""Learners, episodes and evaluation on a CUDA device: what the CPU computes, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradient_models import classes, curves, mlp, normed, plain_maml
from metric_models import encoder, episodes
from torch import Tensor, nn

from athena_meta import (
    ANIL,
    MAML,
    Baseline,
    BaselinePlusPlus,
    Conv4,
    Episodes,
    EpisodeSampler,
    FewShotDataset,
    FewShotLearner,
    FullContext,
    ImplicitMAML,
    InnerAdam,
    MAMLPlusPlus,
    MatchingNetwork,
    MetaSGD,
    PrototypicalNetwork,
    RelationNetwork,
    Reptile,
    Sinusoids,
    compare,
    evaluate,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
CLOSE = {"rtol": 1e-8, "atol": 1e-10}
MODES: dict[str, dict[str, Any]] = {
    "vmap": {"mode": "vmap"},
    "chunks": {"mode": "vmap", "chunk_size": 2},
    "budget": {"mode": "vmap", "memory_budget": 10**9},
    "loop": {"mode": "loop"},
    "auto": {"mode": "auto"},
}
Make = Callable[..., FewShotLearner]
GRADIENT: dict[str, Make] = {
    "maml": lambda **options: MAML(mlp(), inner_lr=0.1, inner_steps=3, **options),
    "maml-first-order": lambda **options: MAML(
        mlp(), inner_lr=0.1, inner_steps=3, first_order=True, **options
    ),
    "maml-checkpointed": lambda **options: MAML(
        mlp(), inner_lr=0.1, inner_steps=3, checkpoint_steps=True, **options
    ),
    "maml-adam": lambda **options: MAML(mlp(), inner=InnerAdam(), inner_steps=3, **options),
    "maml-batch-norm": lambda **options: MAML(
        normed(), inner_lr=0.1, inner_steps=2, transductive=True, **options
    ),
    "anil": lambda **options: ANIL(mlp(), inner_lr=0.1, inner_steps=3, **options),
    "meta-sgd": lambda **options: MetaSGD(mlp(), inner_lr=0.1, inner_steps=3, **options),
    "maml-plus-plus": lambda **options: MAMLPlusPlus(
        normed(), inner_lr=0.1, inner_steps=2, transductive=True, **options
    ),
    "implicit": lambda **options: ImplicitMAML(mlp(), strength=2.0, inner_lr=0.1, inner_steps=8, **options),
}
OTHERS: dict[str, Make] = {
    "reptile": lambda: Reptile(mlp(), inner_lr=0.1, inner_steps=3),
    "squared-euclidean": lambda: PrototypicalNetwork(encoder(3)),
    "cosine": lambda: PrototypicalNetwork(encoder(3), distance="cosine", learn_temperature=True),
    "mahalanobis": lambda: PrototypicalNetwork(encoder(3), distance="mahalanobis"),
    "matching": lambda: MatchingNetwork(encoder(3), context=FullContext(6, reads=3).double()),
    "relation": lambda: RelationNetwork(
        encoder(3), nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid()).double()
    ),
}


def pair(learner: FewShotLearner) -> tuple[Any, Any]:
    """The learner on the CPU, and a copy on the device."""
    return learner, copy.deepcopy(learner).to(DEVICE)


def gradients(learner: FewShotLearner, batch: Episodes) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The loss and the gradients of all parameters, on the CPU."""
    learner.zero_grad()
    loss = learner.loss(batch.to(next(learner.parameters()).device))
    loss.backward()
    found = {
        name: one.grad if one.grad is None else one.grad.cpu() for name, one in learner.named_parameters()
    }
    return loss.detach().cpu(), found


def assert_alike(here: FewShotLearner, there: FewShotLearner, batch: Episodes, **tolerance: float) -> None:
    tolerance = tolerance or CLOSE
    (loss, ours), (expected_loss, expected) = gradients(there, batch), gradients(here, batch)
    torch.testing.assert_close(loss, expected_loss, **tolerance)
    assert {name for name, one in ours.items() if one is None} == {
        n for n, one in expected.items() if one is None
    }
    for name, one in expected.items():
        if one is not None:
            torch.testing.assert_close(ours[name], one, **tolerance)
    predicted = there.predict(batch.to(DEVICE))
    assert predicted.device.type == DEVICE
    torch.testing.assert_close(predicted.detach().cpu(), here.predict(batch).detach(), **tolerance)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_learners(name: str, mode: str) -> None:
    here, there = pair(GRADIENT[name](**MODES[mode]))
    assert_alike(here, there, classes(shots=8 if name == "implicit" else 4))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_maml_is_the_plain_loop_of_the_cpu(mode: str, first_order: bool) -> None:
    network, batch = mlp(), curves()
    expected, slopes = plain_maml(network, batch, first_order=first_order, loss=F.mse_loss)
    options = {"inner_lr": 0.1, "inner_steps": 3, "first_order": first_order, "loss": F.mse_loss}
    meta = MAML(copy.deepcopy(network), **options, **MODES[mode]).to(DEVICE)
    loss, found = gradients(meta, batch)
    torch.testing.assert_close(loss, expected, **CLOSE)
    for ours, other in zip(found.values(), slopes, strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)
    assert meta.modes.chosen is not None


@pytest.mark.parametrize("name", OTHERS)
def test_other_learners(name: str) -> None:
    here, there = pair(OTHERS[name]())
    if name == "reptile":
        for one in (here, there):  # its minibatches are drawn by the CPU's generator
            torch.manual_seed(5)
            one.drawn = gradients(one, classes())
        torch.testing.assert_close(there.drawn, here.drawn, **CLOSE)
        return
    assert_alike(here, there, classes(shots=6))


@pytest.mark.parametrize("make", [Baseline, BaselinePlusPlus])
def test_transfer_learners(make: Any) -> None:
    """The head is fitted in a hundred steps of SGD, whose minibatches the seed draws."""
    data = classes()
    batch = data._replace(classes=torch.stack([torch.randperm(8)[:2] for _ in range(data.tasks)]))
    here, there = pair(make(encoder(3), features=6, n_classes=8).double())
    loss, ours = gradients(there, batch)
    expected_loss, expected = gradients(here, batch)
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    torch.testing.assert_close(ours, expected, **CLOSE)
    outputs = [one.predict(batch.to(device)).cpu() for one, device in ((there, DEVICE), (here, "cpu"))]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:tasks come one by one")  # whether vmap takes them is seen by "vmap"
@pytest.mark.parametrize("mode", ["vmap", "loop", "auto"])
def test_convolutions(mode: str) -> None:
    """In float32, whose convolutions the device may compute in other ways: a part in a thousand."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.manual_seed(0)
        network = Conv4(1, size=28, width=8, outputs=2)
        options = {"inner_lr": 0.05, "inner_steps": 2, "transductive": True, **MODES[mode]}
        here, there = pair(MAML(network, **options))
        x, y = torch.rand(3, 4, 1, 28, 28), torch.tensor([[0, 1, 0, 1]] * 3)
        batch = Episodes(x, y, x.flip(0), y)
        (loss, ours), (expected_loss, expected) = gradients(there, batch), gradients(here, batch)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-3, atol=1e-4)
        for name, other in expected.items():
            assert (ours[name] - other).norm() <= 1e-2 * other.norm() + 1e-6, name
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_dropout_draws_from_the_device_s_generator(mode: str) -> None:
    batch = classes().to(DEVICE)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        meta = MAML(mlp(dropout=0.5), inner_lr=0.1, inner_steps=2, **MODES[mode]).to(DEVICE)
        torch.manual_seed(1)
        losses.append([meta.loss(batch).item() for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_choosing_a_mode_leaves_the_generators_where_they_were() -> None:
    batch = classes().to(DEVICE)
    meta = MAML(mlp(dropout=0.5), inner_lr=0.1, inner_steps=2, mode="auto").to(DEVICE)
    torch.manual_seed(0)
    meta.loss(batch)
    after = torch.rand(3, device=DEVICE)
    torch.manual_seed(0)
    meta.loss(batch)  # which measures no more
    assert torch.equal(torch.rand(3, device=DEVICE), after)


@pytest.mark.parametrize("name", ["maml", "maml-batch-norm", "meta-sgd", "implicit"])
def test_adapted_modules_stay_on_the_device(name: str) -> None:
    here, there = pair(GRADIENT[name]())
    task = classes(tasks=1, shots=8)
    support, query = task.support_x[0], task.query_x[0]
    names = ["ash", "birch"] * 8
    ours, expected = there.adapt(support.to(DEVICE), names), here.adapt(support, names)
    assert {one.device.type for one in ours.parameters()} == {DEVICE}
    assert ours.classes == expected.classes
    torch.testing.assert_close(ours(query.to(DEVICE)).detach().cpu(), expected(query).detach(), **CLOSE)


def test_training_goes_the_same_way() -> None:
    here, there = pair(GRADIENT["maml"]())
    batches = [classes() for _ in range(5)]
    for learner in (here, there):
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
        for batch in batches:
            optimizer.zero_grad()
            learner.loss(batch.to(next(learner.parameters()).device)).backward()
            optimizer.step()
    for ours, expected in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().cpu(), expected.detach(), rtol=1e-6, atol=1e-8)


def make_data() -> FewShotDataset:
    labels = torch.arange(160) % 8
    return FewShotDataset(torch.eye(8)[labels] + 0.3 * torch.randn(160, 8), labels)


def make_sampler() -> EpisodeSampler:
    return EpisodeSampler(make_data(), n_way=5, k_shot=2, n_query=5, seed=0)


def test_episodes_are_pinned_and_moved() -> None:
    for batch in make_sampler().batches(tasks=4, number=2):
        pinned = Episodes(*(part.pin_memory() for part in batch))
        moved = pinned.to(DEVICE, non_blocking=True)
        torch.cuda.synchronize()
        assert {part.device.type for part in moved} == {DEVICE}
        for part, other in zip(moved, batch, strict=True):
            assert torch.equal(part.cpu(), other)
        assert torch.equal(moved.dense().query_y.cpu(), batch.dense().query_y)
    with pytest.raises(ValueError, match="labels of the support set; query 1 of task 0"):
        Episodes(*moved[:4])._replace(
            query_y=moved.query_y.index_fill(1, torch.tensor([1], device=DEVICE), 99)
        ).dense()


def test_images_on_the_device_are_taken_or_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in main memory"):
        FewShotDataset(torch.zeros(4, 2, device=DEVICE), [0, 1, 0, 1])


@pytest.mark.parametrize("tasks", [1, 7])
def test_scores_are_the_cpu_s(tasks: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
    sampler = make_sampler()
    scores = {}
    for name, learner in {
        "maml": MAML(network, inner_lr=0.2, inner_steps=3),
        "prototypical": PrototypicalNetwork(network),
    }.items():
        here, there = pair(learner)
        found = [evaluate(one, sampler, episodes=30, tasks=tasks) for one in (there, here)]
        # a query whose two best classes tie to float32's last digit may go to the other
        assert np.abs(found[0].scores - found[1].scores).mean() < 1e-3
        scores[name] = there
    assert compare(
        scores["prototypical"], scores["maml"], sampler, episodes=20
    ).interval().estimate == pytest.approx(
        compare(scores["prototypical"].cpu(), scores["maml"].cpu(), sampler, episodes=20).interval().estimate,
        abs=1e-2,
    )


def test_regression_tasks() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 1))
    here, there = pair(MAML(network, inner_lr=0.01, inner_steps=2, loss=F.mse_loss))
    found = [evaluate(one, Sinusoids(k_shot=5), episodes=30).scores for one in (there, here)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)


def test_equal_labels_of_any_kind() -> None:
    """Metric learners on labels that begin nowhere, unequal shots and several tasks."""
    batch = episodes([7, 7, 7, 2, 5, 5], [7, 2, 2, 5])
    here, there = pair(PrototypicalNetwork(encoder()))
    assert_alike(here, there, batch)
