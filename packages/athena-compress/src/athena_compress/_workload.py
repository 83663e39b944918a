"""What the recipe `compress` needs of the recipe whose model it makes smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from athena_core import AthenaError, Configured, saved_run

Batch = tuple[Tensor, ...]


class Data(Protocol):
    """Training data whose place is part of a run's state."""

    def draw(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@runtime_checkable
class Workload(Protocol):
    """A recipe whose model can be compressed: it says how that is built, trained and judged.

    A batch is the model's input and its targets; ``loss`` is the mean over a batch, and ``evaluate`` returns
    the score on what is held out, first. One whose optimizers may evaluate other weights than they train has
    ``load_trained(model, state)``, which loads what a run of it evaluated from the state of its parts.
    """

    def build(self) -> nn.Module: ...
    def training_data(self, seed: int) -> Data: ...
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...
    def evaluate(self, model: nn.Module) -> dict[str, float]: ...


class Start(NamedTuple):
    """Where compressing begins: a workload, its model, and whether that is trained."""

    workload: Workload
    model: nn.Module
    trained: bool


def begin(task: Configured, folder: Path | None, device: torch.device) -> Start:
    """The workload and model, on its device, of a saved run, or of a recipe by name, yet to be trained.

    Raises AthenaError for a run that has no part ``model``, and for a recipe that is no `Workload`.
    """
    saved = None if folder is None else saved_run(folder)
    if saved is None:
        workload = task.create()
        name = f"`task`: recipe {task.name}"
    else:
        workload, name = saved.recipe, f"`model`: the recipe of {folder}"
    if not isinstance(workload, Workload):
        raise AthenaError(
            f"{name} must have `build`, `training_data`, `loss` and `evaluate`; it lacks one. The recipes "
            "`digits` and `lm` have them."
        )
    model = workload.build()
    if saved is None:
        return Start(workload, model.to(device), trained=False)
    state = saved.state.get("model")
    if state is None:
        parts = ", ".join(sorted(saved.state))
        raise AthenaError(f"`model`: the checkpoint of {folder} must have a part `model`; it has {parts}.")
    load_trained = getattr(workload, "load_trained", None)
    try:
        if load_trained is None:
            model.load_state_dict(state)
        else:
            load_trained(model, saved.state)
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise AthenaError(f"`model`: {folder} does not fit its recipe: {why}") from error
    return Start(workload, model.to(device), trained=True)


def autocast_dtype(workload: Workload) -> torch.dtype:
    """What products are computed in while training: the workload's ``torch_dtype``, or float32."""
    return getattr(workload, "torch_dtype", torch.float32)
