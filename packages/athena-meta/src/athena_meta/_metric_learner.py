"""Learners that compare a query with the support set in the space of an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._episodes import Episodes
from athena_meta._gradient_checks import checked_episodes
from athena_meta._labels import ranked, support_tensor
from athena_meta._learner import FewShotLearner, Labels
from athena_meta._prototypes import label_ranks


class MetricLearner(FewShotLearner):
    r"""Adapts by no gradient: the support set is summarised, and queries are scored against the summary.

    Support and query sets of all tasks go through the encoder in one pass. In training mode its batch norms
    normalise by that whole batch, as in any other module, and update their running statistics; predictions
    are always made in evaluation mode.

    Args:
        encoder: any module from inputs ``(n, ...)`` to features ``(n, ...)``.

    A subclass gives :meth:`summary` and :meth:`scores`.

    >>> from athena_meta import Episodes, prototypes, squared_euclidean
    >>> class NearestMean(MetricLearner):
    ...     def summary(self, support, ranks, n_way):
    ...         return (prototypes(support, ranks),)
    ...
    ...     def scores(self, query, means):
    ...         return squared_euclidean(query, means)
    >>> x, y = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[0, 1]])
    >>> NearestMean(nn.Identity()).predict(Episodes(x, y, x, y)).tolist()
    [[[0.0, -16.0], [-16.0, 0.0]]]
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def summary(self, support: Tensor, ranks: Tensor, n_way: int) -> tuple[Tensor, ...]:
        r"""What there is to know of support sets; of each tensor the first axis is the task.

        Args:
            support: features ``(tasks, n_support, ...)``.
            ranks: labels :math:`0 \ldots n\_way - 1` of every task, ``(tasks, n_support)``.
            n_way: classes a task.
        """

    @abstractmethod
    def scores(self, query: Tensor, *summary: Tensor) -> Tensor:
        """Of queries ``(tasks, n_query, ...)`` for each class ``(tasks, n_query, n_way)``; larger: nearer."""

    def criterion(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss of scores ``(tasks, n_query, n_way)``; here the cross entropy."""
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten())

    def encode(self, x: Tensor) -> Tensor:
        """Features of inputs that have an axis of tasks, ``(tasks, n, ...) -> (tasks, n, ...)``."""
        return self._features(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _features(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        if not (isinstance(features, Tensor) and features.ndim and len(features) == len(x)):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"`encoder` must return one tensor of features (n, ...) for inputs (n, ...), n = {len(x)}; "
                f"got {got}. Return the features alone."
            )
        if not features.is_floating_point():
            raise ValueError(
                f"`encoder` must return floating-point features, to be averaged; got {features.dtype}. Pass "
                "inputs as floats."
            )
        return features

    def loss(self, episodes: Episodes) -> Tensor:
        """The mean loss over all queries.

        Raises ValueError for an empty batch or set, for tasks that differ in their number of classes, and for
        a query label that the support set of its task lacks.
        """
        episodes, n_way = ranked_episodes(episodes)
        return self.criterion(self._outputs(episodes, n_way), episodes.query_y)

    def predict(self, episodes: Episodes) -> Tensor:
        """Scores of the queries ``(tasks, n_query, n_way)``, columns in the order of the sorted labels.

        Raises ValueError as :meth:`loss` does.
        """
        with torch.no_grad(), evaluating(self):
            return self._outputs(*ranked_episodes(episodes))

    def adapt(self, support_x: Tensor, support_y: Labels) -> nn.Module:
        """A classifier in evaluation mode, with an encoder of its own; ``classes`` are its columns.

        Args:
            support_x: inputs ``(n_support, ...)``.
            support_y: their labels, strings or whole numbers, in any order.
        """
        ranks, classes = ranked(support_y)
        if len(ranks) != len(support_tensor(support_x)):
            raise ValueError(
                f"`support_y` must have one label an example; got {len(ranks)} for {len(support_x)} examples."
            )
        learner = deepcopy(self).eval()
        with torch.no_grad():
            support = learner.encode(support_x.unsqueeze(0))
            summary = learner.summary(support, ranks.to(support.device).unsqueeze(0), len(classes))
        return MetricClassifier(learner, summary, classes)

    def _outputs(self, episodes: Episodes, n_way: int) -> Tensor:
        support_x, query_x = episodes.support_x, episodes.query_x
        together = torch.cat([support_x.flatten(0, 1), query_x.flatten(0, 1)])
        features = self._features(together).split([support_x.shape[:2].numel(), query_x.shape[:2].numel()])
        support = features[0].unflatten(0, support_x.shape[:2])
        query = features[1].unflatten(0, query_x.shape[:2])
        return self.scores(query, *self.summary(support, episodes.support_y, n_way))


class MetricClassifier(nn.Module):
    """One task as a module: inputs ``(n, ...)`` to scores ``(n, n_way)``, in the order of ``classes``."""

    def __init__(
        self, learner: MetricLearner, summary: tuple[Tensor, ...], classes: tuple[str, ...] | tuple[int, ...]
    ) -> None:
        super().__init__()
        self.learner, self.classes = learner, classes
        self.parts = len(summary)
        for index, part in enumerate(summary):
            self.register_buffer(f"summary_{index}", part)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        summary = (self.get_buffer(f"summary_{index}") for index in range(self.parts))
        return self.learner.scores(self.learner.encode(x.unsqueeze(0)), *summary).squeeze(0)


class Temperature(nn.Module):
    r"""Divides scores by :math:`\tau > 0`, held as :math:`\log \tau`, so that training keeps it positive.

    Raises ValueError for one that is not positive.
    """

    def __init__(self, temperature: float, *, learned: bool) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be positive and finite; got {temperature}.")
        self.log = nn.Parameter(torch.tensor(temperature).log(), requires_grad=learned)

    def forward(self, scores: Tensor) -> Tensor:
        return scores * torch.exp(-self.log)

    def extra_repr(self) -> str:
        return f"{self.log.exp().item():.4g}, learned={self.log.requires_grad}"


def ranked_episodes(episodes: Episodes) -> tuple[Episodes, int]:
    """Episodes with ranks as labels, and their number of classes, once checked."""
    episodes = checked_episodes(episodes)
    for name in ("support_y", "query_y"):
        labels = getattr(episodes, name)
        if labels.is_floating_point():
            raise ValueError(
                f"`episodes.{name}` must be whole numbers, labels of classes; got {labels.dtype}. Use a "
                "learner such as MAML for regression."
            )
        if labels.ndim != 2:
            raise ValueError(
                f"`episodes.{name}` must be one label an example, (tasks, n); got the shape "
                f"{tuple(labels.shape)}. Undo a one-hot code by argmax(-1)."
            )
    ranks, n_way = label_ranks(episodes.support_y)
    return episodes._replace(support_y=ranks, query_y=episodes.query_y.long()), n_way


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within it, and after it for each part the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
