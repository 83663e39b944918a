"""Hints: a student's feature is drawn to the teacher's by its squared distance."""

from __future__ import annotations

from torch import Tensor

from athena_compress._feature_loss import FeatureLoss, as_vectors, mean_over


def feature_mse(student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean squared difference of two features over their width and the positions that count.

    .. math:: L = \frac{1}{NC} \sum_{n,c} (s_{nc} - t_{nc})^2

    Shape: `FeatureLoss`, with equal widths, to a scalar. Raises ValueError for shapes that differ.
    Source: Romero et al. 2015, arXiv:1412.6550, equation 3 (hints); their regressor is the projection that a
    `Distiller` learns. Departs from it: a mean, where they have half of the sum.

    >>> import torch
    >>> feature_mse(torch.zeros(2, 3), torch.full((2, 3), 2.0))
    tensor(4.)
    """
    student, teacher, kept = as_vectors(student_feature, teacher_feature, mask, same_width=True)
    return mean_over((student - teacher).square().mean(-1), kept)


class FeatureMSE(FeatureLoss):
    """`feature_mse` as a component; a student of another width needs a projection.

    >>> import torch
    >>> FeatureMSE()(torch.zeros(2, 4, 3), torch.ones(2, 4, 3))
    tensor(1.)
    """

    needs_projection = True

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return feature_mse(student_feature, teacher_feature, mask)
