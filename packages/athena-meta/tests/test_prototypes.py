"""Prototypes and distances against loops over sorted classes, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_models import shuffled
from torch import Tensor

from athena_meta import (
    Episodes,
    PrototypicalNetwork,
    class_covariances,
    cosine,
    mahalanobis,
    prototypes,
    squared_euclidean,
)
from athena_meta._distances import unit
from athena_meta._prototypes import label_ranks


def by_class(features: Tensor, labels: Tensor) -> Tensor:
    """The reference: sort the classes, then average what is of each."""
    return torch.stack([features[labels == label].mean(0) for label in sorted(set(labels.tolist()))])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(-(2**40), 2**40),
    st.integers(0, 2**16),
)
def test_prototypes_equal_a_class_sorted_reference(
    shots: list[int], tasks: int, offset: int, seed: int
) -> None:
    torch.manual_seed(seed)
    names = [offset + 7 * way for way in range(len(shots))]
    labels = shuffled([name for name, shot in zip(names, shots, strict=True) for _ in range(shot)], tasks)
    features = torch.randn(tasks, labels.shape[1], 3, 2, dtype=torch.float64)
    found = prototypes(features, labels)
    assert found.shape == (tasks, len(shots), 3, 2)
    for task in range(tasks):
        torch.testing.assert_close(found[task], by_class(features[task], labels[task]))
        torch.testing.assert_close(prototypes(features[task], labels[task]), found[task])


def test_prototypes_of_classes_that_differ_by_task() -> None:
    features = torch.randn(2, 3, 2, dtype=torch.float64)
    labels = torch.tensor([[9, 2, 9], [5, 0, 0]])
    found = prototypes(features, labels)
    torch.testing.assert_close(found[0], torch.stack([features[0, 1], features[0, [0, 2]].mean(0)]))
    torch.testing.assert_close(found[1], torch.stack([features[1, 1:].mean(0), features[1, 0]]))


def test_prototypes_of_strided_features_and_their_gradient() -> None:
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, -1, 3, 3, -1])
    strided = features.T.contiguous().T
    assert not strided.is_contiguous()
    torch.testing.assert_close(prototypes(strided, labels), by_class(features, labels))
    assert torch.autograd.gradcheck(lambda x: prototypes(x, labels), (features,))


def test_a_nan_stays_in_its_class() -> None:
    features = torch.tensor([[1.0], [torch.nan], [3.0], [torch.inf]])
    found = prototypes(features, torch.tensor([0, 1, 0, 2])).flatten()
    assert found[0] == 2
    assert found[1].isnan()
    assert found[2].isinf()


def test_prototypes_of_nothing() -> None:
    assert prototypes(torch.zeros(2, 3, 0), torch.tensor([[0, 1, 1]] * 2)).shape == (2, 2, 0)
    with pytest.raises(ValueError, match="at least one label"):
        prototypes(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_prototypes_refuse_shapes_that_disagree() -> None:
    with pytest.raises(ValueError, match=r"`labels` must have one label an example.*\(4, 2\).*\(3,\)"):
        prototypes(torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="`labels` must have one label an example"):
        prototypes(torch.zeros(4), torch.tensor(1))


def test_ranks_refuse_tasks_of_different_ways() -> None:
    with pytest.raises(ValueError, match="task 0 has 2 in its support set, task 1 has 3"):
        label_ranks(torch.tensor([[0, 1, 1], [4, 5, 6]]))


def test_distances_equal_loops() -> None:
    query = torch.randn(2, 5, 4, dtype=torch.float64)
    means = torch.randn(2, 3, 4, dtype=torch.float64)
    factors = torch.linalg.cholesky(torch.eye(4, dtype=torch.float64) * 2 + 0.5).expand(2, 3, 4, 4)
    covariance = factors @ factors.mT
    squared, angle, white = (
        squared_euclidean(query, means),
        cosine(query, means),
        mahalanobis(query, means, factors),
    )
    for task in range(2):
        for q in range(5):
            for k in range(3):
                difference = query[task, q] - means[task, k]
                torch.testing.assert_close(squared[task, q, k], -(difference @ difference))
                lengths = query[task, q].norm() * means[task, k].norm()
                torch.testing.assert_close(angle[task, q, k], query[task, q] @ means[task, k] / lengths)
                inverse = torch.linalg.inv(covariance[task, k])
                torch.testing.assert_close(white[task, q, k], -0.5 * difference @ inverse @ difference)


def test_squared_euclidean_keeps_its_digits_far_from_the_origin() -> None:
    query, means = torch.randn(7, 5), torch.randn(3, 5)
    expected = squared_euclidean(query.double(), means.double())
    # 1000 is added in float32, which moves each coordinate by up to 3e-5.
    found = squared_euclidean(query + 1000, means + 1000)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2e-3)


def test_mahalanobis_under_the_identity_is_half_the_squared_distance() -> None:
    query, means = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4)
    torch.testing.assert_close(mahalanobis(query, means, identity), squared_euclidean(query, means) / 2)


def test_class_covariances_equal_numpy_s() -> None:
    features = torch.randn(2, 7, 3, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 0, 2, 0, 1, 0], [2, 2, 2, 1, 1, 1, 0]])
    found = class_covariances(features, labels, 3)
    for task in range(2):
        of_task = features[task].T.cov()
        for label in range(3):
            members = features[task][labels[task] == label]
            of_class = members.T.cov() if len(members) > 1 else torch.zeros(3, 3, dtype=torch.float64)
            share = len(members) / (len(members) + 1)
            expected = share * of_class + (1 - share) * of_task + torch.eye(3, dtype=torch.float64)
            torch.testing.assert_close(found[task, label], expected)


def test_class_covariances_of_one_example_are_the_identity() -> None:
    found = class_covariances(torch.randn(1, 1, 3), torch.tensor([[0]]), 1)
    assert torch.equal(found[0, 0], torch.eye(3))


def test_cosine_of_zero_vectors_is_zero_with_a_finite_gradient() -> None:
    query = torch.zeros(2, 3, requires_grad=True)
    means = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], requires_grad=True)
    similarity = cosine(query, means)
    assert torch.equal(similarity, torch.zeros(2, 2))
    similarity.sum().backward()
    for tensor in (query, means):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() <= 2


def test_unit_vectors_have_length_one_at_any_scale() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    for scale in (1e-6, 1.0, 1e150):
        torch.testing.assert_close(unit(scale * x), unit(x))
    torch.testing.assert_close(unit(x).norm(dim=1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("similarity", [squared_euclidean, cosine])
def test_gradients_of_distances(similarity: object) -> None:
    inputs = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2)]
    assert torch.autograd.gradcheck(similarity, inputs)


@pytest.mark.parametrize("distance", ["squared-euclidean", "cosine", "mahalanobis"])
def test_a_network_scores_by_the_distance_to_sorted_prototypes(distance: str) -> None:
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    support_y = torch.tensor([[30, -2, 30, 8, 8, -2]])
    query_y = torch.tensor([[8, 30, -2]])
    learner = PrototypicalNetwork(torch.nn.Identity(), distance=distance, temperature=2.0).double()
    found = learner.predict(Episodes(x[:, :6], support_y, x[:, 6:], query_y))[0]
    means = by_class(x[0, :6], support_y[0])
    if distance == "mahalanobis":
        factors = torch.linalg.cholesky(class_covariances(x[:, :6], label_ranks(support_y)[0], 3))
        expected = mahalanobis(x[:, 6:], means[None], factors)[0]
    else:
        expected = (cosine if distance == "cosine" else squared_euclidean)(x[0, 6:], means)
    torch.testing.assert_close(found, expected / 2)
