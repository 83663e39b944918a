"""A training episode of a prototypical network, 60-way 5-shot 5-query, with its sampling, beside easyfsl."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_meta import Conv4, Episodes, EpisodeSampler, FewShotDataset, PrototypicalNetwork

N_WAY, K_SHOT, N_QUERY = 60, 5, 5
CLASSES, IMAGES = 200, 20
UNUSED = (
    "pandas",
    "torchvision",
    "torchvision.datasets",
    "torchvision.transforms",
    "torchvision.models",
    "torchvision.models.resnet",
)


@cache
def easyfsl() -> tuple[type, type, type]:
    """The peer's network, sampler and data set, without what else it imports and does not use here."""
    stubs = {name: ModuleType(name) for name in UNUSED}
    for stub in stubs.values():
        stub.__getattr__ = lambda _: MagicMock()  # type: ignore[method-assign]
    with patch.dict(sys.modules, stubs):
        from easyfsl.datasets import FewShotDataset as PeerDataset
        from easyfsl.methods import PrototypicalNetworks
        from easyfsl.samplers import TaskSampler
    return PrototypicalNetworks, TaskSampler, PeerDataset


def plain_conv4() -> nn.Module:
    """The backbone as the papers write it."""
    blocks = [
        nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))
        for channels in (1, 64, 64, 64)
    ]
    return nn.Sequential(*blocks, nn.Flatten())


def ours(encoder: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    learner = PrototypicalNetwork(encoder)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    sampler = EpisodeSampler(
        FewShotDataset(images, labels), n_way=N_WAY, k_shot=K_SHOT, n_query=N_QUERY, seed=0
    )
    batches = iter(sampler.batches(tasks=1))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = learner.loss(next(batches))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def peer(images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    network, task_sampler, dataset = easyfsl()

    class Images(dataset):  # type: ignore[misc,valid-type]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return images[index].float() / 255, int(labels[index])

        def get_labels(self) -> list[int]:
            return labels.tolist()

    data = Images()
    # Its sampler passes an argument on that torch's own does not take any more.
    with patch.object(Sampler, "__init__", lambda *_, **__: None):
        sampler = task_sampler(data, n_way=N_WAY, n_shot=K_SHOT, n_query=N_QUERY, n_tasks=10**6)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    batches = iter(loader)
    learner = network(plain_conv4())
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)

    def step() -> Tensor:
        support_x, support_y, query_x, query_y, _ = next(batches)
        optimizer.zero_grad()
        learner.process_support_set(support_x, support_y)
        loss = F.cross_entropy(learner(query_x), query_y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def assert_same_scores() -> None:
    """Ours are the peer's, squared, with the same weights and in evaluation mode."""
    backbone, encoder = plain_conv4().eval(), Conv4().eval()
    for mine, its in zip(encoder.state_dict().values(), backbone.state_dict().values(), strict=True):
        mine.copy_(its)
    x, y = torch.rand(2, 20, 1, 28, 28), torch.arange(5).repeat_interleave(4)
    network = easyfsl()[0](backbone)
    network.process_support_set(x[0], y)
    expected = -network(x[1]).square()
    scores = PrototypicalNetwork(encoder).predict(Episodes(x[:1], y[None], x[1:], y[None]))[0]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    with torch.no_grad():
        assert_same_scores()
    images = torch.randint(256, (CLASSES * IMAGES, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    steps = {
        "ours": ours(Conv4(), images, labels),
        "plain": ours(plain_conv4(), images, labels),
        "easyfsl": peer(images, labels),
    }
    for step in steps.values():
        step()
    each = medians(repeats, *(partial(seconds, step) for step in steps.values()))
    took = {name: 1e3 * time for name, time in zip(steps, each, strict=True)}
    case, peers = f"{N_WAY}-way {K_SHOT}-shot {N_QUERY}-query with sampling", {"easyfsl": took["easyfsl"]}
    yield row(f"{case}, Conv4", ours=took["ours"], peers=peers, unit="ms")
    yield row(f"{case}, the peer's backbone", ours=took["plain"], peers=peers, unit="ms")


if __name__ == "__main__":
    run(parser(__doc__, repeats=11), rows)
