"""Feature losses: the laws, which broken ones fail, and plain references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from athena_compress import (
    CKA,
    AttentionTransfer,
    FeatureCosine,
    FeatureLoss,
    FeatureMSE,
    Relational,
    attention_transfer,
    cka_loss,
    feature_cosine,
    feature_mse,
    relational_loss,
)
from athena_compress._feature_loss_laws import feature_loss_checks
from athena_core import Component, components, load
from athena_core.testing import Check

COMPONENT = Component("feature-loss", "tested", "tests:tested", "Under test")
LOSSES = [FeatureMSE, FeatureCosine, AttentionTransfer, Relational, CKA]
NAMES = {"mse", "cosine", "attention-transfer", "relational", "cka"}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{loss.__name__}: {check.name}")
        for loss in LOSSES
        for check in feature_loss_checks(COMPONENT, loss)
    ],
)
def test_laws(check: Check):
    check()


def test_components():
    found = {component.name for component in components("feature-loss")}
    assert found >= NAMES
    assert {load("feature-loss", name) for name in NAMES} == set(LOSSES)


class Attached(FeatureMSE):
    """Gives the teacher a gradient."""

    def forward(self, student_feature, teacher_feature, mask=None):
        return super().forward(student_feature, teacher_feature, mask) + 0 * teacher_feature.sum()


class Unmasked(FeatureMSE):
    """Forgets the mask."""

    def forward(self, student_feature, teacher_feature, mask=None):
        return super().forward(student_feature, teacher_feature)


class Multiplied(FeatureMSE):
    """Masks by multiplication, which NaN survives."""

    def forward(self, student_feature, teacher_feature, mask=None):
        if mask is None:
            return super().forward(student_feature, teacher_feature)
        weight = mask.unsqueeze(1 if student_feature.dim() > 3 else -1)
        whole = super().forward(student_feature * weight, teacher_feature * weight)
        return whole * mask.numel() / mask.sum().clamp(min=1)


class Detached(FeatureMSE):
    """Returns a 0 that is no part of the graph where nothing counts."""

    def forward(self, student_feature, teacher_feature, mask=None):
        if mask is not None and not mask.any():
            return torch.zeros((), requires_grad=True)
        return super().forward(student_feature, teacher_feature, mask)


class Uphill(FeatureMSE):
    """Has its gradient the wrong way round."""

    def forward(self, student_feature, teacher_feature, mask=None):
        loss = super().forward(student_feature, teacher_feature, mask)
        return 2 * loss.detach() - loss


class Division(FeatureLoss):
    """A cosine that divides by lengths of 0, and rounds to 16 bits."""

    needs_projection = False

    def forward(self, student_feature, teacher_feature, mask=None):
        student, teacher = student_feature.flatten(1), teacher_feature.detach().flatten(1)
        cosine = (student * teacher).sum(1) / (student.norm(dim=1) * teacher.norm(dim=1))
        return (1 - cosine).mean()


def failures(loss) -> set[str]:
    failed = set()
    for check in feature_loss_checks(COMPONENT, loss):
        try:
            check()
        except (AssertionError, ValueError, RuntimeError):
            failed.add(check.name.rsplit(",", 1)[0])
    return failed


@pytest.mark.parametrize(
    ("loss", "laws"),
    [
        (Attached, {"the gradient reaches the student alone"}),
        (Unmasked, {"masked positions do not matter", "all masked is a connected 0"}),
        (Multiplied, {"masked positions do not matter"}),
        (Detached, {"all masked is a connected 0"}),
        (Uphill, {"a step against the gradient lowers it"}),
        (
            Division,
            {"finite on zeros", "at least float32, under autocast too", "needs_projection is what it says"},
        ),
    ],
)
def test_a_broken_loss_fails_its_law(loss, laws):
    assert laws <= failures(loss)


def rows(feature: Tensor, mask: Tensor | None = None) -> list[list[Tensor]]:
    """The vectors that count, of each example."""
    if feature.dim() == 2:
        feature = feature[:, None]
    elif feature.dim() > 3:
        feature = feature.flatten(2).mT
    kept = torch.ones(feature.shape[:2]) if mask is None else mask.reshape(feature.shape[:2])
    return [[v for v, keep in zip(f, k, strict=True) if keep] for f, k in zip(feature, kept, strict=True)]


def plain_mse(student, teacher, mask=None):
    pairs = zip(itertools.chain(*rows(student, mask)), itertools.chain(*rows(teacher, mask)), strict=True)
    return torch.stack([(s - t).pow(2).sum() / len(s) for s, t in pairs]).mean()


def plain_cosine(student, teacher, mask=None):
    pairs = zip(itertools.chain(*rows(student, mask)), itertools.chain(*rows(teacher, mask)), strict=True)
    return torch.stack([1 - s.dot(t) / (s.norm() * t.norm()) for s, t in pairs]).mean()


def plain_attention(student, teacher, mask=None):
    losses = []
    for s, t in zip(rows(student, mask), rows(teacher, mask), strict=True):
        if s:
            a, b = (torch.stack([v.dot(v) for v in vectors]) for vectors in (s, t))
            losses.append((a / a.norm() - b / b.norm()).pow(2).sum())
    return torch.stack(losses).mean()


def plain_relational(student, teacher, mask=None):
    examples = [[sum(v) / len(v) for v in rows(feature, mask) if v] for feature in (student, teacher)]
    distances, angles = [], []
    for points in examples:
        raw = [(a - b).norm() for a, b in itertools.permutations(points, 2)]
        distances.append([d / (sum(raw) / len(raw)) for d in raw])
        angles.append(
            [
                (a - b).dot(c - b) / ((a - b).norm() * (c - b).norm())
                for a, b, c in itertools.permutations(points, 3)
            ]
        )

    def huber(x, y):
        return (x - y) ** 2 / 2 if abs(x - y) <= 1 else abs(x - y) - 0.5

    means = [
        sum(huber(x, y) for x, y in zip(*pair, strict=True)) / len(pair[0]) for pair in (distances, angles)
    ]
    return means[0] + 2 * means[1]


def plain_cka(student, teacher, mask=None):
    """By HSIC of Gram matrices with the centring matrix: another form than the fast one's."""
    x, y = (torch.stack(list(itertools.chain(*rows(f, mask)))) for f in (student, teacher))
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    k, q = x @ x.T, y @ y.T

    def hsic(a, b):
        return torch.trace(a @ centre @ b @ centre) / (n - 1) ** 2

    return 1 - hsic(k, q) / (hsic(k, k) * hsic(q, q)).sqrt()


PLAIN = [
    (feature_mse, plain_mse, True),
    (feature_cosine, plain_cosine, True),
    (attention_transfer, plain_attention, False),
    (relational_loss, plain_relational, False),
    (cka_loss, plain_cka, False),
]


@pytest.mark.parametrize(
    ("fast", "plain", "same_width"), PLAIN, ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.parametrize("shape", [(1, 5, 3), (4, 6, 3), (4, 3, 2, 3), (4, 3, 2, 1, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_plain_reference_forward_and_backward(fast, plain, same_width, shape, masked):
    if shape[0] == 1 and fast is not attention_transfer:
        shape = shape[1:]  # vectors, of which there is no map
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    wider = shape if same_width else (*shape[:-1], 5) if len(shape) < 4 else (shape[0], 5, *shape[2:])
    teacher = torch.randn(wider, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(shape[:-1] if len(shape) < 4 else (shape[0], *shape[2:])) > 0.3
        mask.view(shape[0], -1)[:3, 0] = True  # at least three examples, for angles
    loss, expected = fast(student, teacher, mask), plain(student, teacher, mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (loss, expected)))


def test_mse_and_cosine_equal_torchs():
    student, teacher = torch.randn(2, 4, 6, 3)
    torch.testing.assert_close(feature_mse(student, teacher), F.mse_loss(student, teacher))
    torch.testing.assert_close(
        feature_cosine(student, teacher), 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    )


def test_cosine_of_unit_vectors_is_half_their_squared_distance():
    student, teacher = F.normalize(torch.randn(2, 6, 3), dim=-1)
    torch.testing.assert_close(feature_cosine(student, teacher), feature_mse(student, teacher) * 3 / 2)


def test_cosine_without_a_direction():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    loss = feature_cosine(student, teacher)
    assert loss == 0.5  # of the first, 1: nothing of it agrees; of the second, 0
    loss.backward()
    assert not student.grad.any()


def orthogonal(width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q


@pytest.mark.parametrize("n", [3, 40])  # fewer and more rows than columns: both forms
def test_cka_does_not_change_if_features_are_turned_scaled_or_moved(n):
    student = torch.randn(n, 6, dtype=torch.float64)
    teacher = torch.randn(n, 8, dtype=torch.float64)
    expected = cka_loss(student, teacher)
    assert 0 < expected < 1
    turned = 7.0 * student @ orthogonal(6) + 2
    torch.testing.assert_close(cka_loss(turned, teacher @ orthogonal(8) / 3 - 5), expected)
    torch.testing.assert_close(cka_loss(teacher, student), expected)
    sheared = student * torch.tensor([1.0, 1, 1, 1, 1, 100])
    assert (cka_loss(sheared, teacher) - expected).abs() > 1e-3, (
        "unlike CCA, it is no invariant of linear maps"
    )


def test_cka_by_products_of_rows_and_of_columns_is_the_same():
    narrow = torch.randn(4, 3, dtype=torch.float64)  # 3 < 4 rows: of columns
    teacher = torch.randn(4, 6, dtype=torch.float64)
    wide = torch.cat([narrow, torch.zeros(4, 2)], 1)  # 5 >= 4 rows: of rows; zeros change nothing
    torch.testing.assert_close(cka_loss(narrow, teacher), cka_loss(wide, teacher))


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_cka_and_relational_hold_any_scale(scale):
    student, teacher = torch.randn(2, 12, 4)
    for loss in (cka_loss, relational_loss):
        torch.testing.assert_close(
            loss(scale * student, teacher), loss(student, teacher), rtol=1e-4, atol=1e-6
        )


def test_cka_of_rows_that_are_equal():
    varied, equal = torch.randn(7, 3), torch.full((7, 3), 0.1)
    assert cka_loss(varied, equal) == 0, "there is nothing to follow"
    assert cka_loss(equal, varied) == 1
    assert cka_loss(varied[:1], equal[:1]) == 0
    low = equal.requires_grad_()
    cka_loss(low, varied).backward()
    assert not low.grad.any()


def test_relational_does_not_change_if_features_are_turned_scaled_or_moved():
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    expected = relational_loss(student, teacher)
    torch.testing.assert_close(relational_loss(3 * student @ orthogonal(4) + 1, teacher), expected)


def test_relational_weights():
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    distance = relational_loss(student, teacher, angle_weight=0.0)
    angle = relational_loss(student, teacher, distance_weight=0.0)
    torch.testing.assert_close(relational_loss(student, teacher), distance + angle * 1)
    torch.testing.assert_close(
        Relational(distance_weight=3.0, angle_weight=1.0)(student, teacher), 3 * distance + angle / 2
    )


def test_relational_of_one_and_of_two_examples():
    one = torch.randn(1, 3, requires_grad=True)
    loss = relational_loss(one, torch.randn(1, 4))
    assert loss == 0
    loss.backward()
    assert not one.grad.any()
    two = relational_loss(torch.randn(2, 3), torch.randn(2, 4))
    assert two.abs() < 1e-12, "one distance over its mean is 1"


def test_relational_of_examples_that_coincide():
    student = torch.ones(4, 3).requires_grad_()
    loss = relational_loss(student, torch.randn(4, 3))
    loss.backward()
    assert loss > 0
    assert student.grad.isfinite().all()


def test_relational_of_images_of_other_sizes():
    assert relational_loss(torch.randn(4, 3, 2, 2), torch.randn(4, 6, 4, 4)).isfinite()


@pytest.mark.parametrize("loss", [feature_mse, feature_cosine, attention_transfer, relational_loss, cka_loss])
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_empty_features(loss, shape):
    student = torch.zeros(shape, requires_grad=True)
    value = loss(student, torch.zeros(shape))
    if shape != (2, 4, 0) or loss is not feature_mse:  # a mean over a width of 0 is no number
        assert value == 0
    value.backward()


@pytest.mark.parametrize("loss", [feature_mse, feature_cosine, relational_loss, cka_loss])
def test_nan_that_counts_shows(loss):
    student, teacher = torch.randn(2, 5, 4)
    student[1, 1] = math.nan
    assert loss(student, teacher).isnan()


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "words"),
    [
        (feature_mse, (2, 3), (2, 4), "same width; got 3 of the student and 4 of the teacher"),
        (feature_cosine, (2, 5, 3), (2, 5, 4), "same width"),
        (feature_mse, (2, 5, 3), (2, 6, 3), r"same positions.*\(2, 5, 3\) and the teacher's \(2, 6, 3\)"),
        (cka_loss, (2, 3, 4, 4), (2, 3, 2, 2), "same positions"),
        (attention_transfer, (2, 3), (2, 3), r"must have positions.*got \(2, 3\)"),
        (relational_loss, (2, 3), (3, 3), "one batch; got 2 examples of the student and 3"),
        (feature_mse, (3,), (3,), "a feature must have the shape"),
    ],
)
def test_shapes_that_do_not_fit(loss, student, teacher, words):
    with pytest.raises(ValueError, match=words):
        loss(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("mask", [torch.ones(2, 5).bool(), torch.ones(2, 4)])
def test_masks_that_do_not_fit(mask):
    with pytest.raises(
        ValueError, match=r"`mask` must be booleans or integers of the feature's positions, \(2, 4\)"
    ):
        feature_mse(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), mask)
