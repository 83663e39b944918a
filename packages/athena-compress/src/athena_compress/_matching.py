"""Pairs of modules, a teacher's and a student's, whose outputs are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from torch import Tensor, nn

from athena_compress._capture import taken
from athena_compress._feature_loss import FunctionLoss, positions_shape
from athena_compress._projection import make_projection, needs_projection
from athena_core import create

FeatureLossLike = str | Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Matching(nn.Module):
    """The feature loss, and where it is needed the projection, of each pair of modules.

    Pairs are named after the teacher's module; ``pairs`` has the student's to each.
    """

    def __init__(
        self,
        pairs: Mapping[str, str],
        losses: FeatureLossLike | Mapping[str, FeatureLossLike],
        projections: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.pairs = dict(pairs)
        chosen = per_pair("feature_loss", losses, self.pairs)
        self.losses = nn.ModuleDict({_key(name): _built(loss) for name, loss in chosen.items()})
        unknown = [name for name in projections if name not in self.pairs]
        if unknown:
            raise ValueError(
                "`projections` must have names of the teacher's modules in `features`, "
                f"{list(self.pairs)}; got {unknown}. Leave these out, or match them."
            )
        self.projections = nn.ModuleDict({_key(name): module for name, module in projections.items()})

    def named_projections(self) -> dict[str, nn.Module]:
        """The projections by the names of the teacher's modules."""
        return {name: self.projections[_key(name)] for name in self.pairs if _key(name) in self.projections}

    def make_projections(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Make the projections that these features need and that are not there yet."""
        for name, own in self.pairs.items():
            features = taken(student, own, "student"), taken(teacher, name, "teacher")
            key = _key(name)
            if key not in self.projections and needs_projection(self.losses[key], *features):
                self.projections[key] = make_projection(*features)

    def forward(self, name: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of the pair of this name."""
        key = _key(name)
        if key in self.projections:
            student = self.projections[key](student)
        elif needs_projection(self.losses[key], student, teacher):
            raise ValueError(
                f"`features`: {name!r} of the teacher and {self.pairs[name]!r} of the student must have the "
                f"same width or a projection; got {tuple(teacher.shape)} and {tuple(student.shape)}. Pass "
                "`example_inputs` to the Distiller, which makes projections before an optimizer is made."
            )
        return self.losses[key](student, teacher, mask)


def per_pair(parameter: str, value: Any, pairs: Mapping[str, str]) -> dict[str, Any]:
    """One value for each pair, from one for all or from a mapping that names each."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(pairs, value)
    if value.keys() != pairs.keys():
        raise ValueError(
            f"`{parameter}` must be one value for all, or a mapping from the names of the teacher's modules, "
            f"{list(pairs)}; got one from {list(value)}. Name each."
        )
    return dict(value)


def check_weight(parameter: str, weight: float) -> None:
    """Raises ValueError for a weight of a loss that is negative or not finite."""
    if not 0 <= weight < inf:
        raise ValueError(f"`{parameter}` must be 0 or more, and finite; got {weight}. 0 leaves the loss out.")


def feature_mask(kept: Tensor | None, feature: Tensor, *, explicit: bool) -> Tensor | None:
    """The mask of a feature's positions, from that of the logits'."""
    if kept is None:
        return None
    positions = positions_shape(feature)
    if kept.shape == positions:
        return kept
    if kept.dim() == 1 and kept.shape[:1] == positions[:1]:
        return kept.view(-1, *[1] * (len(positions) - 1)).expand(positions)
    if not explicit:  # labels alone: those of pixels say nothing of a smaller map's places
        return None
    raise ValueError(
        f"`mask` must have the positions of the features that are matched, {tuple(positions)}, or one value "
        f"an example; got {tuple(kept.shape)}. Match features of that size, or mask by `ignore_index` alone."
    )


def _built(loss: FeatureLossLike) -> nn.Module:
    if isinstance(loss, str):
        return create("feature-loss", loss)
    return loss if isinstance(loss, nn.Module) else FunctionLoss(loss)


def _key(name: str) -> str:
    # A ModuleDict takes no dots, and no names of its own methods, such as `values`.
    return f"teacher/{name.replace('.', '/')}"
