"""Cosine: a student's feature is turned to the direction of the teacher's."""

from __future__ import annotations

from torch import Tensor

from athena_compress._feature_loss import FeatureLoss, as_vectors, mean_over, safe_normalize


def feature_cosine(student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""One minus the cosine of the angle between two features, averaged over the positions that count.

    .. math:: L = \frac1N \sum_n \Big(1 - \frac{s_n \cdot t_n}{\|s_n\| \, \|t_n\|}\Big)

    A position where the teacher's vector is all zeros has no direction to follow and adds 0; one where the
    student's alone is, as after a ReLU, adds 1 and gets no gradient.

    Shape: `FeatureLoss`, with equal widths, to a scalar. Raises ValueError for shapes that differ.
    Source: Sanh et al. 2019, arXiv:1910.01108, section 3 (the cosine loss of hidden states). Departs from
    it: no.

    >>> import torch
    >>> feature_cosine(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
    tensor(0.5000)
    """
    student, teacher, kept = as_vectors(student_feature, teacher_feature, mask, same_width=True)
    directed = (teacher != 0).any(-1)
    # Half the squared distance of unit vectors is 1 - cos, without the cancellation where both agree.
    student, teacher = safe_normalize(student), safe_normalize(teacher)
    apart = (student - teacher).square().sum(-1) / 2
    apart = apart + ((student == 0).all(-1) & directed) / 2
    return mean_over(apart.masked_fill(~directed, 0), kept)


class FeatureCosine(FeatureLoss):
    """`feature_cosine` as a component; a student of another width needs a projection.

    >>> import torch
    >>> FeatureCosine()(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0]]))
    tensor(0.)
    """

    needs_projection = True

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return feature_cosine(student_feature, teacher_feature, mask)
