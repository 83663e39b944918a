"""Parts of the recipe `few-shot`: the learner of its options, the best one so far, and nearest pixels."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from athena_core import AthenaError, Configured, load
from athena_meta._conv4 import Conv4
from athena_meta._distances import cosine
from athena_meta._learner import FewShotLearner
from athena_meta._metric_learner import MetricLearner
from athena_meta._recipe_training import adapts_by_gradient, build_learner
from athena_meta._relation_network import RelationModule, RelationNetwork
from athena_meta._transfer_learner import TransferLearner


def few_shot_learner(
    learner: Configured, *, shape: Sequence[int], width: int, n_way: int, n_classes: int
) -> FewShotLearner:
    """The chosen learner around a Conv-4 that fits it.

    Args:
        shape: of an image, ``(channels, size, size)``.
        width: of the Conv-4.
        n_way: outputs of one that adapts by gradient steps.
        n_classes: to train on, for one that is trained as an ordinary classifier.
    """
    if len(shape) != 3 or shape[1] != shape[2]:
        raise AthenaError(f"`data` must be square images (channels, size, size); got {tuple(shape)}.")
    channels, size, _ = shape
    if adapts_by_gradient(learner):
        # Queries by the support set's statistics unless told otherwise: each is predicted by itself.
        given = {} if learner.options.get("transductive") is not None else {"transductive": False}
        return build_learner(learner, Conv4(channels, width=width, size=size, outputs=n_way), given)
    if _is(learner, RelationNetwork):
        encoder = Conv4(channels, width=width, size=size, pools=2).blocks
        return build_learner(learner, encoder, {"relation": RelationModule(width, size=size // 4)})
    encoder = Conv4(channels, width=width, size=size)
    given = {"features": encoder.features, "n_classes": n_classes} if _is(learner, TransferLearner) else {}
    return build_learner(learner, encoder, given)


def adapts_in_steps(learner: Configured) -> bool:
    """Whether the number of its steps of adaptation can be chosen."""
    return adapts_by_gradient(learner) or _is(learner, TransferLearner)


def _is(learner: Configured, kind: type) -> bool:
    target = load(learner.kind, learner.name)
    return isinstance(target, type) and issubclass(target, kind)


class Best:
    """The state of the learner that did best on the validation episodes, as a part of a run."""

    def __init__(self, learner: FewShotLearner, *, shape: Sequence[int], classes: int) -> None:
        self.learner, self.shape, self.classes = learner, tuple(shape), classes
        self.accuracy, self.step = -1.0, 0
        self.state: dict[str, Any] = {}

    def offer(self, accuracy: float, step: int) -> None:
        """Keep the learner as it is now, if it is better than what is kept."""
        if accuracy > self.accuracy:
            self.accuracy, self.step = accuracy, step
            self.state = deepcopy(self.learner.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The best learner's state dict, its accuracy and step, and what it takes to build it anew."""
        built = {"shape": list(self.shape), "classes": self.classes}
        return {"accuracy": self.accuracy, "step": self.step, "learner": self.state, **built}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.accuracy, self.step, self.state = state["accuracy"], state["step"], state["learner"]


class NearestPixels(MetricLearner):
    r"""The class of the support image with the largest cosine of the pixels; nothing is learned.

    Source: the baseline "Pixels" of Vinyals et al. 2016, arXiv:1606.04080, table 1. Departs from it: no.

    >>> from athena_meta import Episodes
    >>> x, y = torch.eye(3)[None], torch.tensor([[0, 1, 1]])
    >>> NearestPixels().predict(Episodes(x, y, x, y)).argmax(-1).tolist()
    [[0, 1, 1]]
    """

    def __init__(self) -> None:
        super().__init__(nn.Flatten())

    def summary(self, support: Tensor, ranks: Tensor, n_way: int) -> tuple[Tensor, ...]:
        """The pixels ``(tasks, n_support, pixels)``, and which are of each class."""
        return support, nn.functional.one_hot(ranks, n_way).bool()

    def scores(self, query: Tensor, *summary: Tensor) -> Tensor:
        support, members = summary
        similar = cosine(query, support).unsqueeze(-1)
        return similar.masked_fill(~members.unsqueeze(1), -torch.inf).amax(2)
