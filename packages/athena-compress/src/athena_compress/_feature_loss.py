"""What feature losses have in common: their class, and features as positions of vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn


class FeatureLoss(nn.Module, ABC):
    """How far a student's feature is from a teacher's, at one pair of layers.

    Subclasses define ``forward(student_feature, teacher_feature, mask=None)``, which returns a scalar in
    float32 (float64 if the features are), and has a gradient for the student's feature alone.

    Features are vectors ``(batch, width)``, sequences ``(batch, time, width)`` or images
    ``(batch, width, height, width, ...)``, of one batch. The mask has the positions' shape, ``(batch,)``,
    ``(batch, time)`` or ``(batch, height, width)``: True, or not 0, where a position counts. What it excludes
    has no weight and gradient 0, whatever it holds. If nothing counts, the loss is 0, connected to the graph.

    ``needs_projection`` says whether both widths must be equal, so that a student of another width needs a
    learned map to the teacher's.

    >>> class Difference(FeatureLoss):
    ...     needs_projection = True
    ...
    ...     def forward(self, student_feature, teacher_feature, mask=None):
    ...         return (student_feature - teacher_feature.detach()).abs().mean()
    >>> Difference()(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(1.)
    """

    needs_projection: ClassVar[bool]

    @abstractmethod
    def forward(
        self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None
    ) -> Tensor: ...


class FunctionLoss(FeatureLoss):
    """A function of student's feature, teacher's feature and mask as a feature loss, without a projection."""

    needs_projection = False

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.function(student_feature, teacher_feature, mask)


def width_axis(feature: Tensor) -> int:
    """The axis of a feature's width: the last of vectors and sequences, 1 of images."""
    if feature.dim() < 2:
        raise ValueError(
            "a feature must have the shape (batch, width), (batch, time, width) or (batch, width, height, "
            f"width); got {tuple(feature.shape)}. Match the output of another module."
        )
    return 1 if feature.dim() > 3 else -1


def positions_shape(feature: Tensor) -> torch.Size:
    """The shape of a feature without its width."""
    axis = width_axis(feature) % feature.dim()
    return feature.shape[:axis] + feature.shape[axis + 1 :]


def as_vectors(
    student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None, *, same_width: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Both as ``(batch, positions, width)``, 0 where the mask excludes a position, and the mask.

    In at least float32; the teacher's is detached. Raises ValueError for shapes that do not fit.
    """
    positions = positions_shape(student_feature)
    if positions != positions_shape(teacher_feature):
        raise ValueError(
            "features must have the same positions, all but the width; got the student's "
            f"{tuple(student_feature.shape)} and the teacher's {tuple(teacher_feature.shape)}. "
            "Match another pair of modules, or pass a projection that resizes the student's."
        )
    student, teacher = vectors(student_feature), vectors(teacher_feature.detach())
    if same_width and student.shape != teacher.shape:
        raise ValueError(
            f"features must have the same width; got {student.shape[-1]} of the student and "
            f"{teacher.shape[-1]} of the teacher. Use a projection, or a loss that needs none, such as 'cka'."
        )
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    kept = _kept(mask, positions, student)
    excluded = ~kept[:, :, None]
    return student.to(dtype).masked_fill(excluded, 0), teacher.to(dtype).masked_fill(excluded, 0), kept


def _kept(mask: Tensor | None, positions: torch.Size, student: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    if mask.shape != positions or mask.is_floating_point():
        raise ValueError(
            f"`mask` must be booleans or integers of the feature's positions, {tuple(positions)}; got "
            f"{mask.dtype} of {tuple(mask.shape)}. Resize it to the feature's."
        )
    return mask.to(device=student.device, dtype=torch.bool).reshape(student.shape[:2])


def vectors(feature: Tensor) -> Tensor:
    """A feature as ``(batch, positions, width)``, in at least float32."""
    if width_axis(feature) == 1:
        feature = feature.flatten(2).transpose(1, 2)
    elif feature.dim() == 2:
        feature = feature[:, None]
    return feature.to(torch.promote_types(feature.dtype, torch.float32))


def mean_over(losses: Tensor, kept: Tensor) -> Tensor:
    """Mean of the losses that are kept; 0, connected, if none is."""
    return losses.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)


def safe_norm(vectors: Tensor) -> Tensor:
    """Lengths along the last axis, kept as an axis of 1, with gradient 0 at vectors of zeros."""
    squares = vectors.square().sum(-1, keepdim=True)
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def safe_normalize(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; those of zeros stay zeros, with gradient 0."""
    norm = safe_norm(vectors)
    return (vectors / norm.masked_fill(norm == 0, 1)).masked_fill(norm == 0, 0)
