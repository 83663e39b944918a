"""Learned maps from a student's width to its teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from athena_compress._feature_loss import FeatureLoss, width_axis


def needs_projection(loss: nn.Module, student: Tensor, teacher: Tensor) -> bool:
    """Whether the loss compares features of equal widths, and these are not."""
    if not (isinstance(loss, FeatureLoss) and loss.needs_projection):
        return False
    if student.dim() != teacher.dim():
        raise ValueError(
            "`features`: two features that are matched must have as many axes; got the student's "
            f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}. Pass a module that maps the "
            "one to the other in `projections`."
        )
    axis = width_axis(student)
    return student.shape[axis] != teacher.shape[axis]


def make_projection(student: Tensor, teacher: Tensor) -> nn.Module:
    """A linear map of vectors and sequences, a convolution of one pixel for images, with random weights."""
    axis = width_axis(student)
    narrow, wide = student.shape[axis], teacher.shape[axis]
    if axis == -1:
        return nn.Linear(narrow, wide, device=student.device, dtype=student.dtype)
    if student.dim() != 4:
        raise ValueError(
            "`features`: projections are made for vectors, sequences and images of two axes; got "
            f"{tuple(student.shape)}. Pass a module of your own in `projections`."
        )
    return nn.Conv2d(narrow, wide, kernel_size=1, device=student.device, dtype=student.dtype)
