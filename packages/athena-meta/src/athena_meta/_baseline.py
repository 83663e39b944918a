"""Baseline and Baseline++: an ordinary classifier, and a new head for each task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_meta._distances import cosine, unit
from athena_meta._prototypes import class_means
from athena_meta._transfer_learner import HeadFitting, TransferLearner


class Baseline(TransferLearner):
    r"""A linear head on frozen features, :math:`W f(x) + b`, fitted from zero.

    Args:
        encoder: any module from inputs to features, whose axes after the first are flattened.
        features: how many those are.
        n_classes: base classes, those of the data set that is trained on.
        fitting: of the head of a task; None: `HeadFitting()`.

    Shape: of ``predict``: episodes -> ``(tasks, n_query, n_way)``. Raises ValueError for sizes below 1.

    Source: Chen et al. 2019, arXiv:1904.04232, section 3.2. Departs from it: as `HeadFitting` does, and heads
    start from zero in the place of random numbers, so that a support set has one answer.

    >>> from athena_meta import Episodes
    >>> x, y = torch.eye(3)[None], torch.tensor([[0, 1, 2]])
    >>> learner = Baseline(nn.Identity(), features=3, n_classes=9)
    >>> learner.predict_by_step(Episodes(x, y, x, y)).argmax(-1)[-1].tolist()
    [[0, 1, 2]]
    """

    def initial_head(self, features: Tensor, ranks: Tensor, n_way: int) -> Tensor:  # noqa: ARG002
        return features.new_zeros(len(features), n_way, self.features + 1)

    def head_outputs(self, features: Tensor, head: Tensor) -> Tensor:
        return features @ head[..., :-1].mT + head[..., -1].unsqueeze(-2)


class BaselinePlusPlus(TransferLearner):
    r"""A cosine head on frozen features, :math:`s\, e^{g_k} \cos(f(x), w_k)`, from mean directions.

    Trained as any classifier is, it is the comparison without which the accuracy of a meta-learner says
    little.

    Args:
        encoder: any module from inputs to features, whose axes after the first are flattened.
        features: how many those are.
        n_classes: base classes, those of the data set that is trained on.
        scale: :math:`s`, of both heads; None: that of the authors' code, 2 up to 200 base classes, else 10.
        fitting: of the head of a task; None: `HeadFitting()`.

    Each class has a learned scale :math:`e^{g_k}` of its own.

    Shape: of ``predict``: episodes -> ``(tasks, n_query, n_way)``. Raises ValueError for sizes below 1 and a
    scale that is not positive.

    Source: Chen et al. 2019, arXiv:1904.04232, section 3.2, and the scales of its code. Departs from it: as
    `HeadFitting` does, and heads start from the mean direction of each class in the place of random numbers,
    so that a support set has one answer and the order of its classes means nothing.

    >>> from athena_meta import Episodes
    >>> x, y = torch.eye(3)[None], torch.tensor([[0, 1, 2]])
    >>> learner = BaselinePlusPlus(nn.Identity(), features=3, n_classes=9)
    >>> learner.predict_by_step(Episodes(x, y, x, y), steps=2).shape
    torch.Size([3, 1, 3, 3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        features: int,
        n_classes: int,
        scale: float | None = None,
        fitting: HeadFitting | None = None,
    ) -> None:
        super().__init__(encoder, features=features, n_classes=n_classes, fitting=fitting)
        self.scale = (2.0 if n_classes <= 200 else 10.0) if scale is None else scale
        if not self.scale > 0:
            raise ValueError(f"`scale` must be positive; got {scale}.")
        with torch.no_grad():
            self.base_head[:, -1] = 0

    def initial_head(self, features: Tensor, ranks: Tensor, n_way: int) -> Tensor:
        directions = unit(class_means(unit(features), ranks, n_way))
        return torch.cat([directions, torch.zeros_like(directions[..., :1])], dim=-1)

    def head_outputs(self, features: Tensor, head: Tensor) -> Tensor:
        return self.scale * head[..., -1].exp().unsqueeze(-2) * cosine(features, head[..., :-1])
