"""The training that the recipes of this package have in common: AdamW, and a rate that falls to 0."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from athena_core import AthenaError, Run


class Training:
    """AdamW over some steps, its rate half a cosine down to 0; a part of a run's state."""

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, steps: int) -> None:
        self._model = model
        trained = [one for one in model.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
        self._lr, self._steps, self._done = lr, steps, 0

    def step(self, run: Run, step: int, loss: Tensor) -> None:
        """Backward, a look at whether all is finite, and a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * (1 + cos(pi * self._done / self._steps)) / 2
        self.optimizer.zero_grad()
        loss.backward()
        run.check_finite(step, self._model, loss)
        self.optimizer.step()
        self._done += 1

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"]


def check_at_least(least: float, **options: float) -> None:
    """Raise AthenaError for the first of these options that is below ``least``.

    >>> check_at_least(1, steps=3)
    """
    for name, value in options.items():
        if not value >= least:
            raise AthenaError(f"`{name}` must be at least {least}; got {value}.")
