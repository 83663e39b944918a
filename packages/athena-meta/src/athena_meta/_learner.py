"""A few-shot learner: what every method of this package is to the code around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from athena_meta._episodes import Episodes

Labels = Tensor | Sequence[str] | Sequence[int]


class FewShotLearner(nn.Module, ABC):
    r"""Learns from many tasks to learn a new one from few examples.

    :meth:`loss` is what an optimizer steps on: its gradient is the meta-gradient, of the mean over tasks.
    :meth:`adapt` is the result: a plain module for one task. :meth:`predict` does the same for a whole batch
    of tasks at once. Calling the learner is calling :meth:`loss`, so that ``DistributedDataParallel`` can
    wrap it.

    Predictions never change the learner: neither its parameters nor its buffers.

    >>> import torch
    >>> class MostFrequent(FewShotLearner):
    ...     def loss(self, episodes):
    ...         return torch.zeros(())
    ...
    ...     def adapt(self, support_x, support_y):
    ...         return nn.Identity()
    ...
    ...     def predict(self, episodes):
    ...         counts = nn.functional.one_hot(episodes.dense().support_y).sum(1, keepdim=True).float()
    ...         return counts.expand(-1, episodes.query_x.shape[1], -1)
    >>> x, y = torch.zeros(1, 3, 4), torch.tensor([[7, 7, 2]])
    >>> MostFrequent().predict_by_step(Episodes(x, y, x, y))[0, 0, 0]
    tensor([1., 2.])
    """

    @classmethod
    def around(cls, network: nn.Module, *, outputs: int) -> Self:  # noqa: ARG003
        """One around a network that gives vectors of so many outputs, with defaults for all else."""
        return cls(network)  # type: ignore[call-arg]

    @abstractmethod
    def loss(self, episodes: Episodes) -> Tensor:
        """The scalar to minimise, a mean over the tasks."""

    @abstractmethod
    def adapt(self, support_x: Tensor, support_y: Labels) -> nn.Module:
        """A module that has learned one task; ``support_x (n_support, ...)`` has no axis of tasks.

        Its columns follow the sorted labels, which its ``classes`` lists, where labels are of classes.
        """

    @abstractmethod
    def predict(self, episodes: Episodes) -> Tensor:
        """Outputs on the query sets ``(tasks, n_query, outputs)``, after adaptation to the support sets."""

    def predict_by_step(self, episodes: Episodes, steps: int | None = None) -> Tensor:
        """Outputs before and after each step of adaptation ``(steps + 1, tasks, n_query, outputs)``.

        Those of a learner that adapts in no steps are :meth:`predict` alone ``(1, tasks, n_query, outputs)``.
        """
        if steps:
            raise ValueError(
                f"`steps` must be None or 0 for {type(self).__name__}, which adapts in no steps; got {steps}."
            )
        return self.predict(episodes).unsqueeze(0)

    def forward(self, episodes: Episodes) -> Tensor:
        """:meth:`loss`."""
        return self.loss(episodes)
