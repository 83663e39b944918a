"""Relation networks: the comparison of a query with a class is learned too."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._metric_learner import MetricLearner
from athena_meta._prototypes import class_means


class RelationModule(nn.Module):
    r"""How related two feature maps are, which come as one with twice the channels: a score in [0, 1].

    Two blocks of convolution, batch norm, ReLU and pooling, then two linear layers.

    Args:
        channels: of one feature map.
        size: of the maps, in pixels; 7 of `Conv4(pools=2).blocks` on 28x28, 21 on 84x84.
        hidden: width between the linear layers.

    Shape: ``(pairs, 2 * channels, size, size) -> (pairs, 1)``. Raises ValueError for maps that pooling leaves
    nothing of.

    Source: Sung et al. 2018, arXiv:1711.06025, section 3.4. Departs from it: convolutions are padded.

    >>> RelationModule(16, size=7)(torch.zeros(3, 32, 7, 7)).shape
    torch.Size([3, 1])
    """

    def __init__(self, channels: int = 64, *, size: int = 7, hidden: int = 8) -> None:
        super().__init__()
        if size < 4:
            raise ValueError(f"`size` must be at least 4, for two poolings by 2; got {size}.")
        blocks = []
        for inputs in (2 * channels, channels):
            blocks += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels)]
            blocks += [nn.MaxPool2d(2), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        features = channels * (size // 4) ** 2
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, pairs: Tensor) -> Tensor:
        return self.head(self.blocks(pairs).flatten(1))


class RelationNetwork(MetricLearner):
    r"""Scores a query by a learned relation to the mean of each class.

    .. math:: r_{ij} = g(\mathcal{C}(f(S_i), f(x_j))), \qquad
        \min \operatorname{mean}_{ij}\,(r_{ij} - \mathbf{1}[y_j = i])^2

    with the concatenation :math:`\mathcal{C}` of two feature maps along their first axis, that of the class
    first.

    Args:
        encoder: any module from inputs to feature maps or vectors.
        relation: any module from concatenated pairs ``(n, 2 * channels, ...)`` to a score ``(n, 1)``.

    Shape: of ``predict``: episodes -> ``(tasks, n_query, n_way)``, relations. Raises ValueError for a
    relation that gives other than one score a pair.

    Source: Sung et al. 2018, arXiv:1711.06025, eq. 1 and 2. Departs from it: the mean over the examples of a
    class in the place of their sum, so that a learner may meet more or fewer shots than it was trained with.

    >>> from athena_meta import Conv4, Episodes
    >>> encoder = Conv4(width=8, pools=2).blocks
    >>> learner = RelationNetwork(encoder, RelationModule(8))
    >>> x, y = torch.rand(2, 3, 1, 28, 28), torch.tensor([[0, 1, 2]] * 2)
    >>> learner.predict(Episodes(x, y, x, y)).shape
    torch.Size([2, 3, 3])
    """

    def __init__(self, encoder: nn.Module, relation: nn.Module) -> None:
        super().__init__(encoder)
        self.relation = relation

    @classmethod
    def around(cls, network: nn.Module, *, outputs: int) -> Self:
        relation = [nn.Linear(2 * outputs, 8 * outputs), nn.ReLU(), nn.Linear(8 * outputs, 1), nn.Sigmoid()]
        return cls(network, nn.Sequential(*relation))

    def summary(self, support: Tensor, ranks: Tensor, n_way: int) -> tuple[Tensor, ...]:
        """The mean feature map of each class ``(tasks, n_way, channels, ...)``."""
        return (class_means(support, ranks, n_way),)

    def scores(self, query: Tensor, *summary: Tensor) -> Tensor:
        (means,) = summary
        tasks, n_query, n_way = *query.shape[:2], means.shape[1]
        shape = (tasks, n_query, n_way, *query.shape[2:])
        pairs = torch.cat([means.unsqueeze(1).expand(shape), query.unsqueeze(2).expand(shape)], dim=3)
        scores = self.relation(pairs.flatten(0, 2))
        if scores.numel() != tasks * n_query * n_way:
            raise ValueError(
                f"`relation` must give one score a pair, ({tasks * n_query * n_way}, 1); got shape "
                f"{tuple(scores.shape)}."
            )
        return scores.reshape(tasks, n_query, n_way)

    def criterion(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error to 1 for the class of the query and 0 for the others."""
        return F.mse_loss(scores, F.one_hot(targets, scores.shape[-1]).to(scores.dtype))
