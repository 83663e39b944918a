"""Large batches give in pieces what they give at once."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from athena_explore import Encoder, Features, Moments, RunningMoments, _features, _moments, _pieces


@pytest.mark.parametrize("rows", [0, 1, 5, 6])
def test_pieces_are_all_rows_in_order(rows: int) -> None:
    observations = {"a": torch.arange(rows), "b": torch.randn(rows, 4)}
    cut = _pieces.pieces(observations, numbers=15)  # 5 numbers a row
    assert [len(piece["a"]) for piece in cut] == ([3] * (rows // 3) + [rows % 3] * (rows % 3 > 0) or [0])
    assert torch.equal(torch.cat([piece["b"] for piece in cut]), observations["b"])


def test_rows_that_are_too_large_come_one_by_one() -> None:
    assert len(_pieces.pieces(torch.zeros(3, 9), numbers=4)) == 3


@pytest.mark.parametrize("shape", [(40, 44, 3), (3, 40, 44)])
def test_images_are_encoded_alike_with_gradients_and_in_pieces(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Features(spaces.Box(0, 255, shape, "uint8"), 5)
    images = torch.randint(256, (7, *shape), dtype=torch.uint8)
    with_gradients = features(images)
    cut = lambda value: _pieces.pieces(value, numbers=2 * 40 * 44 * 3)  # noqa: E731
    monkeypatch.setattr(_features, "pieces", cut)
    with torch.no_grad():
        torch.testing.assert_close(features(images), with_gradients, rtol=1e-4, atol=1e-5)
    with_gradients.sum().backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


def test_both_layouts_of_an_image_train_alike() -> None:
    first = Encoder(spaces.Box(0, 255, (3, 40, 44), "uint8"), 5)
    last = Encoder(spaces.Box(0, 255, (40, 44, 3), "uint8"), 5)
    last.load_state_dict(first.state_dict())
    images = torch.randint(256, (7, 3, 40, 44), dtype=torch.uint8)
    for encoder, value in ((first, images), (last, images.movedim(1, -1))):
        encoder(value).square().sum().backward()
    for one, other in zip(first.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_moments_in_pieces_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 100 + torch.randn(50, 3)
    monkeypatch.setattr(_moments, "pieces", lambda value: _pieces.pieces(value, numbers=21))
    moments = RunningMoments((3,))
    moments.update(samples)
    assert int(moments.count) == 50
    torch.testing.assert_close(moments.mean, samples.mean(0))
    torch.testing.assert_close(moments.variance, samples.var(0, correction=0), rtol=1e-4, atol=1e-5)


def test_moments_of_bytes_are_those_of_their_floats() -> None:
    images = torch.randint(256, (40, 3, 5), dtype=torch.uint8)
    images[:, 1] = 7
    before = images.clone()
    found, expected = Moments.of(images), Moments.of(images.double())
    torch.testing.assert_close(found.mean.double(), expected.mean)
    torch.testing.assert_close(found.variance.double(), expected.variance)
    assert found.variance[1].eq(0).all()  # exactly: such a feature is only centred
    assert torch.equal(images, before)


def test_gradients_in_pieces_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features(spaces.Box(0, 255, (40, 44, 3), "uint8"), 5)
    images = torch.randint(256, (7, 40, 44, 3), dtype=torch.uint8)
    at_once = torch.autograd.grad(features(images).square().sum(), list(features.parameters()))
    monkeypatch.setattr(_features, "pieces", lambda value: _pieces.pieces(value, numbers=2 * 40 * 44 * 3))
    features(images).square().sum().backward()
    for parameter, gradient in zip(features.parameters(), at_once, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)
