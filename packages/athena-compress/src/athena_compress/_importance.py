"""Importances: how much each weight matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

Scope = Literal["global", "local", "row"]


class Importance(ABC):
    """How much each element of a parameter matters; the least important are pruned first.

    A `Pruner` shows it what it needs and asks it for scores. The score of a structural unit, a channel,
    neuron, head or layer, is the sum of the scores of its elements. A subclass implements `scores`, and
    `observe` or `observe_inputs` if it says that it needs what they bring. What it gathers stands in
    ``gathered`` by the parameter's name, as tensors that broadcast to the parameter: they go into the
    state dict, and are cut when structural pruning cuts the parameter.

    Attributes:
        needs_gradients: whether `observe` must see the gradients of each step.
        needs_inputs: whether `observe_inputs` must see what a layer is given (``pruner.calibrate(...)``).
        counts_vectors: whether biases and scales of normalisations count for a unit beside its weights.
        scope: what its scores may be compared over unless the user says otherwise: ``"global"``, all
            parameters; ``"local"``, one parameter; ``"row"``, the weights of one output.

    Source: Athena's own. Departs from it: no.

    >>> class Signed(Importance):
    ...     def scores(self, name, parameter):
    ...         return parameter.detach().float()
    >>> Signed().scores("weight", torch.nn.Parameter(torch.tensor([1.0, -2.0])))
    tensor([ 1., -2.])
    """

    needs_gradients: bool = False
    needs_inputs: bool = False
    counts_vectors: bool = False
    scope: Scope = "global"

    def __init__(self) -> None:
        self.gathered: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    @abstractmethod
    def scores(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Scores of the parameter's shape, in at least float32, higher where it matters more."""

    def observe(self, name: str, parameter: nn.Parameter, gradient: Tensor) -> None:  # noqa: B027
        """See the gradient at the present values of the parameter, before the optimizer changes them."""

    def observe_inputs(self, name: str, layer: nn.Module, inputs: Tensor) -> None:  # noqa: B027
        """See what the layer is given whose weight has this name."""

    def after_pruning(self) -> None:  # noqa: B027
        """Called each time that something was pruned."""

    def cut(self, name: str, dim: int, kept: Tensor, size: int) -> None:
        """Keep these indices of the axis ``dim`` of the parameter, which had ``size`` of them."""
        held = self.gathered.get(name)
        if held is not None and held.shape[dim] == size:
            self.gathered[name] = held.index_select(dim, kept.to(held.device))

    def gather(self, name: str, values: Tensor) -> None:
        """Add values of one more step to those gathered for a parameter."""
        held = self.gathered.get(name)
        values = values.detach()
        self.gathered[name] = values.clone() if held is None else held.to(values.device) + values
        self.counts[name] = self.counts.get(name, 0) + 1

    def seen(self, name: str, parameter: Tensor) -> Tensor:
        """What was gathered for a parameter. Raises RuntimeError if that is nothing."""
        held = self.gathered.get(name)
        if held is None:
            remedy = (
                "Run batches through the model with `pruner.calibrate(batches)`, or skip what is not called "
                "as a layer of its own."
                if self.needs_inputs
                else "Pass `optimizer` to the Pruner, or call `pruner.observe()` after each `backward()`; "
                "skip what gets no gradient."
            )
            raise RuntimeError(
                f"{type(self).__name__} must have seen data for `{name}`, and has seen none. {remedy}"
            )
        return held.to(parameter.device)

    def state_dict(self) -> dict[str, Any]:
        """What was gathered, as tensors and numbers."""
        return {"gathered": {n: t.clone() for n, t in self.gathered.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was gathered. Raises ValueError if ``state_dict`` is another thing's."""
        if missing := {"gathered", "counts"} - state_dict.keys():
            raise ValueError(
                f"`state_dict` must hold `gathered` and `counts`; {sorted(missing)} are missing. Pass what "
                "`state_dict()` of an importance returned."
            )
        self.gathered = {name: tensor.clone() for name, tensor in state_dict["gathered"].items()}
        self.counts = dict(state_dict["counts"])


def precise(tensor: Tensor) -> Tensor:
    """The detached tensor in at least float32."""
    tensor = tensor.detach()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def checked_scores(importance: Importance, name: str, parameter: nn.Parameter) -> Tensor:
    """The scores of a parameter.

    Raises ValueError if the parameter or a score is NaN or infinite, naming it, and TypeError if the
    importance returns another shape.
    """
    if not torch.isfinite(parameter.detach()).all():
        raise ValueError(
            f"`{name}` must be finite to be pruned; it holds NaN or infinity. Go back to a checkpoint before "
            "training diverged."
        )
    scores = importance.scores(name, parameter)
    if scores.shape != parameter.shape:
        raise TypeError(
            f"{type(importance).__name__}.scores must return the shape {tuple(parameter.shape)} of `{name}`; "
            f"got {tuple(scores.shape)}. One score an element is needed."
        )
    scores = precise(scores)
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{type(importance).__name__} must give finite scores; those of `{name}` hold NaN or infinity. "
            "Look for gradients or inputs that are not finite."
        )
    return scores
