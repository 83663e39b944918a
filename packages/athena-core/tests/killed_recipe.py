"""A recipe for killing: its metrics depend on every state that a run has to restore."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from athena_core import Recipe, Run

N_FEATURES = 32


class Batches:
    """Rows of a data set in an order drawn anew each epoch, from a generator of its own."""

    def __init__(self, n_rows: int, batch_size: int) -> None:
        self._generator = torch.Generator().manual_seed(1)
        self._n_rows, self._batch_size = n_rows, batch_size
        self._order, self._next = torch.empty(0, dtype=torch.long), 0

    def draw(self) -> torch.Tensor:
        if self._next + self._batch_size > len(self._order):
            self._order, self._next = torch.randperm(self._n_rows, generator=self._generator), 0
        self._next += self._batch_size
        return self._order[self._next - self._batch_size : self._next]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "order": self._order, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._order, self._next = state["order"], state["next"]


@dataclass(kw_only=True)
class Killed(Recipe):
    """Regression with dropout (torch's generator), noise (NumPy's) and skipped steps (Python's)."""

    steps: int = 600
    width: int = 640

    def run(self, run: Run) -> dict[str, float]:
        torch.set_num_threads(1)
        x = torch.randn(1000, N_FEATURES)
        y = x.square().mean(dim=1, keepdim=True)
        model = torch.nn.Sequential(
            torch.nn.Linear(N_FEATURES, self.width),
            torch.nn.Dropout(0.1),
            torch.nn.ReLU(),
            torch.nn.Linear(self.width, self.width),
            torch.nn.ReLU(),
            torch.nn.Linear(self.width, 1),
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        batches = Batches(len(x), 64)
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches}
        for step in run.steps(self.steps, **parts):
            rows = batches.draw()
            noise = torch.from_numpy(np.random.normal(0.0, 0.01, (len(rows), 1))).float()
            loss = F.mse_loss(model(x[rows]), y[rows] + noise)
            optimizer.zero_grad()
            loss.backward()
            if random.random() < 0.9:
                optimizer.step()
            schedule.step()
            run.log(step, loss=loss, lr=schedule.get_last_lr()[0])
        last = F.mse_loss(model(x), y)  # dropout still on: the generators' states show
        return {"loss": last.item(), "drawn": random.random() + float(np.random.rand())}
