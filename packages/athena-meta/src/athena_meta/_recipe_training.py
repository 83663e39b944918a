"""What the recipes share: making a learner of the options, and the mean of the losses since the last log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from athena_core import AthenaError, Configured, load
from athena_meta._gradient_learner import GradientLearner
from athena_meta._learner import FewShotLearner


def adapts_by_gradient(learner: Configured) -> bool:
    """Whether the chosen learner is a `GradientLearner`."""
    target = load(learner.kind, learner.name)
    return isinstance(target, type) and issubclass(target, GradientLearner)


def build_learner(learner: Configured, network: nn.Module, given: Mapping[str, Any]) -> FewShotLearner:
    """The chosen learner around a network, from its options and what the recipe gives.

    A mode "auto" is "vmap" here: by measurement a resumed run might go another way, and give other bits.
    """
    options = {**learner.options, **given}
    if adapts_by_gradient(learner) and options.get("mode", "auto") == "auto":
        options["mode"] = "vmap"
    return replace(learner, options=options).create(network)


def check_at_least(least: int, **values: float) -> None:
    """Raises AthenaError for a value below ``least``, naming it."""
    for name, value in values.items():
        if value < least:
            raise AthenaError(f"`{name}` must be at least {least}; got {value}.")


class MeanLoss:
    """The mean of the losses since it was last asked for; its state is that of a run that logs seldom.

    >>> mean = MeanLoss()
    >>> for loss in (1.0, 3.0):
    ...     mean.add(torch.tensor(loss))
    >>> mean.take()
    tensor(2.)
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Note the loss of a step."""
        self.losses.append(loss.detach())

    def take(self) -> Tensor:
        """The mean, and begin anew."""
        mean = torch.stack(self.losses).mean()
        self.losses = []
        return mean

    def state_dict(self) -> dict[str, Tensor]:
        """The losses that are not yet in a mean."""
        return {"losses": torch.stack(self.losses) if self.losses else torch.zeros(0)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.losses = list(state["losses"])
