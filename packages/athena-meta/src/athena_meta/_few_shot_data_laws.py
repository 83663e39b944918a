"""The laws of few-shot data: what the conformance kit asks of each."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import torch

from athena_core import Component
from athena_core.testing import Check
from athena_meta._episode_sampler import EpisodeSampler
from athena_meta._few_shot_dataset import FewShotDataset

DataFactory = Callable[..., FewShotDataset]


def example_few_shot_data(target: DataFactory, **options: str) -> FewShotDataset:
    """The data as they are made without arguments, or in a folder to which ``target.write_example`` wrote."""
    if not hasattr(target, "write_example"):
        return target(**options)
    # Images are in memory once they are read, so that the files need not outlive this function.
    with tempfile.TemporaryDirectory() as folder:
        target.write_example(folder)  # type: ignore[attr-defined]
        return target(folder, **options)


def _raw(data: FewShotDataset, name: str) -> torch.Tensor:
    return data.raw(data.index_of(name))


def _classes_divide_the_images(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    assert len(data.classes) >= 2, f"{len(data.classes)} classes"
    assert len(set(data.classes)) == len(data.classes), "two classes of one name"
    found = torch.cat([data.index_of(name) for name in data.classes])
    assert torch.equal(found.sort().values, torch.arange(len(data))), "not every image is of one class"
    for number, name in enumerate(data.classes):
        assert len(data.index_of(name)) >= 2, f"class {name!r} has too few images for support and query"
        assert bool((data.labels[data.index_of(name)] == number).all()), f"labels of {name!r} differ"


def _is_the_same_again(target: DataFactory) -> None:
    first, second = example_few_shot_data(target), example_few_shot_data(target)
    assert first.classes == second.classes, "classes differ"
    assert torch.equal(first.labels, second.labels), "labels differ"
    index = torch.arange(len(first))
    assert torch.equal(first.raw(index), second.raw(index)), "images differ"


def _fetches_floats(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    index = torch.tensor([[0, len(data) - 1, 1], [1, 1, 0]])
    images = data.fetch(index)
    assert images.shape[:2] == index.shape, f"an index {tuple(index.shape)} gives {tuple(images.shape)}"
    assert images.dtype == torch.float32, f"images are {images.dtype}"
    assert bool(images.isfinite().all()), "a pixel is not finite"
    assert torch.equal(images[0, 0], images[1, 2]), "the same image differs by its place"
    assert torch.equal(data.fetch(index.flatten()), images.flatten(0, 1)), "the shape of the index matters"
    images.zero_()
    assert bool(data.fetch(index).any()), "what is fetched is the store itself"


def _images_differ(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    a, b = (_raw(data, name).flatten(1) for name in data.classes[:2])
    together = torch.cat([a, b])
    assert len(together.unique(dim=0)) == len(together), "an image occurs twice"


def _selects(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    names = (data.classes[-1], data.classes[0])
    part = data.select(names)
    assert part.classes == names, "the order of the classes is lost"
    for name in names:
        assert torch.equal(_raw(part, name), _raw(data, name)), f"the images of {name!r} differ"


def _goes_to_workers(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    for ours in (data, data.select(data.classes[:2])):
        other = copy.deepcopy(ours)  # by the state that a pickle has too
        assert other.classes == ours.classes, "classes differ"
        index = torch.arange(min(len(ours), 50))
        assert torch.equal(other.raw(index), ours.raw(index)), "images differ"


def _gives_episodes(target: DataFactory) -> None:
    data = example_few_shot_data(target)
    episodes = EpisodeSampler(data, n_way=2, k_shot=1, n_query=1, seed=0).draw(0, 4)
    flat = torch.cat([episodes.support_x, episodes.query_x], dim=1).flatten(2)
    for task in flat:
        assert len(task.unique(dim=0)) == 4, "support and query share an image"


def _splits_are_apart(target: DataFactory) -> None:
    if "split" not in inspect.signature(target).parameters:
        return
    train, test = (example_few_shot_data(target, split=split) for split in ("train", "test"))
    assert not set(train.classes) & set(test.classes), "a class is in train and in test"


def few_shot_data_checks(component: Component, target: DataFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of few-shot data."""
    laws = {
        "every image is of one class, and no class is too small": _classes_divide_the_images,
        "made twice, it is the same": _is_the_same_again,
        "images are fetched as floats by an index of any shape": _fetches_floats,
        "no image occurs twice": _images_differ,
        "selected classes keep their images": _selects,
        "a copy in another process is the same": _goes_to_workers,
        "support and query share no image": _gives_episodes,
        "train and test share no class": _splits_are_apart,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
