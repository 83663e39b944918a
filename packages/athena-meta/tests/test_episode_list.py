"""A written list of episodes is the same for every program that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from athena_meta import EpisodeList, EpisodeSampler, FewShotDataset

NAMES = [f"klasse é{number}" for number in range(6)]


def dataset(labels: torch.Tensor | None = None, classes: list[str] = NAMES) -> FewShotDataset:
    images = torch.arange(60.0).view(60, 1, 1)
    return FewShotDataset(images, torch.arange(60) % 6 if labels is None else labels, classes=classes)


@pytest.mark.parametrize("options", [{}, {"k_shot": [1, 2, 1, 3, 1]}])
def test_read_equals_written(tmp_path: Path, options: dict) -> None:
    sampler = EpisodeSampler(dataset(), n_query=3, seed=1, **options)
    EpisodeList.of(sampler, episodes=7).save(tmp_path / "list.json")
    read = EpisodeList.load(tmp_path / "list.json", dataset())
    assert read.length == 7
    for ours, other in zip(read.draw(2, 4), sampler.draw(2, 4), strict=True):
        assert torch.equal(ours, other)
    assert [batch.tasks for batch in read.batches(3)] == [3, 3, 1]
    assert read.draw(7, 0).tasks == 0


def test_any_program_can_read_it(tmp_path: Path) -> None:
    sampler = EpisodeSampler(dataset(), n_way=2, n_query=1, seed=1)
    EpisodeList.of(sampler, episodes=3).save(tmp_path / "list.json")
    written = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))
    episodes = sampler.draw(0, 3)
    for task, episode in enumerate(written["episodes"]):
        assert episode["classes"] == [NAMES[number] for number in episodes.classes[task]]
        assert episode["support"] == episodes.support_x[task].flatten().tolist()
        assert episode["query_y"] == [0, 1]


def test_two_domains_are_written_and_read(tmp_path: Path) -> None:
    other = FewShotDataset(
        torch.arange(100.0, 130.0)[:, None, None], torch.arange(30) % 6, classes=NAMES[::-1]
    )
    sampler = EpisodeSampler(dataset(), n_query=3, query_dataset=other)
    EpisodeList.of(sampler, episodes=4).save(tmp_path / "list.json")
    read = EpisodeList.load(tmp_path / "list.json", dataset(), query_dataset=other)
    for ours, theirs in zip(read.draw(0, 4), sampler.draw(0, 4), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="`dataset` must have the labels that"):
        EpisodeList.load(tmp_path / "list.json", dataset())


def test_other_data_are_refused(tmp_path: Path) -> None:
    EpisodeList.of(EpisodeSampler(dataset(), n_query=3), episodes=2).save(tmp_path / "list.json")
    for other in (dataset(torch.arange(60) % 5), dataset(classes=NAMES[::-1])):
        with pytest.raises(
            ValueError, match=r"got FewShotDataset\(60 images of 6 classes, 1x1\). Load the data"
        ):
            EpisodeList.load(tmp_path / "list.json", other)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="`file` must be a list of episodes of format 1"):
        EpisodeList.load(tmp_path / "other.json", dataset())
    with pytest.raises(FileNotFoundError):
        EpisodeList.load(tmp_path / "none.json", dataset())


def test_episodes_beyond_the_end_are_refused() -> None:
    episodes = EpisodeList.of(EpisodeSampler(dataset(), n_query=3), episodes=5)
    for first, count in ((3, 3), (-1, 2), (6, 0)):
        with pytest.raises(ValueError, match=rf"within the 5 episodes of the list; got {first} and {count}"):
            episodes.draw(first, count)


def test_images_of_another_class_are_refused() -> None:
    chosen = EpisodeSampler(dataset(), n_query=3).select(0, 2)
    swapped = chosen.support.clone()
    swapped[1, 0] = (swapped[1, 0] + 1) % 60
    with pytest.raises(
        ValueError, match=r"`support` must be of the classes .* of episode 1 is of class 'klasse"
    ):
        EpisodeList(dataset(), chosen._replace(support=swapped))
    with pytest.raises(
        ValueError, match=r"`query` must lie in \[0, 59\], the images of the data; got 0 to 60"
    ):
        EpisodeList(dataset(), chosen._replace(query=torch.tensor([[0], [60]])))
