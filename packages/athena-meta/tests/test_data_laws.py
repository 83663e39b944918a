"""The laws of task families and of few-shot data fail where they should."""

from __future__ import annotations

import pytest
import torch

from athena_core import Component
from athena_meta import Episodes, FewShotDataset, Sinusoids
from athena_meta._few_shot_data_laws import few_shot_data_checks
from athena_meta._task_family_laws import task_family_checks

COMPONENT = Component("task-family", "broken", "tests:broken", "Breaks a law")


class OneShort(Sinusoids):
    def draw(self, first, count):
        x, y, *query = super().draw(first, count)[:4]
        return Episodes(x[:, 1:], y[:, 1:], *query)


class Global(Sinusoids):
    def draw(self, first, count):
        return super().draw(int(torch.randint(100, ())), count)


class Alike(Sinusoids):
    def draw(self, first, count):
        x, y, _, _, _ = super().draw(first, count)
        return Episodes(x, y, x, y)


class ByShots(Sinusoids):
    def draw(self, first, count):
        return super().draw(first + self.k_shot, count)


class OtherFunction(Sinusoids):
    def draw(self, first, count):
        episodes = super().draw(first, count)
        return episodes._replace(support_y=2 * episodes.support_y)


class TooLow(Sinusoids):
    @property
    def unadapted_error(self):
        return super().unadapted_error - 0.2


@pytest.mark.parametrize(
    ("family", "law"),
    [
        (OneShort, "draws have the shots, queries and tasks asked for"),
        (Global, "a task is the same alone and in a batch"),
        (Alike, "tasks, seeds, supports and queries differ"),
        (ByShots, "the shots change no task"),
        (OtherFunction, "targets are those of the parameters"),
        (TooLow, "the floors are the expected errors"),
    ],
)
def test_families(family, law):
    checks = {check.name: check for check in task_family_checks(COMPONENT, family)}
    with pytest.raises(AssertionError):
        checks[law]()


class Noise(FewShotDataset):
    """Keeps all laws but one: made twice, it is another."""

    def __init__(self, split="train", *, repeated=False):
        images = torch.rand(8, 1, 4, 4)
        if repeated:
            images[1] = images[0]
        super().__init__(images, torch.arange(8) // 2, classes=[f"{split} {number}" for number in range(4)])


class Twice(Noise):
    def __init__(self, split="train"):
        super().__init__(split, repeated=True)


class Single(Noise):
    def __init__(self, split="train"):
        super().__init__(split)
        self.counts, self.starts = self.counts - 1, self.starts + 1


class Doubles(Noise):
    def fetch(self, index):
        return super().fetch(index).double()


class Sorted(Noise):
    def select(self, classes):
        return super().select(sorted(classes))


class Losing(Noise):
    def __getstate__(self):
        return self.__dict__ | {"images": self.images.flip(0)}


class Same(Noise):
    def __init__(self, split="train"):
        super().__init__("any")


@pytest.mark.parametrize(
    ("data", "law"),
    [
        (Single, "every image is of one class, and no class is too small"),
        (Noise, "made twice, it is the same"),
        (Doubles, "images are fetched as floats by an index of any shape"),
        (Twice, "no image occurs twice"),
        (Sorted, "selected classes keep their images"),
        (Losing, "a copy in another process is the same"),
        (Twice, "support and query share no image"),
        (Same, "train and test share no class"),
    ],
)
def test_data(data, law):
    checks = {check.name: check for check in few_shot_data_checks(COMPONENT, data)}
    with pytest.raises(AssertionError):
        checks[law]()
    if data is not Noise:
        {check.name: check for check in few_shot_data_checks(COMPONENT, Noise)}[law]()
