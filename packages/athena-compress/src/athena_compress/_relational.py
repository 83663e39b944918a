"""Relational distillation: distances and angles among a batch's examples are as they are to the teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from athena_compress._feature_loss import FeatureLoss, as_vectors, safe_norm, vectors
from athena_core import without_autocast


def relational_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    mask: Tensor | None = None,
    *,
    distance_weight: float = 1.0,
    angle_weight: float = 2.0,
) -> Tensor:
    r"""How distances and angles among a batch's examples differ between student and teacher.

    .. math::
        L = \lambda_D \operatorname*{mean}_{i \ne j}
            \ell\Big(\frac{\|t_i - t_j\|}{\mu_t}, \frac{\|s_i - s_j\|}{\mu_s}\Big)
          + \lambda_A \operatorname*{mean}_{i,j,k \text{ distinct}}
            \ell\big(\cos \angle t_i t_j t_k, \cos \angle s_i s_j s_k\big)

    with the Huber loss :math:`\ell` and the mean distance :math:`\mu`. An example of an image or a sequence
    is the mean of its positions that count, so that widths and sizes may differ.

    Args:
        student_feature: the student's.
        teacher_feature: the teacher's.
        mask: where a position counts; an example that it excludes whole is left out.
        distance_weight: :math:`\lambda_D`.
        angle_weight: :math:`\lambda_A`.

    Shape: `FeatureLoss`, with equal batches, to a scalar. Memory grows with the cube of the batch.
    A batch of one has no pairs, and of two no angles: these parts are 0, connected to the graph.
    Raises ValueError for batches that differ, or positions where there is a mask.
    Source: Park et al. 2019, arXiv:1904.05068, equations 4 to 9; weights 1 and 2 are theirs for metric
    learning. Departs from it: means in place of sums.

    >>> student = torch.tensor([[0.0], [1.0], [3.0]])
    >>> teacher = torch.tensor([[0.0, 0.0], [0.0, 5.0], [0.0, 15.0]])  # the same up to scale and rotation
    >>> relational_loss(student, teacher)
    tensor(0.)
    """
    student, teacher, kept = _examples(student_feature, teacher_feature, mask)
    apart = ~torch.eye(len(kept), dtype=torch.bool, device=kept.device)
    pairs = kept[:, None] & kept & apart
    triples = pairs[:, :, None] & pairs & apart[:, None]  # i and k differ from j, and from one another
    with without_autocast(student.device.type):
        student_distance, student_cosine = _relations(student, pairs)
        teacher_distance, teacher_cosine = _relations(teacher, pairs)
    distance = _mean_huber(student_distance, teacher_distance, pairs)
    return distance_weight * distance + angle_weight * _mean_huber(student_cosine, teacher_cosine, triples)


class Relational(FeatureLoss):
    """`relational_loss` as a component; widths may differ.

    >>> round(Relational()(torch.eye(3), torch.tensor([[0.0], [1.0], [2.0]])).item(), 4)
    0.8958
    """

    needs_projection = False

    def __init__(self, *, distance_weight: float = 1.0, angle_weight: float = 2.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        return relational_loss(
            student_feature,
            teacher_feature,
            mask,
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
        )


def _examples(
    student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One vector an example, of the student and the teacher, and which examples count."""
    if len(student_feature) != len(teacher_feature):
        raise ValueError(
            f"features must be of one batch; got {len(student_feature)} examples of the student and "
            f"{len(teacher_feature)} of the teacher. Give both the same inputs."
        )
    if mask is None:
        student, teacher = vectors(student_feature), vectors(teacher_feature.detach())
        dtype = torch.promote_types(student.dtype, teacher.dtype)
        means = [f.to(dtype).sum(1) / max(f.shape[1], 1) for f in (student, teacher)]
        return means[0], means[1], torch.ones(len(student), dtype=torch.bool, device=student.device)
    student, teacher, kept = as_vectors(student_feature, teacher_feature, mask)
    count = kept.sum(1, keepdim=True).clamp(min=1)
    return student.sum(1) / count, teacher.sum(1) / count, kept.any(1)


def _relations(examples: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean, ``(i, j)``, and cosines of angles at j, ``(i, j, k)``."""
    difference = examples[:, None] - examples
    distance = safe_norm(difference)
    direction = difference / distance.masked_fill(distance == 0, 1)
    distance = distance.squeeze(-1)
    mean = distance.masked_fill(~pairs, 0).sum() / pairs.sum().clamp(min=1)
    cosine = torch.einsum("ijd,kjd->ijk", direction, direction)
    return distance / mean.masked_fill(mean == 0, 1), cosine


def _mean_huber(student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    losses = F.huber_loss(student, teacher, reduction="none")
    return losses.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)
