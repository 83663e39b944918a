"""FiLM: one encoder whose features are scaled and shifted by what a task's embedding says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from athena_multitask._multi_task import MultiTask
from athena_multitask._task_rows import TaskRows


class FiLM(MultiTask):
    r"""Feature-wise linear modulation by an embedding of the task, after each stage of one encoder.

    .. math:: F^j_t \leftarrow \gamma^j(e_t) \odot F^j_t + \beta^j(e_t), \qquad
        (\gamma^j(e) - 1, \beta^j(e)) = W^j e + b^j

    for each channel (axis 1). :math:`W` and :math:`b` are zero at first, so that the encoder starts as it
    would alone. Embeddings and heads are the tasks' own; the encoder, :math:`W` and :math:`b` are shared.
    Each task runs the encoder from its second stage on.

    Args:
        stages: the encoder, in modules after each of which features are modulated.
        channels: channels of each stage's output (axis 1).
        heads: a module for each task, by name.
        embedding_dim: numbers that tell what a task is.

    Shape: input ``(B, ...)``, features ``(B, C, ...)``.

    Raises ValueError for no stage, ``channels`` of another length, an embedding without numbers; in use for
    features of other channels; else see `MultiTask`.

    Source: Perez et al. 2018, arXiv:1709.07871, equations 1 and 2. Departs from it: the condition is a
    learned vector a task, and the modulation starts at the identity.

    >>> import torch
    >>> model = FiLM(
    ...     [nn.Linear(4, 8), nn.Linear(8, 8)], channels=[8, 8], heads={"a": nn.Linear(8, 1)}, embedding_dim=3
    ... )
    >>> model(torch.ones(5, 4))["a"].shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        *,
        channels: Sequence[int],
        heads: Mapping[str, nn.Module] | nn.ModuleDict,
        embedding_dim: int = 16,
    ) -> None:
        super().__init__(heads)
        self.stages = nn.ModuleList(stages)
        if not self.stages or len(channels) != len(self.stages):
            raise ValueError(
                f"`channels` must be a number for each of {len(self.stages)} stages, of which one is needed; "
                f"got {list(channels)}. Give each stage's output channels."
            )
        if embedding_dim < 1:
            raise ValueError(f"`embedding_dim` must be at least 1; got {embedding_dim}. Take 16.")
        self.embeddings: Any = nn.ModuleDict({name: nn.Embedding(1, embedding_dim) for name in self.tasks})
        self.generators = nn.ModuleList(nn.Linear(embedding_dim, 2 * count) for count in channels)
        for generator in self.generators:
            for parameter in generator.parameters():
                nn.init.zeros_(parameter)

    def features(self, x: Tensor, tasks: Sequence[str], rows: TaskRows | None) -> dict[str, Tensor]:
        """The last stage as modulated for each task, of all rows, or of each task's."""
        first, *others = self.stages
        found = self.by_task(first(x), tasks, rows)
        for name in tasks:
            found[name] = self._modulated(found[name], name, 0)
            for place, stage in enumerate(others, 1):
                found[name] = self._modulated(stage(found[name]), name, place)
        return found

    def task_modules(self, name: str) -> list[nn.Module]:
        """The task's head and embedding."""
        return [self.heads[name], self.embeddings[name]]

    def _modulated(self, features: Tensor, name: str, place: int) -> Tensor:
        gamma, beta = self.generators[place](self.embeddings[name].weight[0]).chunk(2)
        return modulated(features, 1 + gamma, beta)


def modulated(features: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    r"""Features scaled and shifted by channel, :math:`\gamma_c F_c + \beta_c`.

    Shape: features ``(B, C, ...)``, gamma and beta ``(C,)``.

    Raises ValueError for another number of channels.

    Source: Perez et al. 2018, arXiv:1709.07871, equation 2. Departs from it: no.

    >>> import torch
    >>> modulated(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 0.0]), torch.tensor([0.0, 5.0]))
    tensor([[3., 5.]])
    """
    if features.ndim < 2 or features.shape[1] != len(gamma):
        raise ValueError(
            f"`channels` must be those of the stages, on axis 1; got {len(gamma)} for a stage that gives "
            f"{tuple(features.shape)}. Give its second number."
        )
    shape = (-1, *[1] * (features.ndim - 2))
    gamma, beta = gamma.to(features.dtype).view(shape), beta.to(features.dtype).view(shape)
    return gamma * features + beta
