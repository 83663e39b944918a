"""What the recipe `progressive` compares: learners of one task after another, each with a head a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_multitask._ewc import EWC
from athena_multitask._fine_tuning import fine_tuning
from athena_multitask._frozen_features import FrozenFeatures
from athena_multitask._multi_task_model import MultiTaskModel
from athena_multitask._progressive_network import ProgressiveNetwork
from athena_multitask._recipe_progressive_tasks import CLASSES, PIXELS


class Learner(ABC):
    """One model, and an optimizer that is new in each task.

    Args:
        tasks: their names.
        width: of the two hidden layers.
        lr: of Adam.
        device: of the model.
    """

    def __init__(self, tasks: Sequence[str], *, width: int, lr: float, device: torch.device) -> None:
        self.tasks, self.lr, self.device = tuple(tasks), lr, device
        self.task = -1
        self.model = self.first_model(width).to(device)

    @abstractmethod
    def first_model(self, width: int) -> nn.Module:
        """That of the first task."""

    @abstractmethod
    def predict(self, x: Tensor, task: int) -> Tensor:
        """Logits, ``(B, classes)``."""

    def next_model(self) -> nn.Module:
        """That of a later task."""
        return self.model

    def parameters_to_train(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def penalty(self) -> Tensor | float:
        return 0.0

    def begin(self, task: int) -> None:
        if task:
            self.model = self.next_model()
        self._start(task)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a batch; returns the loss without its penalty."""
        self.model.train()
        loss = F.cross_entropy(self.predict(x, self.task), y)
        self.optimizer.zero_grad()
        (loss + self.penalty()).backward()
        self.optimizer.step()
        return loss.detach()

    def end(self, x: Tensor) -> None:  # noqa: B027  most have nothing to do
        """After the last step of a task, with all its images."""

    def accuracy(self, x: Tensor, y: Tensor, task: int) -> float:
        self.model.eval()
        with torch.no_grad():
            return int((self.predict(x, task).argmax(1) == y).sum()) / len(y)

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        return {"task": self.task, "model": self.model.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["task"]:
            self.model = self.next_model()
        self.model.load_state_dict(state["model"])
        self._start(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _start(self, task: int) -> None:
        self.task = task
        self.optimizer = torch.optim.Adam(self.parameters_to_train(), lr=self.lr)


class Progressive(Learner):
    """A column a task."""

    model: ProgressiveNetwork

    def first_model(self, width: int) -> nn.Module:
        return ProgressiveNetwork(nn.Sequential(body(width), nn.Linear(width, CLASSES)), lateral="adapter")

    def begin(self, task: int) -> None:
        if task:
            self.model.add_column()
            self.model.freeze_old()
        self._start(task)

    def parameters_to_train(self) -> list[nn.Parameter]:
        return self.model.parameters_to_train()

    def predict(self, x: Tensor, task: int) -> Tensor:
        return self.model(x, task)


class FineTuning(Learner):
    """One body that goes on changing."""

    def first_model(self, width: int) -> nn.Module:
        return MultiTaskModel(body(width), {name: nn.Linear(width, CLASSES) for name in self.tasks})

    def next_model(self) -> nn.Module:
        return fine_tuning(self.model)

    def predict(self, x: Tensor, task: int) -> Tensor:
        name = self.tasks[task]
        return self.model(x, tasks=[name])[name]


class Frozen(FineTuning):
    """The body of the first task."""

    def next_model(self) -> nn.Module:
        if isinstance(self.model, FrozenFeatures):
            return self.model
        return FrozenFeatures(self.model, trained=["heads"])

    def parameters_to_train(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


class Consolidated(FineTuning):
    """One body, held where earlier tasks need it."""

    def __init__(self, tasks: Sequence[str], *, strength: float, **options: Any) -> None:
        super().__init__(tasks, **options)
        self.view = OneTask(self.model)
        self.ewc = EWC(self.view, strength=strength)

    def next_model(self) -> nn.Module:
        return self.model

    def penalty(self) -> Tensor:
        return self.ewc.penalty()

    def end(self, x: Tensor) -> None:
        self.view.task = self.tasks[self.task]
        self.ewc.consolidate(x, chunk=100)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"ewc": self.ewc.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.ewc.load_state_dict(state["ewc"])


class Alone(FineTuning):
    """A network a task, which knows nothing of the others: what can be learned without transfer."""

    def first_model(self, width: int) -> nn.Module:
        return nn.ModuleList(nn.Sequential(body(width), nn.Linear(width, CLASSES)) for _ in self.tasks)

    def next_model(self) -> nn.Module:
        return self.model

    def predict(self, x: Tensor, task: int) -> Tensor:
        return self.model[task](x)  # pyright: ignore[reportIndexIssue]


class OneTask(nn.Module):
    """A multi-task model's predictions of one task."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.task = ""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, tasks=[self.task])[self.task]


def body(width: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(PIXELS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def learners(
    tasks: Sequence[str], *, width: int, lr: float, ewc_strength: float, device: torch.device
) -> dict[str, Learner]:
    """All of them, by name."""
    options: dict[str, Any] = {"width": width, "lr": lr, "device": device}
    return {
        "progressive": Progressive(tasks, **options),
        "fine-tuning": FineTuning(tasks, **options),
        "EWC": Consolidated(tasks, strength=ewc_strength, **options),
        "frozen features": Frozen(tasks, **options),
        "alone": Alone(tasks, **options),
    }
