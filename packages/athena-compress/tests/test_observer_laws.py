"""The laws of observers fail where they should."""

from __future__ import annotations

import pytest
import torch

from athena_compress import MinMaxObserver, MovingAverageObserver
from athena_compress._observer_laws import observer_checks
from athena_core import Component

COMPONENT = Component("observer", "broken", "tests:broken", "Breaks a law")


class Changing(MinMaxObserver):
    """Rounds what goes through it."""

    def forward(self, x):
        return super().forward(x).round()


class Training(MinMaxObserver):
    """Watches in training alone."""

    def forward(self, x):
        return super().forward(x) if self.training else x


class Unsaved(MinMaxObserver):
    """Loads nothing into a fresh one (pytorch#33830)."""

    def _load_from_state_dict(self, *args):
        pass


class Ordered(MovingAverageObserver):
    """Promises what an average cannot keep."""

    COMMUTES = True


class Lenient(MinMaxObserver):
    """Takes NaN, as most ranges do."""

    def forward(self, x):
        return super().forward(x.nan_to_num())


class Unfloored(MinMaxObserver):
    """Has scale 0 for zeros."""

    def qparams(self, grid):
        scale, zero_point = super().qparams(grid)
        return torch.where(scale < 1e-6, 0, scale), zero_point


class Misfit(MinMaxObserver):
    """Leaves the zero point as it comes."""

    def qparams(self, grid):
        scale, zero_point = super().qparams(grid)
        return scale, zero_point + 200


class Sharing(MinMaxObserver):
    """Shares its state with its copies."""

    def observe(self, rows, low, high):
        if self.is_empty:
            super().observe(rows, low, high)
        else:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))

    def __deepcopy__(self, memo):
        copied = type(self)(axis=self.axis)
        copied.low, copied.high = self.low, self.high
        return copied


class Guessing(MinMaxObserver):
    """Has a scale before any data."""

    def qparams(self, grid):
        return (
            (torch.ones(()), torch.zeros((), dtype=torch.int32)) if self.is_empty else super().qparams(grid)
        )


def failures(target) -> set[str]:
    failed = set()
    for check in observer_checks(COMPONENT, target):
        try:
            check()
        except (AssertionError, ValueError):
            failed.add(check.name)
    return failed


@pytest.mark.parametrize(
    ("observer", "law"),
    [
        (Changing, "values and gradients go through unchanged"),
        (Training, "values and gradients go through unchanged"),
        (Unsaved, "a fresh one resumes from the state, a range a channel"),
        (Ordered, "order does not matter, where so promised, one range"),
        (Lenient, "NaN, infinity and missing data are refused"),
        (Guessing, "NaN, infinity and missing data are refused"),
        (Unfloored, "constant, zero, tiny, huge and strided values have a scale"),
        (Misfit, "scales and zero points fit every grid, one range"),
        (Sharing, "a deep copy goes its own way"),
    ],
)
def test_a_broken_observer_fails_its_law(observer, law):
    assert law in failures(observer)


def test_ours_obey_them():
    assert failures(MinMaxObserver) == set()
