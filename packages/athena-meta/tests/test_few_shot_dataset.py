"""Images of many classes: numbering, fetching, selecting, files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from athena_meta import FewShotDataset

NAMES = ["b", "a", "b", "c", "a", "b"]


def dataset(**options) -> FewShotDataset:
    images = torch.arange(6 * 2 * 3, dtype=torch.uint8).view(6, 2, 3)
    return FewShotDataset(images, NAMES, **options)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "names"),
    [
        (NAMES, None, [1, 0, 1, 2, 0, 1], ("a", "b", "c")),
        (NAMES, ("c", "b", "a"), [1, 2, 1, 0, 2, 1], ("c", "b", "a")),
        ([9, 7, 9, 30, 7, 9], None, [1, 0, 1, 2, 0, 1], ("7", "9", "30")),
        (torch.tensor([1, 0, 1, 2, 0, 1]), ("x", "y", "z"), [1, 0, 1, 2, 0, 1], ("x", "y", "z")),
        (
            np.array([1, 0, 1, 0, 0, 1], np.int32),
            ("x", "y", "unused"),
            [1, 0, 1, 0, 0, 1],
            ("x", "y", "unused"),
        ),
        (np.array(NAMES), None, [1, 0, 1, 2, 0, 1], ("a", "b", "c")),
    ],
)
def test_labels_are_numbered(labels, classes, numbers, names) -> None:
    data = FewShotDataset(torch.zeros(6, 1), labels, classes=classes)
    assert data.labels.tolist() == numbers
    assert data.labels.dtype == torch.int64
    assert data.classes == names
    assert data.counts.tolist() == [numbers.count(number) for number in range(len(names))]
    for number, name in enumerate(names):
        expected = [place for place, label in enumerate(numbers) if label == number]
        assert data.index_of(name).tolist() == expected


@pytest.mark.parametrize("shape", [(), (0,), (1,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_fetch_is_indexing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (6, 2, 3)).to(dtype)
    data = FewShotDataset(images, NAMES)
    index = torch.randint(0, 6, shape)
    expected = images[index].float() / 255 if dtype == torch.uint8 else images[index]
    assert data.fetch(index).dtype == expected.dtype
    torch.testing.assert_close(data.fetch(index), expected, rtol=1.2e-7, atol=0)  # one unit in the last place
    assert torch.equal(data.raw(index), images[index])


def test_features_that_require_a_gradient_are_fetched_without() -> None:
    data = FewShotDataset(torch.rand(6, 2, requires_grad=True), NAMES)
    assert not data.fetch(torch.tensor([1, 2])).requires_grad


def test_white_is_one_and_black_is_zero() -> None:
    data = FewShotDataset(torch.tensor([0, 255], dtype=torch.uint8), [0, 1])
    assert data.fetch(torch.tensor([0, 1])).tolist() == [0, 1]


def test_images_without_axes_and_strided_ones_are_fetched() -> None:
    scalars = torch.rand(6)
    assert torch.equal(FewShotDataset(scalars, NAMES).fetch(torch.tensor([[3, 1]])), scalars[[3, 1]][None])
    strided = torch.rand(3, 6).t()
    assert torch.equal(FewShotDataset(strided, NAMES).fetch(torch.tensor([5, 0])), strided[[5, 0]])


def test_a_fetched_image_is_a_copy() -> None:
    data = FewShotDataset(torch.zeros(6, 2), NAMES)
    data.fetch(torch.tensor([0, 1])).fill_(9)
    data.fetch(torch.tensor(2)).fill_(9)
    assert not data.images.any()


def test_transform_gets_a_batch_of_floats_and_may_change_the_shape() -> None:
    seen = []

    def transform(images: Tensor) -> Tensor:
        seen.append((images.shape, images.dtype))
        return images.flatten(1)[:, :4] * 2

    data = dataset(transform=transform)
    fetched = data.fetch(torch.tensor([[0, 1, 2], [5, 4, 3]]))
    assert seen == [(torch.Size([6, 2, 3]), torch.float32)]
    plain = dataset().fetch(torch.tensor([[0, 1, 2], [5, 4, 3]]))
    assert torch.equal(fetched, plain.flatten(2)[..., :4] * 2)


def test_it_is_a_dataset_of_single_images() -> None:
    data = dataset()
    image, label = data[3]
    assert torch.equal(image, data.fetch(torch.tensor(3)))
    assert label == 2
    assert len(list(data)) == len(data) == 6
    with pytest.raises(IndexError, match=r"`index` must lie in \[0, 5\]; got 6"):
        data[6]


def test_select_keeps_images_of_its_classes_and_shares_memory() -> None:
    data = dataset()
    part = data.select(["c", "b"])
    assert part.classes == ("c", "b")
    assert part.labels.tolist() == [1, 1, 0, 1]
    assert part.images.data_ptr() == data.images.data_ptr()
    assert torch.equal(part.raw(torch.arange(4)), data.images[[0, 2, 3, 5]])
    again = part.select(["c"])
    assert torch.equal(again.raw(torch.tensor(0)), data.images[3])
    assert len(data) == 6


def test_select_refuses() -> None:
    with pytest.raises(KeyError, match="`classes` must be among the 3 of the data; got 'q'"):
        dataset().select(["a", "q"])
    with pytest.raises(ValueError, match="`classes` must name each class once; got 'a' twice"):
        dataset().select(["a", "a"])
    with pytest.raises(ValueError, match="`classes` must name at least one class"):
        dataset().select([])
    with pytest.raises(KeyError, match="`name` must be one of 3 classes; got 'q'"):
        dataset().index_of("q")


@pytest.mark.parametrize(
    ("images", "labels", "classes", "error", "match"),
    [
        (torch.zeros(3, 2), [0, 1], None, ValueError, "got 2 labels for 3 images"),
        (torch.zeros(3, 2), [], None, ValueError, "got 0 labels for 3 images"),
        (torch.zeros(0, 2), [], None, ValueError, r"at least one image; got shape \(0, 2\)"),
        (torch.tensor(1.0), [0], None, ValueError, r"at least one image; got shape \(\)"),
        (torch.zeros(2, 2, dtype=torch.int64), [0, 1], None, TypeError, "`images` must be uint8 or floating"),
        (
            torch.zeros(2, 2, device="meta"),
            [0, 1],
            None,
            ValueError,
            "`images` must be in main memory; got .* meta",
        ),
        (torch.zeros(2, 2), [0.5, 1.0], None, ValueError, "one whole number or name an image; got float64"),
        (torch.zeros(2, 2), torch.zeros(2, 1).long(), None, ValueError, r"got int64 of shape \(2, 1\)"),
        (torch.zeros(2, 2), [0, 2], ("a", "b"), ValueError, r"`labels` must lie in \[0, 1\].* got 0 to 2"),
        (torch.zeros(2, 2), [-1, 0], ("a", "b"), ValueError, "got -1 to 0"),
        (torch.zeros(2, 2), ["a", "q"], ("a", "b"), ValueError, "`labels` must be among `classes`; got 'q'"),
        (torch.zeros(2, 2), [0, 1], ("a", "a"), ValueError, "got 'a' twice"),
    ],
)
def test_bad_data_are_refused(images, labels, classes, error, match) -> None:
    with pytest.raises(error, match=match):
        FewShotDataset(images, labels, classes=classes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_files_round_trip(tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athena_meta._few_shot_files.AT_ONCE", 50)  # bytes: several writes
    images = torch.randint(0, 256, (6, 2, 3)).to(dtype)
    data = FewShotDataset(images, NAMES, classes=["c", "é", "b", "a"])
    data.save(tmp_path / "deep" / "data")
    opened = FewShotDataset.memory_map(tmp_path / "deep" / "data", transform=lambda images: images + 1)
    assert opened.classes == data.classes
    assert torch.equal(opened.labels, data.labels)
    assert torch.equal(opened.raw(torch.arange(6)), images)
    assert torch.equal(opened.fetch(torch.arange(6)), data.fetch(torch.arange(6)) + 1)
    assert sorted(file.name for file in (tmp_path / "deep").iterdir()) == ["data"]
    # Any program can read them, without unpickling.
    assert np.array_equal(
        np.load(tmp_path / "deep" / "data" / "images.npy", allow_pickle=False), images.numpy()
    )


def test_what_numpy_lacks_is_not_saved(tmp_path: Path) -> None:
    data = FewShotDataset(torch.rand(2, 3).bfloat16(), ["a", "b"])
    with pytest.raises(TypeError, match=r"`images` must be of a dtype of NumPy's.*bfloat16.*float32"):
        data.save(tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_a_selection_is_saved_alone(tmp_path: Path) -> None:
    dataset().select(["c", "b"]).save(tmp_path / "part")
    opened = FewShotDataset.memory_map(tmp_path / "part")
    assert len(opened) == 4
    assert opened.classes == ("c", "b")
    part = opened.select(["b"])
    assert torch.equal(part.raw(torch.arange(3)), dataset().images[[0, 2, 5]])


def test_a_memory_map_goes_to_a_worker_without_its_images(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (1000, 50, 50), dtype=torch.uint8)
    data = FewShotDataset(images, torch.arange(1000) % 10)
    data.save(tmp_path / "data")
    part = FewShotDataset.memory_map(tmp_path / "data").select(["3", "5"])
    sent = pickle.dumps(part)
    assert len(sent) < 50_000
    received = pickle.loads(sent)
    assert torch.equal(received.fetch(torch.arange(200)), part.fetch(torch.arange(200)))
    assert len(pickle.dumps(data)) > images.numel()
    assert torch.equal(pickle.loads(pickle.dumps(data)).images, images)


def test_writing_to_a_map_leaves_the_file(tmp_path: Path) -> None:
    dataset().save(tmp_path / "data")
    FewShotDataset.memory_map(tmp_path / "data").images.fill_(7)
    assert torch.equal(FewShotDataset.memory_map(tmp_path / "data").images, dataset().images)


def test_a_read_only_array_is_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", dataset().images.numpy())
    data = FewShotDataset(np.load(tmp_path / "images.npy", mmap_mode="r"), NAMES)
    assert torch.equal(data.raw(torch.arange(6)), dataset().images)


def test_folders_that_are_not_data_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match=r"classes.json' is missing. Write it with"):
        FewShotDataset.memory_map(data)
    dataset().save(data)
    with pytest.raises(FileExistsError, match="`folder` must not exist yet"):
        dataset().save(data)
    (data / "classes.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="must be a list of names"):
        FewShotDataset.memory_map(data)
    (data / "classes.json").write_text('["a", "b", "c"]')
    np.save(data / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        FewShotDataset.memory_map(data)


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(OSError, match="no space left"):
        dataset().save(tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_repr_says_what_it_holds() -> None:
    assert repr(dataset()) == "FewShotDataset(6 images of 3 classes, 2x3)"
