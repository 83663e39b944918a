"""Episodes and encoders that the tests of metric learners share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_meta import Episodes, EpisodeSource


def encoder(inputs: int = 4, features: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, features)).double()


def shuffled(labels: list[int], tasks: int) -> Tensor:
    """The labels in another order in each task."""
    y = torch.tensor(labels)
    return torch.stack([y[torch.randperm(len(y))] for _ in range(tasks)])


def episodes(
    support: list[int], query: list[int], *, tasks: int = 3, inputs: tuple[int, ...] = (4,)
) -> Episodes:
    """Random inputs in float64 with these labels, shuffled."""
    support_y, query_y = shuffled(support, tasks), shuffled(query, tasks)
    x = torch.randn(tasks, len(support) + len(query), *inputs, dtype=torch.float64)
    n_way = len(set(support))
    classes = torch.stack([torch.randperm(20)[:n_way] for _ in range(tasks)])
    return Episodes(x[:, : len(support)], support_y, x[:, len(support) :], query_y, classes)


class Drawn(EpisodeSource):
    """A source that holds its episodes."""

    def __init__(self, held: Episodes, *, classification: bool = True) -> None:
        self.held, self.classification = held, classification

    def draw(self, first: int, count: int) -> Episodes:
        return self.held.take(first, first + count)
