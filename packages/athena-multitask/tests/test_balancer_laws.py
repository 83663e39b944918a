"""The laws (pitfall 4) find what is wrong with a balancer; third parties' balancers are judged by them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from athena_core.testing import Check
from athena_multitask import Balancer
from athena_multitask._balancer_laws import balancer_checks


class Mean(Balancer):
    """A balancer of somebody else's, right in what it claims."""

    laws: ClassVar[frozenset[str]] = frozenset({"permutation", "scaling"})

    def weights(self, gramian: Tensor) -> Tensor:
        if not gramian.isfinite().all():
            raise ValueError("`gramian` must be finite; got NaN.")
        return gramian.new_full(gramian.shape[:1], 1 / len(gramian))


class First(Mean):
    def weights(self, gramian: Tensor) -> Tensor:
        return super().weights(gramian) * torch.arange(len(gramian), 0, -1)


class Normed(Mean):
    def weights(self, gramian: Tensor) -> Tensor:
        return super().weights(gramian) / (1 + gramian.diagonal().sqrt())


class DividesByZero(Mean):
    def weights(self, gramian: Tensor) -> Tensor:
        return super().weights(gramian) / gramian.diagonal() * gramian.diagonal()


class TakesNaN(Mean):
    def weights(self, gramian: Tensor) -> Tensor:
        return super().weights(gramian.nan_to_num())


class Backwards(Mean):
    def weights(self, gramian: Tensor) -> Tensor:
        return -super().weights(gramian)


class InPlace(Mean):
    def direction(self, matrix: Tensor) -> Tensor:
        return matrix.mul_(1 / len(matrix)).sum(0) + super().direction(matrix * 0)


class OtherDirection(Mean):
    def direction(self, matrix: Tensor) -> Tensor:
        return 2 * super().direction(matrix)


class Forgets(Mean):
    def __init__(self) -> None:
        self.step = 0

    def weights(self, gramian: Tensor) -> Tensor:
        self.step += 1
        return super().weights(gramian) * self.step


class Pickled(Mean):
    def state_dict(self) -> dict[str, Any]:
        return {"me": self}


class ClaimsNoConflict(Mean):
    laws: ClassVar[frozenset[str]] = frozenset({"non-conflict"})


class ClaimsStationarity(Mean):
    laws: ClassVar[frozenset[str]] = frozenset({"stationary"})


class ClaimsWhatIsNoLaw(Mean):
    laws: ClassVar[frozenset[str]] = frozenset({"non-conflicting"})


def checks(target: type[Balancer]) -> list[Check]:
    return list(balancer_checks(None, target))


@pytest.mark.parametrize("check", checks(Mean), ids=lambda check: check.name)
def test_a_right_one_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("target", "law"),
    [
        (First, "its claim: permutation"),
        (Normed, "its claim: scaling"),
        (DividesByZero, "its direction is finite"),
        (TakesNaN, "it refuses gradients that are not finite"),
        (Backwards, "of one task it keeps the gradient"),
        (InPlace, "it changes nothing that is given"),
        (OtherDirection, "its weights give its direction"),
        (Forgets, "its state is all that it remembers"),
        (Pickled, "its state is all that it remembers"),
        (ClaimsNoConflict, "its claim: non-conflict"),
        (ClaimsStationarity, "its claim: stationary"),
        (ClaimsWhatIsNoLaw, "its claim: non-conflicting"),
    ],
)
def test_a_wrong_one_is_found(target: type[Balancer], law: str) -> None:
    failed = []
    for check in checks(target):
        try:
            check()
        except AssertionError:
            failed.append(check.name)
    assert law in failed
