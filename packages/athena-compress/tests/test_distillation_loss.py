"""The mixture of labels and soft targets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from athena_compress import distillation_loss, soft_target_loss


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_is_the_mixture_of_both_parts(alpha):
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    labels = torch.randint(5, (6,))
    hard, soft = F.cross_entropy(student, labels), soft_target_loss(student, teacher, temperature=2.0)
    loss = distillation_loss(student, teacher, labels, alpha=alpha, temperature=2.0)
    torch.testing.assert_close(loss, (1 - alpha) * hard + alpha * soft)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("junk", [0.0, math.nan, math.inf])
def test_ignored_labels_count_in_neither_part(alpha, junk):
    student, teacher = torch.randn(2, 3, 4, 5)
    labels = torch.randint(5, (3, 4))
    ignored = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    kept = ~ignored
    expected = distillation_loss(student[kept], teacher[kept], labels[kept], alpha=alpha)
    labels[ignored] = -7
    student, teacher = (logits.masked_fill(ignored[..., None], junk) for logits in (student, teacher))
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels, alpha=alpha, ignore_index=-7)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not student.grad[ignored].any()
    assert student.grad[kept].any(-1).all()


def test_the_mask_and_the_labels_both_count():
    student, teacher = torch.randn(2, 4, 5)
    labels = torch.tensor([0, 1, -100, 3])
    mask = torch.tensor([True, False, True, True])
    expected = distillation_loss(student[[0, 3]], teacher[[0, 3]], labels[[0, 3]])
    torch.testing.assert_close(distillation_loss(student, teacher, labels, mask=mask), expected)


def test_images():
    student, teacher = torch.randn(2, 2, 5, 3, 4)
    labels = torch.randint(5, (2, 3, 4))
    labels[0, 0] = 255
    loss = distillation_loss(student, teacher, labels, alpha=0.0, ignore_index=255, class_axis=1)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels, ignore_index=255))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_where_all_labels_are_ignored_it_is_a_connected_zero(alpha):
    student = torch.randn(2, 3, 4, requires_grad=True)
    loss = distillation_loss(student, torch.randn(2, 3, 4), torch.full((2, 3), -100), alpha=alpha)
    assert loss == 0
    loss.backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_computes_16_bits_in_float32():
    student, teacher = torch.randn(2, 6, 5).bfloat16()
    labels = torch.randint(5, (6,))
    loss = distillation_loss(student, teacher, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distillation_loss(student.float(), teacher.float(), labels))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\]; got"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), alpha=alpha)


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.zeros(2, 3), torch.zeros(2)])
def test_labels_of_another_shape_or_type(labels):
    with pytest.raises(ValueError, match=r"labels must be whole numbers of the shape \(2,\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), labels)


def test_a_label_that_is_no_class():
    with pytest.raises(IndexError):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([2]))
