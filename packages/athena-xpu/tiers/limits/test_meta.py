"""Few-shot learners take their steps, adapt and are evaluated within the limits of the A series."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import components
from athena_meta import (
    ANIL,
    MAML,
    Baseline,
    BaselinePlusPlus,
    Conv4,
    Episodes,
    EpisodeSampler,
    FewShotDataset,
    ImplicitMAML,
    InnerAdam,
    MAMLPlusPlus,
    MatchingNetwork,
    MetaSGD,
    PrototypicalNetwork,
    RelationNetwork,
    Reptile,
    Sinusoids,
    evaluate,
)
from athena_xpu import ArcLimits

STEPS: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 2}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def batch() -> Episodes:
    y = torch.arange(2).repeat(4).expand(3, -1)
    centres = torch.randn(3, 2, 3)
    x, other = (
        centres.gather(1, y[..., None].expand(-1, -1, 3)) + 0.5 * torch.randn(3, 8, 3) for _ in range(2)
    )
    return Episodes(x, y, other, y, torch.tensor([[0, 1], [2, 3], [4, 5]]))


def relation() -> RelationNetwork:
    head = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())
    return RelationNetwork(encoder(), head)


LEARNERS: dict[str, Callable[..., nn.Module]] = {
    "maml": lambda **mode: MAML(mlp(), **STEPS, **mode),
    "maml-first-order": lambda **mode: MAML(mlp(), first_order=True, **STEPS, **mode),
    "maml-checkpointed": lambda **mode: MAML(mlp(), checkpoint_steps=True, **STEPS, **mode),
    "maml-adam": lambda **mode: MAML(mlp(), inner=InnerAdam(), inner_steps=2, **mode),
    "maml-batch-norm": lambda **mode: MAML(normed(), transductive=True, **STEPS, **mode),
    "anil": lambda **mode: ANIL(mlp(), **STEPS, **mode),
    "meta-sgd": lambda **mode: MetaSGD(mlp(), **STEPS, **mode),
    "maml-plus-plus": lambda **mode: MAMLPlusPlus(normed(), transductive=True, **STEPS, **mode),
    "implicit-maml": lambda **mode: ImplicitMAML(mlp(), strength=2.0, **STEPS, **mode),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "reptile": lambda: Reptile(mlp(), **STEPS),
    "prototypical": lambda: PrototypicalNetwork(encoder()),
    "prototypical, mahalanobis": lambda: PrototypicalNetwork(encoder(), distance="mahalanobis"),
    "matching": lambda: MatchingNetwork(encoder()),
    "relation": relation,
    "baseline": lambda: Baseline(encoder(), features=6, n_classes=6),
    "baseline-pp": lambda: BaselinePlusPlus(encoder(), features=6, n_classes=6),
}


def test_every_registered_learner_is_here() -> None:
    assert {one.name for one in components("few-shot-learner")} <= LEARNERS.keys() | OTHERS.keys()


def meta_step(learner: nn.Module, episodes: Episodes) -> list[Tensor]:
    """The loss, all parameters after a step of the outer optimizer, and predictions, on the host."""
    torch.manual_seed(5)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2, eps=1e-3)
    episodes = episodes.to(next(learner.parameters()).device)
    loss = learner.loss(episodes)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.parameters(), 10.0)
    optimizer.step()
    predicted = learner.predict(episodes)
    return [part.detach().cpu() for part in (loss, *learner.parameters(), predicted)]


def assert_alike(learner: nn.Module) -> ArcLimits:
    episodes, there = batch(), copy.deepcopy(learner)
    expected = meta_step(learner, episodes)
    with ArcLimits() as limits:
        found = meta_step(there.to(limits.device), episodes)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return limits


@pytest.mark.parametrize("mode", ["vmap", "loop"])
@pytest.mark.parametrize("name", LEARNERS)
def test_gradient_learners(name: str, mode: str) -> None:
    assert assert_alike(LEARNERS[name](mode=mode)).ops > 50


@pytest.mark.parametrize("name", OTHERS)
def test_other_learners(name: str) -> None:
    assert assert_alike(OTHERS[name]()).ops > 50


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_convolutions(mode: str) -> None:
    network = Conv4(1, size=28, width=4, outputs=2)
    x, y = torch.rand(2, 4, 1, 28, 28), torch.tensor([[0, 1, 0, 1]] * 2)
    learner = MAML(network, transductive=True, mode=mode, **STEPS)
    expected = learner.loss(Episodes(x, y, x.flip(0), y)).item()
    with ArcLimits() as limits:
        learner.to(limits.device)
        loss = learner.loss(Episodes(x, y, x.flip(0), y).to(limits.device))
        loss.backward()
        assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_evaluation_scores_in_float64_on_the_host() -> None:
    data = FewShotDataset(torch.randn(40, 3), torch.arange(40) % 4)
    sampler = EpisodeSampler(data, n_way=2, k_shot=2, n_query=3, seed=0)
    learner = MAML(mlp(), **STEPS)
    curves = MAML(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), loss=F.mse_loss, **STEPS)
    expected = (
        evaluate(learner, sampler, episodes=12).scores,
        evaluate(curves, Sinusoids(k_shot=5), episodes=12).scores,
    )
    with ArcLimits() as limits:
        learner.to(limits.device)
        curves.to(limits.device)
        found = (
            evaluate(learner, sampler, episodes=12).scores,
            evaluate(curves, Sinusoids(k_shot=5), episodes=12).scores,
        )
    for ours, other in zip(found, expected, strict=True):
        assert ours.dtype == "float64"
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(other), rtol=1e-3, atol=1e-3)


def test_episodes_of_the_device_are_evaluated() -> None:
    """Scores of episodes that lie there already: float64 is the host's."""

    class Held(EpisodeSampler):
        def draw(self, first: int, count: int) -> Episodes:
            return super().draw(first, count).to(ArcLimits.device)

    data = FewShotDataset(torch.randn(40, 3), torch.arange(40) % 4)
    with ArcLimits() as limits:
        learner = PrototypicalNetwork(encoder()).to(limits.device)
        found = evaluate(learner, Held(data, n_way=2, k_shot=2, n_query=3, seed=0), episodes=6)
    assert found.scores.dtype == "float64"


def test_adapted_modules() -> None:
    task = batch()
    with ArcLimits() as limits:
        learner = MAML(mlp(), **STEPS).to(limits.device)
        ours = learner.adapt(task.support_x[0].to(limits.device), ["ash", "birch"] * 4)
        assert {one.device for one in ours.parameters()} == {limits.device}
        assert ours(task.query_x[0].to(limits.device)).shape == (8, 2)
