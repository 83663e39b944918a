"""Learners trained as ordinary classifiers, which adapt by fitting a new head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._episodes import Episodes
from athena_meta._gradient_checks import checked_steps
from athena_meta._labels import ranked, support_tensor
from athena_meta._learner import FewShotLearner, Labels
from athena_meta._metric_learner import evaluating, ranked_episodes


class HeadFitting(NamedTuple):
    r"""How a head is fitted: gradient descent with momentum on the mean cross entropy of a whole support set.

    .. math:: v \leftarrow \mu v + \nabla L(w) + \lambda w, \qquad w \leftarrow w - \eta v

    Args:
        steps: how many.
        lr: :math:`\eta`.
        momentum: :math:`\mu`.
        weight_decay: :math:`\lambda`.

    Source: Chen et al. 2019, arXiv:1904.04232, section 3.2, with the rates of its code. Departs from it: the
    whole support set in the place of batches of 4, and so no random numbers; no dampening.

    >>> HeadFitting(steps=20).lr
    0.01
    """

    steps: int = 100
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.001


class TransferLearner(FewShotLearner):
    r"""Trains encoder and head on all base classes, then fits a new head on frozen features of a support set.

    Heads of all tasks are fitted at once, and without random numbers.

    Args:
        encoder: any module from inputs to features, whose axes after the first are flattened.
        features: how many those are.
        n_classes: base classes, those of the data set that is trained on.
        fitting: of the head of a task; None: `HeadFitting()`.

    A subclass gives :meth:`initial_head` and :meth:`head_outputs`.

    >>> from athena_meta import Episodes
    >>> class WithoutBias(TransferLearner):
    ...     def initial_head(self, features, ranks, n_way):
    ...         return features.new_zeros(len(features), n_way, self.features + 1)
    ...
    ...     def head_outputs(self, features, head):
    ...         return features @ head[..., :-1].mT
    >>> x, y = torch.eye(3)[None], torch.tensor([[0, 1, 2]])
    >>> WithoutBias(nn.Identity(), features=3, n_classes=9).predict(Episodes(x, y, x, y)).argmax(-1)
    tensor([[0, 1, 2]])
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        features: int,
        n_classes: int,
        fitting: HeadFitting | None = None,
    ) -> None:
        super().__init__()
        if features < 1 or n_classes < 1:
            raise ValueError(
                f"`features` and `n_classes` must be at least 1; got {features} and {n_classes}."
            )
        self.encoder, self.features, self.n_classes = encoder, features, n_classes
        self.fitting = HeadFitting() if fitting is None else fitting
        checked_steps("fitting.steps", self.fitting.steps)
        base = torch.empty(n_classes, features + 1)
        self.base_head = nn.Parameter(nn.init.uniform_(base, -(features**-0.5), features**-0.5))

    @classmethod
    def around(cls, network: nn.Module, *, outputs: int) -> Self:
        return cls(network, features=outputs, n_classes=outputs)

    @abstractmethod
    def initial_head(self, features: Tensor, ranks: Tensor, n_way: int) -> Tensor:
        """Heads ``(tasks, n_way, features + 1)`` before the first step; the last column: bias or scale."""

    @abstractmethod
    def head_outputs(self, features: Tensor, head: Tensor) -> Tensor:
        """Outputs of features ``(..., n, features)`` under heads ``(..., classes, features + 1)``."""

    def loss(self, episodes: Episodes) -> Tensor:
        """The mean cross entropy of support and query sets, as examples of the base classes.

        Raises ValueError as a `MetricLearner` does, and for episodes without ``classes``, which are the
        labels here, or with one that is no base class.
        """
        episodes, n_way = ranked_episodes(episodes)
        classes = self._checked_classes(episodes, n_way)
        x = torch.cat([episodes.support_x.flatten(0, 1), episodes.query_x.flatten(0, 1)])
        support_y, query_y = (classes.gather(1, y).flatten() for y in (episodes.support_y, episodes.query_y))
        outputs = self.head_outputs(self._encode(x), self.base_head)
        return F.cross_entropy(outputs, torch.cat([support_y, query_y]))

    def predict(self, episodes: Episodes) -> Tensor:
        """Outputs of the queries ``(tasks, n_query, n_way)``, after all steps."""
        *_, outputs = self._outputs_by_step(episodes, self.fitting.steps)
        return outputs

    def predict_by_step(self, episodes: Episodes, steps: int | None = None) -> Tensor:
        """Outputs before and after each step of fitting the head ``(steps + 1, tasks, n_query, n_way)``.

        Args:
            steps: more or fewer than the learner's own.
        """
        steps = self.fitting.steps if steps is None else checked_steps("steps", steps)
        return torch.stack([*self._outputs_by_step(episodes, steps)])

    def adapt(self, support_x: Tensor, support_y: Labels) -> nn.Module:
        """A classifier in evaluation mode, with an encoder of its own; ``classes`` are its columns."""
        ranks, classes = ranked(support_y)
        if len(ranks) != len(support_tensor(support_x)):
            raise ValueError(
                f"`support_y` must have one label an example; got {len(ranks)} for {len(support_x)} examples."
            )
        learner = deepcopy(self).eval()
        with torch.no_grad():
            features = learner._encode(support_x).unsqueeze(0)
        ranks = ranks.to(features.device).unsqueeze(0)
        *_, head = learner.heads(features, ranks, n_way=len(classes), steps=self.fitting.steps)
        learner.base_head = nn.Parameter(head.squeeze(0))
        return TransferClassifier(learner, classes)

    def heads(self, features: Tensor, ranks: Tensor, *, n_way: int, steps: int) -> Iterator[Tensor]:
        """Heads of the tasks before and after each step, ``(tasks, n_way, features + 1)``.

        Args:
            features: of support sets ``(tasks, n_support, features)``.
            ranks: their labels, ``(tasks, n_support)``.
            n_way: classes a task.
            steps: how many steps.
        """
        if steps < 0:
            raise ValueError(f"`steps` must be at least 0; got {steps}.")
        # Inference mode would refuse the gradients of a head.
        with torch.inference_mode(False), torch.no_grad():
            features, ranks = features.clone(), ranks.clone()
            head = self.initial_head(features, ranks, n_way)
        velocity = torch.zeros_like(head)
        yield head
        for _ in range(steps):
            with torch.inference_mode(False), torch.enable_grad():
                head = head.detach().requires_grad_()
                outputs = self.head_outputs(features, head)
                # A sum over the tasks of their means: the heads do not share gradients.
                loss = F.cross_entropy(outputs.flatten(0, 1), ranks.flatten()) * len(features)
                (gradient,) = torch.autograd.grad(loss, head)
            with torch.inference_mode(False), torch.no_grad():
                velocity = self.fitting.momentum * velocity + gradient + self.fitting.weight_decay * head
                head = head.detach() - self.fitting.lr * velocity
            yield head

    def _outputs_by_step(self, episodes: Episodes, steps: int) -> Iterator[Tensor]:
        episodes, n_way = ranked_episodes(episodes)
        with torch.no_grad(), evaluating(self):
            together = torch.cat([episodes.support_x, episodes.query_x], dim=1)
            features = self._encode(together.flatten(0, 1)).unflatten(0, together.shape[:2])
        support, query = features.split([episodes.support_x.shape[1], episodes.query_x.shape[1]], dim=1)
        for head in self.heads(support, episodes.support_y, n_way=n_way, steps=steps):
            with torch.no_grad():
                yield self.head_outputs(query, head)

    def _encode(self, x: Tensor) -> Tensor:
        features = self.encoder(x).flatten(1)
        if features.shape[1] != self.features:
            raise ValueError(
                f"`features` must be what the encoder gives, {features.shape[1]}; got {self.features}."
            )
        return features

    def _checked_classes(self, episodes: Episodes, n_way: int) -> Tensor:
        classes = episodes.classes
        name = type(self).__name__
        if classes is None:
            raise ValueError(
                f"`episodes.classes` must say which class each label stands for, to train {name}; got None. "
                "Draw them from a data set."
            )
        if classes.shape != (episodes.tasks, n_way):
            raise ValueError(
                f"`episodes.classes` must be (tasks, n_way), {(episodes.tasks, n_way)}; "
                f"got {tuple(classes.shape)}."
            )
        if int(classes.min()) < 0 or int(classes.max()) >= self.n_classes:
            raise ValueError(
                f"`episodes.classes` must lie in [0, {self.n_classes - 1}], the base classes; got "
                f"{int(classes.min())} to {int(classes.max())}. "
                "Train on the data set that `n_classes` was counted on."
            )
        return classes


class TransferClassifier(nn.Module):
    """One task as a module: inputs ``(n, ...)`` to outputs ``(n, n_way)``, in the order of ``classes``."""

    def __init__(self, learner: TransferLearner, classes: tuple[str, ...] | tuple[int, ...]) -> None:
        super().__init__()
        self.learner, self.classes = learner, classes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.learner.head_outputs(self.learner._encode(x), self.learner.base_head)
