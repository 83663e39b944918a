"""Training one small network for each setting of the recipe `optimizers`, and building what trains it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from athena_core import AthenaError, Configured, as_float64, components
from athena_optim._evaluation import evaluation_weights
from athena_optim._recipe_data import Part, Split

Options = Mapping[str, Mapping[str, Any]]  # by name of an optimizer or wrapper
_NAMES = re.compile(r"(?:[\w./-]+\()*[\w./-]+\)*")


class Setting(NamedTuple):
    """One training: which optimizer, the size of its batches, its learning rate, and the seed's number."""

    optimizer: str
    batch: int
    lr: float
    repeat: int


def names_in(text: str) -> list[str]:
    """The names in ``"wrapper(optimizer)"``, the outermost first.

    Raises AthenaError if the text has another form.

    >>> names_in("lookahead(sam(adamw))")
    ['lookahead', 'sam', 'adamw']
    """
    bare = text.replace(" ", "")
    if not _NAMES.fullmatch(bare) or bare.count("(") != bare.count(")"):
        raise AthenaError(
            f"`optimizers` must be names such as adamw or lookahead(adamw), every parenthesis closed; "
            f"got {text!r}."
        )
    return bare.rstrip(")").split("(")


def is_wrapper(name: str) -> bool:
    """Whether a wrapper has this name, which may be ``"distribution/name"``, and no optimizer."""
    return _offers("optimizer-wrapper", name) and not _offers("optimizer", name)


def _offers(kind: str, name: str) -> bool:
    return name.rpartition("/")[2] in {component.name for component in components(kind)}


def check_places(text: str) -> None:
    """Raise AthenaError for a wrapper with nothing inside it, or an optimizer that should wrap another.

    >>> check_places("lookahead(adamw)")
    """
    *wrappers, name = names_in(text)
    if is_wrapper(name):
        raise AthenaError(
            f"`optimizers`: `{name}` is a wrapper and must have an optimizer inside it; got {text!r}. "
            f"Write {name}(adamw)."
        )
    for wrapper in wrappers:
        if _offers("optimizer", wrapper) and not _offers("optimizer-wrapper", wrapper):
            raise AthenaError(
                f"`optimizers`: `{wrapper}` is an optimizer and must be innermost; got {text!r}. "
                f"Write lookahead({wrapper})."
            )


def created(part: Configured, *args: Any, **given: Any) -> Any:
    """What ``part`` makes of the arguments; AthenaError also for what it refuses with TypeError."""
    try:
        return part.create(*args, **given)
    except TypeError as error:
        raise AthenaError(f"{part.kind} `{part.name}`: {' '.join(str(error).split())}") from error


def build_optimizer(text: str, params: Any, *, lr: float, options: Options) -> Optimizer:
    """The optimizer that ``"wrapper(optimizer)"`` names, from the registry.

    Raises AthenaError for a name that nobody offers, with the nearest right one, and for refused options.

    >>> build_optimizer("adamw", [nn.Parameter(torch.ones(2))], lr=0.1, options={}).defaults["lr"]
    0.1
    """
    *wrappers, name = names_in(text)
    optimizer = created(Configured("optimizer", name, {"lr": lr, **options.get(name, {})}), params)
    for wrapper in reversed(wrappers):
        optimizer = created(Configured("optimizer-wrapper", wrapper, options.get(wrapper, {})), optimizer)
    return optimizer


def network(n_features: int, classes: int, *, width: int, seed: int) -> nn.Sequential:
    """Two hidden layers of rectified units, weights as in He et al. 2015, biases 0.

    >>> [tuple(p.shape) for p in network(4, 3, width=8, seed=0).parameters()]
    [(8, 4), (8,), (8, 8), (8,), (3, 8), (3,)]
    """
    first, second, last = nn.Linear(n_features, width), nn.Linear(width, width), nn.Linear(width, classes)
    generator = torch.Generator().manual_seed(seed)
    for layer in (first, second, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


class Order:
    """An endless order of ``count`` examples, a new permutation each epoch; a pure function of the place.

    >>> order = Order(4, seed=0)
    >>> sorted(order.take(0, 4).tolist()), len(order.take(3, 4))
    ([0, 1, 2, 3], 4)
    """

    def __init__(self, count: int, *, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epochs: dict[int, Tensor] = {}

    def take(self, start: int, size: int) -> Tensor:
        """The examples at places ``start`` to ``start + size``, of at most one epoch."""
        epoch, first = divmod(start, self.count)
        end = first + size
        if end <= self.count:
            return self._epoch(epoch)[first:end]
        return torch.cat((self._epoch(epoch)[first:], self._epoch(epoch + 1)[: end - self.count]))

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {old: order for old, order in self._epochs.items() if old == epoch - 1}
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
            self._epochs[epoch] = torch.randperm(self.count, generator=generator)
        return self._epochs[epoch]


def mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Training:
    """One network, its optimizer and schedule in one setting, trained in rounds."""

    def __init__(
        self,
        setting: Setting,
        split: Split,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        order: Order,
        steps: int,
        rounds: int,
    ) -> None:
        self.setting = setting
        self.split = split
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.order = order
        self.steps = steps
        self.rounds = rounds

    def round(self, number: int) -> dict[str, float]:
        """Train for round ``number``, from 0, and return the losses and accuracies after it."""
        first, end = (self.steps * n // self.rounds for n in (number, number + 1))
        total = torch.zeros((), device=self.split.train.labels.device)
        for step in range(first, end):
            total += self._step(step)
        with torch.no_grad(), evaluation_weights(self.optimizer):
            loss, accuracy = self._measure(self.split.validation)
            row = {
                "loss": total.item() / (end - first),
                "validation_loss": loss,
                "validation_accuracy": accuracy,
            }
            if number == self.rounds - 1:
                row["test_accuracy"] = self._measure(self.split.test)[1]
        return {name: value for name, value in row.items() if isfinite(value)}  # a log has no NaN

    def _step(self, step: int) -> Tensor:
        rows = self.order.take(step * self.setting.batch, self.setting.batch)
        features, labels = (part[rows.to(part.device)] for part in self.split.train)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(features), labels)
            loss.backward()
            return loss

        loss = self.optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
        self.schedule.step()
        return loss.detach()  # pyright: ignore[reportAttributeAccessIssue]

    def _measure(self, part: Part) -> tuple[float, float]:
        logits = self.model(part.features)
        right = as_float64(logits.argmax(dim=-1) == part.labels).mean()
        return F.cross_entropy(logits, part.labels).item(), right.item()


class Search:
    """All settings in turn, each in so many rounds: what `athena_core.Run.steps` counts and saves.

    Args:
        settings: in the order of training.
        begin: makes the training of a setting, at its start.
        rounds: of each training.
    """

    def __init__(
        self, settings: Sequence[Setting], *, begin: Callable[[Setting], Training], rounds: int
    ) -> None:
        self.settings = settings
        self.begin = begin
        self.rounds = rounds
        self.training: Training | None = None

    def advance(self, step: int) -> tuple[Setting, dict[str, float]]:
        """Do step number ``step``, from 1: one round of one training."""
        index, number = divmod(step - 1, self.rounds)
        setting = self.settings[index]
        if number == 0 or self.training is None:
            self.training = self.begin(setting)
        return setting, self.training.round(number)

    def state_dict(self) -> dict[str, Any]:
        """The training at hand; those before it are in the log alone."""
        if self.training is None:
            return {}
        parts = {name: getattr(self.training, name).state_dict() for name in _PARTS}
        return {"index": self.settings.index(self.training.setting), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the training that `state_dict` saved."""
        self.training = self.begin(self.settings[state["index"]])
        for name in _PARTS:
            getattr(self.training, name).load_state_dict(state[name])


_PARTS = ("model", "optimizer", "schedule")
