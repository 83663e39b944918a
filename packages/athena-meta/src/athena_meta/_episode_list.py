"""A fixed list of episodes, for two programs to be judged by the same tasks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from athena_meta._episode_sampler import EpisodeSampler, Selection, fetched
from athena_meta._episode_source import EpisodeSource
from athena_meta._episodes import Episodes
from athena_meta._few_shot_dataset import FewShotDataset

_FORMAT = 1


class EpisodeList(EpisodeSource):
    r"""Episodes that are written down: which classes and images each of them has.

    The file is JSON: for each episode the names of its classes, the numbers of its support and query images
    in the data, and their labels, which count the names. Any program that has the images can read it.

    Args:
        dataset: where support images come from.
        chosen: classes and images of each episode, from :meth:`EpisodeSampler.select`.
        query_dataset: where query images come from, if from elsewhere.

    Raises ValueError for an image that the data do not have, or that is not of its class.

    >>> from tempfile import mkdtemp
    >>> from athena_meta import EpisodeSampler, FewShotDataset
    >>> data = FewShotDataset(torch.rand(60, 8), torch.arange(60) % 6)
    >>> sampler = EpisodeSampler(data, n_query=3, seed=1)
    >>> file = Path(mkdtemp()) / "episodes.json"
    >>> EpisodeList.of(sampler, episodes=10).save(file)
    >>> episodes = EpisodeList.load(file, data)
    >>> episodes.length, torch.equal(episodes.draw(4, 1).query_x, sampler.draw(4, 1).query_x)
    (10, True)
    """

    def __init__(
        self, dataset: FewShotDataset, chosen: Selection, *, query_dataset: FewShotDataset | None = None
    ) -> None:
        self.dataset, self.chosen = dataset, chosen
        self.query_dataset = dataset if query_dataset is None else query_dataset
        self.length = len(chosen.classes)
        _check(self.dataset, self.query_dataset, chosen)

    @classmethod
    def of(cls, sampler: EpisodeSampler, *, episodes: int) -> EpisodeList:
        """The first episodes of a sampler."""
        other = None if sampler.query_dataset is sampler.dataset else sampler.query_dataset
        return cls(sampler.dataset, sampler.select(0, episodes), query_dataset=other)

    def draw(self, first: int, count: int) -> Episodes:
        """The episodes ``first`` to ``first + count - 1``. Raises ValueError for those beyond the end."""
        if not 0 <= first <= first + count <= len(self.chosen.classes):
            raise ValueError(
                f"`first` and `count` must lie within the {self.length} episodes of the list; got {first} "
                f"and {count}. Ask for fewer or make a longer list."
            )
        chosen = Selection(*(part[first : first + count] for part in self.chosen))
        return fetched(self.dataset, self.query_dataset, chosen)

    def save(self, file: Path | str) -> None:
        """Write the list as JSON."""
        names = self.dataset.classes
        episodes = [
            {"classes": [names[number] for number in classes]}
            | dict(zip(Selection._fields[1:], images_and_labels, strict=True))
            for classes, *images_and_labels in zip(*(part.tolist() for part in self.chosen), strict=True)
        ]
        data = [fingerprint(self.dataset), fingerprint(self.query_dataset)]
        lines = ",\n".join(json.dumps(episode, ensure_ascii=False) for episode in episodes)
        head = f'{{"format": {_FORMAT}, "data": {json.dumps(data)}, "episodes": [\n'
        Path(file).write_text(f"{head}{lines}\n]}}\n", encoding="utf-8")

    @classmethod
    def load(
        cls, file: Path | str, dataset: FewShotDataset, *, query_dataset: FewShotDataset | None = None
    ) -> EpisodeList:
        """Read a list, for the same data. Raises ValueError if labels or classes of the data are others."""
        try:
            read = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"`file` must be a list of episodes in JSON; {str(file)!r} is not: {error}. Save it again."
            ) from None
        if not isinstance(read, dict) or read.get("format") != _FORMAT:
            raise ValueError(f"`file` must be a list of episodes of format {_FORMAT}; {str(file)!r} is not.")
        for data, was in zip((dataset, query_dataset or dataset), read["data"], strict=True):
            if fingerprint(data) != was:
                raise ValueError(
                    f"`dataset` must have the labels that {str(file)!r} was made for; got {data!r}. Load the "
                    "data as it was then, or make a new list."
                )
        numbers = {name: number for number, name in enumerate(dataset.classes)}
        classes = [[numbers[name] for name in episode["classes"]] for episode in read["episodes"]]
        rest = ([episode[name] for episode in read["episodes"]] for name in Selection._fields[1:])
        chosen = Selection(*(torch.tensor(part) for part in (classes, *rest)))
        return cls(dataset, chosen, query_dataset=query_dataset)


def fingerprint(dataset: FewShotDataset) -> str:
    """A hash of the classes' names and the images' labels; to hash the images, all would be read."""
    names = json.dumps(dataset.classes).encode()
    return hashlib.sha256(names + dataset.labels.numpy().tobytes()).hexdigest()


def _check(dataset: FewShotDataset, query_dataset: FewShotDataset, chosen: Selection) -> None:
    """That every image is of the class which its label stands for."""
    sides = (
        ("support", dataset, chosen.support, chosen.support_y),
        ("query", query_dataset, chosen.query, chosen.query_y),
    )
    for side, data, images, labels in sides:
        if images.numel() and not 0 <= int(images.min()) <= int(images.max()) < len(data):
            raise ValueError(
                f"`{side}` must lie in [0, {len(data) - 1}], the images of the data; got "
                f"{int(images.min())} to {int(images.max())}. Give the data that the list was made for."
            )
        numbers = {name: number for number, name in enumerate(data.classes)}
        own = torch.tensor([numbers.get(name, -1) for name in dataset.classes])
        wrong = own[chosen.classes.gather(1, labels)] != data.labels[images]
        if wrong.any():
            task, place = (int(index) for index in wrong.nonzero()[0])
            image = int(images[task, place])
            raise ValueError(
                f"`{side}` must be of the classes that its labels stand for; image {image} of episode {task} "
                f"is of class {data.classes[int(data.labels[image])]!r}. Make the list again."
            )
