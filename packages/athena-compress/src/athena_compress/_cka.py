"""Linear CKA: two features are alike if their examples are alike to one another in the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_compress._feature_loss import FeatureLoss, as_vectors
from athena_core import without_autocast


def cka_loss(student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""One minus linear CKA, the centred kernel alignment of two features.

    .. math:: L = 1 - \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F \, \|Y^\top Y\|_F}

    with the rows of X, the student's, and Y, the teacher's, less their means. A row is a position that
    counts: an example of vectors, a token of sequences, a place of images. The loss does not change if
    either feature is turned (an orthogonal map of its width), scaled or moved, and widths may differ.

    Rows should outnumber widths: with few rows every pair of features looks alike. If all of the teacher's
    rows are equal, as in a batch of one vector, there is nothing to follow, and the loss is 0; if only the
    student's are, it is 1, without a gradient.

    Shape: `FeatureLoss`, to a scalar. Raises ValueError for positions that differ.
    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3 (linear CKA). Departs from it: the rows of
    images are places, where they flatten images whole.

    >>> feature = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> turned = 5 * feature @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> bool(cka_loss(turned, feature).abs() < 1e-6)
    True
    >>> round(cka_loss(feature[:, :1], feature).item(), 3)
    0.074
    """
    student, teacher, kept = as_vectors(student_feature, teacher_feature, mask)
    rows = [_centred(feature.flatten(0, 1), kept.flatten()[:, None]) for feature in (student, teacher)]
    with without_autocast(student.device.type):
        # The smaller of the two forms: products of rows, or of columns. They are equal.
        if len(rows[0]) <= min(feature.shape[1] for feature in rows):
            kernels = [feature @ feature.T for feature in rows]
            cross = (kernels[0] * kernels[1]).sum()
        else:
            kernels = [feature.T @ feature for feature in rows]
            cross = (rows[1].T @ rows[0]).square().sum()
    squares = [kernel.square().sum() for kernel in kernels]
    flat = (squares[0] == 0) | (squares[1] == 0)
    scale = (squares[0].masked_fill(flat, 1) * squares[1].masked_fill(flat, 1)).sqrt()
    apart = (1 - (cross / scale).masked_fill(flat, 0)).clamp(min=0)  # rounding may leave -1e-7
    return apart.masked_fill(squares[1] == 0, 0)


class CKA(FeatureLoss):
    """`cka_loss` as a component; widths may differ.

    >>> CKA()(torch.eye(3), torch.tensor([[0.0], [1.0], [2.0]])).item() < 0.3
    True
    """

    needs_projection = False

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return cka_loss(student_feature, teacher_feature, mask)


def _centred(rows: Tensor, kept: Tensor) -> Tensor:
    """Rows that count, less their mean and of a size that squares hold; 0 for the others.

    Rows that are equal but for rounding are equal: scaled up, their rounding would look like a feature.
    """
    mean = rows.sum(0) / kept.sum().clamp(min=1)
    centred = (rows - mean).masked_fill(~kept, 0)
    if not rows.numel():
        return centred
    largest = centred.detach().abs().amax()
    equal = largest <= 8 * torch.finfo(rows.dtype).eps * rows.detach().abs().amax()
    return (centred / largest.masked_fill(equal, 1)).masked_fill(equal, 0)
