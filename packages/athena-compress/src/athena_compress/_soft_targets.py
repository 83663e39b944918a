"""Soft targets: a student learns the teacher's probabilities, softened by a temperature."""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    class_axis: int = -1,
) -> Tensor:
    r"""Divergence of the student's softened probabilities from the teacher's, times T squared.

    .. math::
        L = T^2 \sum_c p_c \, (\log p_c - \log q_c), \qquad
        p = \operatorname{softmax}(z^{\text{teacher}} / T), \quad
        q = \operatorname{softmax}(z^{\text{student}} / T)

    :math:`T^2` keeps the gradient's size as T changes: as T grows, L tends to :math:`\tfrac{1}{2C}` times the
    squared distance of the two rows of logits, each less its mean.

    Args:
        student_logits: the student's; the gradient goes to these alone.
        teacher_logits: the teacher's, of the same shape.
        temperature: T, above 0.
        mask: True, or not 0, where a position counts; the logits' shape without the class axis. What it
            excludes has no weight and gradient 0, whatever it holds, NaN included.
        reduction: ``"mean"`` over the positions that count, so that a loss of sequences does not grow with
            their length; their ``"sum"``; or ``"none"``, one value a position, 0 where it is excluded.
        class_axis: the axis of the classes: the last, or 1 for images ``(batch, classes, height, width)``.

    Shape: ``(..., classes)``, twice, to a scalar; ``reduction="none"``: to ``(...)``. Computed and returned
    in float32, or float64 if the logits are. If nothing counts, it is 0 and connected to the graph, so that
    ``backward()`` works and gives zeros. A class without probability to the teacher (a logit of -inf) adds 0.

    Raises ValueError for shapes that differ, a mask of another shape, a temperature not above 0, and an
    unknown reduction; TypeError for a mask of floats, which would be weights.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2 and equation 4. Departs from it: the
    divergence in place of the cross-entropy, from which it differs by the teacher's entropy, so that it is 0
    where both agree; the gradient is the same.

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> soft_target_loss(student, teacher, temperature=1.0)
    tensor(0.3278)
    >>> soft_target_loss(student, teacher, temperature=100.0)  # nearly 1/4 of |(1, -1)|^2
    tensor(0.5005)
    """
    _check(student_logits, teacher_logits, temperature, reduction)
    student, teacher = student_logits, teacher_logits.detach()
    if mask is not None:
        mask = checked_mask(mask, student, class_axis)
        excluded = ~mask.unsqueeze(class_axis)
        student, teacher = student.masked_fill(excluded, 0), teacher.masked_fill(excluded, 0)
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    log_student = F.log_softmax(student.to(dtype) / temperature, dim=class_axis)
    log_teacher = F.log_softmax(teacher.to(dtype) / temperature, dim=class_axis)
    probability = log_teacher.exp()
    terms = (probability * (log_teacher - log_student)).masked_fill(probability == 0, 0)  # 0 log 0 = 0
    return reduced(terms.sum(class_axis) * temperature**2, mask, reduction)


def reduced(losses: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """Losses of all positions, 0 where the mask excludes one, as ``reduction`` says."""
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / (max(losses.numel(), 1) if mask is None else mask.sum().clamp(min=1))


def checked_mask(mask: Tensor, logits: Tensor, class_axis: int) -> Tensor:
    """The mask as booleans; ValueError or TypeError unless it fits the logits' positions."""
    if mask.is_floating_point():
        raise TypeError(
            f"`mask` must be booleans or integers, not weights; got {mask.dtype}. Pass `weights > 0`, or "
            'weigh the losses of reduction="none".'
        )
    axis = class_axis % logits.dim()
    positions = logits.shape[:axis] + logits.shape[axis + 1 :]
    if mask.shape != positions:
        raise ValueError(
            f"`mask` must have the logits' shape without the axis of classes, {tuple(positions)}; got "
            f"{tuple(mask.shape)}. Check `class_axis`, or expand the mask."
        )
    return mask.to(device=logits.device, dtype=torch.bool)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless it is above 0 and finite."""
    if not 0 < temperature < inf:
        raise ValueError(f"`temperature` must be above 0 and finite; got {temperature}. 4 is usual.")


def _check(student: Tensor, teacher: Tensor, temperature: float, reduction: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's output must have the teacher's shape; got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Give the student the same classes, in the same order."
        )
    if student.dim() == 0:
        raise ValueError("`student_logits` must have an axis of classes; got a scalar. Pass (..., classes).")
    check_temperature(temperature)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none'; got {reduction!r}.")
