"""Turned classes, and pitfall 17: splits are disjoint including rotations."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from athena_meta import EpisodeSampler, FewShotDataset, RotatedDataset


def dataset(channels: bool = False) -> FewShotDataset:
    shape = (12, 3, 4, 4) if channels else (12, 4, 4)
    return FewShotDataset(torch.randint(0, 256, shape, dtype=torch.uint8), [f"c{i % 3}" for i in range(12)])


@pytest.mark.parametrize("channels", [False, True])
def test_turned_images_are_rotations(channels: bool) -> None:
    data = dataset(channels)
    turned = RotatedDataset(data)
    assert len(turned) == 48
    assert len(turned.classes) == 12
    for turn in range(4):
        for name in data.classes:
            own = f"{name} turned {90 * turn}" if turn else name
            images = turned.raw(turned.index_of(own))
            assert torch.equal(images, data.raw(data.index_of(name)).rot90(turn, (-2, -1)))
    index = torch.randint(0, 48, (2, 3))
    assert torch.equal(turned.raw(index)[1, 2], turned.raw(index[1, 2]))
    assert torch.equal(data.images, turned.dataset.images)


def test_the_transform_sees_turned_images() -> None:
    data = FewShotDataset(torch.rand(2, 3, 3), ["a", "b"], transform=lambda images: images[:, 0])
    turned = RotatedDataset(data)
    assert torch.equal(turned.fetch(torch.tensor([3])), data.images[1].rot90(1, (-2, -1))[:1])


def test_turns_of_one_class_are_never_parted() -> None:
    turned = RotatedDataset(dataset())
    with pytest.raises(ValueError, match=r"all turns of a class or none, .* got 1 of 'c1'. Select first"):
        turned.select(["c1"])
    family = [name for name in turned.classes if name.startswith("c1")]
    part = turned.select(reversed(family))
    assert part.classes == tuple(reversed(family))
    assert torch.equal(part.raw(part.index_of("c1 turned 90")), turned.raw(turned.index_of("c1 turned 90")))


def test_splitting_first_and_turning_then_is_disjoint() -> None:
    data = dataset()
    train, test = RotatedDataset(data.select(["c0", "c1"])), RotatedDataset(data.select(["c2"]))
    assert not set(train.classes) & set(test.classes)
    orbit = {image.numpy().tobytes() for image in train.raw(torch.arange(len(train)))}
    assert not orbit & {image.numpy().tobytes() for image in test.raw(torch.arange(len(test)))}


def test_episodes_are_drawn_of_turned_classes() -> None:
    turned = RotatedDataset(dataset())
    episodes = EpisodeSampler(turned, n_way=12, k_shot=1, n_query=3).draw(0, 2)
    assert episodes.classes is not None
    assert sorted(episodes.classes[0].tolist()) == list(range(12))


def test_files_and_workers(tmp_path: Path) -> None:
    dataset().save(tmp_path / "data")
    turned = RotatedDataset(FewShotDataset.memory_map(tmp_path / "data"))
    assert torch.equal(pickle.loads(pickle.dumps(turned)).raw(torch.arange(48)), turned.raw(torch.arange(48)))
    turned.save(tmp_path / "turned")
    assert torch.equal(FewShotDataset.memory_map(tmp_path / "turned").images, turned.raw(torch.arange(48)))


def test_what_cannot_be_turned_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`dataset` must hold square images to be turned; got shape \(2, 3\)"
    ):
        RotatedDataset(FewShotDataset(torch.rand(2, 2, 3), [0, 1]))
    with pytest.raises(ValueError, match="`dataset` must not be turned already"):
        RotatedDataset(RotatedDataset(dataset()))
