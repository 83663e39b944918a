"""Attention transfer: where a student is active follows where the teacher is, whatever their widths."""

from __future__ import annotations

from torch import Tensor

from athena_compress._feature_loss import FeatureLoss, as_vectors, mean_over, safe_normalize


def attention_transfer(
    student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Squared distance of two maps of activity, each of length 1, averaged over the batch.

    .. math::
        L = \frac1B \sum_b \Big\| \frac{Q^s_b}{\|Q^s_b\|_2} - \frac{Q^t_b}{\|Q^t_b\|_2} \Big\|_2^2, \qquad
        Q_{b,i} = \sum_c a_{b,i,c}^2

    with i over the positions of an image or a sequence. Widths may differ. A map of zeros stays one; an
    example that the mask excludes whole does not count.

    Shape: `FeatureLoss`, without vectors ``(batch, width)``, which have no map, to a scalar.
    Raises ValueError for these, and for positions that differ.
    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, section 3.1 and equation 2, with their
    activation-based map for p = 2. Departs from it: the distance is squared, which has a gradient at 0.

    >>> import torch
    >>> student, teacher = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    >>> attention_transfer(student, teacher)
    tensor(2.)
    """
    if student_feature.dim() == 2:
        raise ValueError(
            "features must have positions, as sequences and images have, for maps over them; got "
            f"{tuple(student_feature.shape)}. For vectors, use 'relational', 'cka', 'cosine' or 'mse'."
        )
    student, teacher, kept = as_vectors(student_feature, teacher_feature, mask)
    maps = (safe_normalize(feature.square().sum(-1)) for feature in (student, teacher))
    student_map, teacher_map = maps
    return mean_over((student_map - teacher_map).square().sum(-1), kept.any(-1))


class AttentionTransfer(FeatureLoss):
    """`attention_transfer` as a component; widths may differ.

    >>> import torch
    >>> AttentionTransfer()(torch.ones(2, 4, 3, 3), torch.ones(2, 16, 3, 3))
    tensor(0.)
    """

    needs_projection = False

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return attention_transfer(student_feature, teacher_feature, mask)
