"""Soft targets: the closed form, T squared, sequences, masks, and odd inputs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_compress import soft_target_loss


def reference(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """One row, in Python's floats, written from the paper."""
    s, t = ([value / temperature for value in row.double().tolist()] for row in (student, teacher))
    q, p = ([math.exp(v - max(row)) for v in row] for row in (s, t))
    q, p = ([v / math.fsum(row) for v in row] for row in (q, p))
    return temperature**2 * math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 4),
    classes=st.integers(1, 7),
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
)
def test_equals_the_closed_form(seed, rows, classes, temperature, scale):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    expected = sum(reference(s, t, temperature) for s, t in zip(student, teacher, strict=True)) / rows
    loss = soft_target_loss(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = soft_target_loss(student.float(), teacher.float(), temperature=temperature)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=3e-7 * temperature**2)


def test_equals_torchs_divergence_forward_and_backward():
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 5, dtype=torch.float64)
    loss = soft_target_loss(student, teacher, temperature=3.0)
    logs = F.log_softmax(student / 3, -1)
    expected = 9 * F.kl_div(logs, F.softmax(teacher / 3, -1), reduction="batchmean")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0], torch.autograd.grad(expected, student)[0]
    )
    assert torch.autograd.gradcheck(lambda s: soft_target_loss(s, teacher), student)
    assert torch.autograd.gradgradcheck(lambda s: soft_target_loss(s, teacher), student)


def test_the_gradient_is_the_difference_of_probabilities_times_the_temperature():
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_target_loss(student, teacher, temperature=2.5), student)
    expected = 2.5 * (F.softmax(student / 2.5, -1) - F.softmax(teacher / 2.5, -1))  # equation 2, times T^2
    torch.testing.assert_close(gradient, expected)


def test_at_high_temperature_it_is_the_squared_error_of_centred_logits():
    student, teacher = torch.randn(2, 4, 7, dtype=torch.float64)
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (student, teacher)]
    expected = (centred[0] - centred[1]).square().sum(-1).mean() / (2 * 7)  # equation 4
    errors = [
        abs(soft_target_loss(student, teacher, temperature=temperature) / expected - 1).item()
        for temperature in (10.0, 100.0, 1000.0)
    ]
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5
    assert errors[2] < 1e-3


def test_golden_value():
    # Of (1/2, 1/2) from (3/4, 1/4): ln 2 - H(1/4) = 0.6931471806 - 0.5623351446.
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    loss = soft_target_loss(torch.zeros_like(teacher), teacher, temperature=1.0)
    assert loss.item() == pytest.approx(0.1308120360, abs=1e-10)


def test_a_sequences_loss_does_not_grow_with_its_length():
    student, teacher = torch.randn(2, 3, 1, 5)
    one = soft_target_loss(student, teacher)
    for length in (2, 64):
        shape = (3, length, 5)
        torch.testing.assert_close(soft_target_loss(student.expand(shape), teacher.expand(shape)), one)


def test_the_class_axis_of_images():
    student, teacher = torch.randn(2, 2, 5, 3, 4)
    mask = torch.rand(2, 3, 4) > 0.5
    last = [logits.movedim(1, -1) for logits in (student, teacher)]
    for kept in (None, mask):
        images = soft_target_loss(student, teacher, mask=kept, class_axis=1)
        torch.testing.assert_close(images, soft_target_loss(*last, mask=kept))
    images = soft_target_loss(student, teacher, class_axis=1, reduction="none")
    torch.testing.assert_close(images, soft_target_loss(*last, reduction="none"))


@pytest.mark.parametrize("junk", [0.0, 1e30, math.nan, math.inf, -math.inf])
def test_masked_positions_weigh_nothing_whatever_they_hold(junk):
    student, teacher = torch.randn(2, 3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    rows = mask.bool()
    expected = soft_target_loss(student[rows], teacher[rows])
    student, teacher = (logits.masked_fill(~rows[..., None], junk) for logits in (student, teacher))
    student.requires_grad_()
    loss = soft_target_loss(student, teacher, mask=mask)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not student.grad[~rows].any()
    assert student.grad[rows].all()
    each = soft_target_loss(student, teacher, mask=mask, reduction="none")
    assert each.shape == (3, 4)
    assert not each[~rows].any()
    torch.testing.assert_close(each.sum() / 7, loss)
    torch.testing.assert_close(soft_target_loss(student, teacher, mask=mask, reduction="sum"), 7 * loss)


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 4), (2, 0, 4)])
def test_where_nothing_counts_it_is_a_connected_zero(shape):
    student = torch.full(shape, math.nan, requires_grad=True)
    mask = torch.zeros(shape[:-1], dtype=torch.bool)
    loss = soft_target_loss(student, torch.randn(shape), mask=mask)
    assert loss == 0
    loss.backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_an_empty_batch_without_a_mask_is_a_connected_zero():
    student = torch.zeros(0, 4, requires_grad=True)
    loss = soft_target_loss(student, torch.zeros(0, 4))
    assert loss == 0
    loss.backward()


def test_the_teacher_gets_no_gradient():
    student, teacher = torch.randn(2, 3, 4).unbind()
    student.requires_grad_()
    teacher.requires_grad_()
    soft_target_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_16_bits_in_float32_under_autocast_too(dtype):
    student, teacher = (4 * torch.randn(2, 8, 50)).to(dtype)
    expected = soft_target_loss(student.double(), teacher.double())
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_target_loss(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    student.requires_grad_()
    soft_target_loss(student, teacher).backward()
    assert student.grad.dtype == dtype


def test_classes_that_both_leave_out_add_nothing():
    student, teacher = torch.randn(2, 3, 6)
    expected = soft_target_loss(student[:, :4], teacher[:, :4])
    left_out = torch.tensor([0, 0, 0, 0, 1, 1]).bool()
    student = student.masked_fill(left_out, -math.inf).requires_grad_()
    loss = soft_target_loss(student, teacher.masked_fill(left_out, -math.inf))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.grad.isfinite().all()


def test_a_class_that_the_student_alone_leaves_out_costs_infinitely_much():
    student = torch.tensor([[0.0, -math.inf]])
    assert soft_target_loss(student, torch.zeros(1, 2)) == math.inf


def test_nan_that_counts_shows():
    student, teacher = torch.randn(2, 3, 4)
    teacher[1, 2] = math.nan
    assert soft_target_loss(student, teacher).isnan()


def test_large_logits_stay_finite():
    student, teacher = 1e4 * torch.randn(2, 3, 4)
    student.requires_grad_()
    loss = soft_target_loss(student, teacher, temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_strided_logits():
    student, teacher = torch.randn(2, 5, 3, 4).transpose(1, 3)
    torch.testing.assert_close(
        soft_target_loss(student, teacher), soft_target_loss(student.contiguous(), teacher.contiguous())
    )


def test_one_class_teaches_nothing():
    assert soft_target_loss(torch.randn(3, 1), torch.randn(3, 1)) == 0


def test_is_one_graph():
    compiled = torch.compile(soft_target_loss, fullgraph=True, backend="eager")
    student, teacher = torch.randn(2, 3, 4, 5)
    mask = torch.rand(3, 4) > 0.5
    torch.testing.assert_close(
        compiled(student, teacher, mask=mask), soft_target_loss(student, teacher, mask=mask)
    )


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (ValueError, r"teacher's shape; got \(2, 3\) and \(2, 4\)", {"teacher_logits": torch.zeros(2, 4)}),
        (ValueError, "`temperature` must be above 0 and finite; got 0", {"temperature": 0}),
        (ValueError, "`temperature` .* got -1", {"temperature": -1.0}),
        (ValueError, "`temperature` .* got nan", {"temperature": math.nan}),
        (ValueError, "`temperature` .* got inf", {"temperature": math.inf}),
        (ValueError, "`reduction` must be .* got 'batchmean'", {"reduction": "batchmean"}),
        (ValueError, r"`mask` must have .* \(2,\); got \(3,\)", {"mask": torch.ones(3).bool()}),
        (TypeError, "`mask` must be booleans or integers, not weights", {"mask": torch.ones(2)}),
    ],
)
def test_errors(error, words, arguments):
    arguments = {"student_logits": torch.zeros(2, 3), "teacher_logits": torch.zeros(2, 3), **arguments}
    with pytest.raises(error, match=words):
        soft_target_loss(**arguments)


def test_a_scalar_has_no_classes():
    with pytest.raises(ValueError, match="must have an axis of classes; got a scalar"):
        soft_target_loss(torch.zeros(()), torch.zeros(()))
