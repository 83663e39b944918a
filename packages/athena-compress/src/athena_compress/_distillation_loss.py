"""The labels' cross-entropy and the teacher's soft targets, mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_compress._soft_targets import checked_mask, reduced, soft_target_loss

HardLoss = Callable[[Tensor, Tensor], Tensor]


class Mixed(NamedTuple):
    """The mixture, and what it is mixed of; a part of weight 0 is not computed, and is None."""

    total: Tensor
    hard: Tensor | None
    soft: Tensor | None


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.9,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    class_axis: int = -1,
) -> Tensor:
    r"""The loss of the labels and that of the teacher's soft targets, in the shares 1 - alpha and alpha.

    .. math:: L = (1 - \alpha) \operatorname{CE}(z^{\text{student}}, y)
        + \alpha \, T^2 \operatorname{KL}(p^{\text{teacher}}_T \,\|\, p^{\text{student}}_T)

    Both are means over the same positions: where ``mask`` allows it and the label is not ``ignore_index``.

    Args:
        student_logits: the student's.
        teacher_logits: the teacher's, of the same shape.
        labels: whole numbers, one a position.
        alpha: the soft targets' share, in [0, 1]; a part whose share is 0 is not computed.
        temperature: T, of `soft_target_loss`.
        mask: True, or not 0, where a position counts, beside the labels.
        ignore_index: the label of positions that weigh nothing, in either part.
        class_axis: the axis of the classes: the last, or 1 for images ``(batch, classes, height, width)``.

    Shape: ``(..., classes)``, twice, and labels ``(...)``, to a scalar in float32, or float64 if the logits
    are. If nothing counts, it is 0 and connected to the graph.

    Raises ValueError for an alpha outside [0, 1], and as `soft_target_loss` does.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2. Departs from it: shares that sum to 1.

    >>> student, teacher = torch.zeros(2, 3), torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    >>> labels = torch.tensor([0, -100])  # the second counts in neither part
    >>> distillation_loss(student, teacher, labels, alpha=0.0)  # log 3
    tensor(1.0986)
    >>> distillation_loss(student, teacher, labels, alpha=1.0)
    tensor(1.9726)
    """
    return mixed_loss(
        student_logits,
        teacher_logits,
        labels,
        alpha=alpha,
        temperature=temperature,
        mask=counted(student_logits, labels, mask, ignore_index=ignore_index, class_axis=class_axis),
        class_axis=class_axis,
    ).total


def mixed_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    *,
    alpha: float,
    temperature: float,
    mask: Tensor | None,
    class_axis: int,
    hard_loss: HardLoss | None = None,
) -> Mixed:
    """`distillation_loss` with its parts; without labels or without a teacher, the other part alone."""
    check_alpha(alpha)
    hard = soft = None
    total = student_logits.new_zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32))
    if labels is not None and alpha < 1:
        if hard_loss is None:
            hard = label_loss(student_logits, labels, mask=mask, class_axis=class_axis)
        else:
            hard = hard_loss(student_logits, labels)
        total = total + (1 - alpha) * hard
    if teacher_logits is not None and alpha > 0:
        soft = soft_target_loss(
            student_logits, teacher_logits, temperature=temperature, mask=mask, class_axis=class_axis
        )
        total = total + alpha * soft
    return Mixed(total, hard, soft)


def label_loss(logits: Tensor, labels: Tensor, *, mask: Tensor | None, class_axis: int) -> Tensor:
    """Mean cross-entropy over the positions that count; 0, connected, if none does."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        logits = logits.masked_fill(~mask.unsqueeze(class_axis), 0)
        labels = labels.masked_fill(~mask, 0)
    rows = logits.movedim(class_axis, -1).flatten(0, -2)
    losses = F.cross_entropy(rows, labels.flatten(), reduction="none").view(labels.shape)
    return reduced(losses if mask is None else losses.masked_fill(~mask, 0), mask, "mean")


def counted(
    logits: Tensor, labels: Tensor | None, mask: Tensor | None, *, ignore_index: int, class_axis: int
) -> Tensor | None:
    """Where both the mask and the labels, those of one a position, let a position count."""
    if mask is not None:
        mask = checked_mask(mask, logits, class_axis)
    if labels is None:
        return mask
    if not -logits.ndim <= class_axis < logits.ndim:
        raise ValueError(
            f"`class_axis` must be an axis of the logits, {tuple(logits.shape)}; got {class_axis}. Use -1."
        )
    positions = logits.movedim(class_axis, -1).shape[:-1]
    if labels.shape != positions or labels.is_floating_point():
        raise ValueError(
            f"labels must be whole numbers of the shape {tuple(positions)}, one a position; got "
            f"{labels.dtype} of {tuple(labels.shape)}. Check `class_axis`, or pass a loss of your own."
        )
    labelled = labels.to(logits.device) != ignore_index
    return labelled if mask is None else mask & labelled


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless it is a share."""
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`alpha` must lie in [0, 1]; got {alpha}. It is the soft targets' share of the loss."
        )
