"""The laws of families of tasks: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from athena_core import Component
from athena_core.testing import Check
from athena_meta._episodes import Episodes
from athena_meta._regression_tasks import RegressionTasks

FamilyFactory = Callable[..., RegressionTasks]


def example_task_family(target: FamilyFactory) -> RegressionTasks:
    """Tasks with 5 points to adapt to and 7 to be judged by."""
    return target(k_shot=5, n_query=7, seed=3)


def _same(ours: Episodes, other: Episodes) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours[:4], other[:4], strict=True))  # type: ignore[arg-type]


def _has_shapes(target: FamilyFactory) -> None:
    for tasks in (0, 1, 4):
        episodes = example_task_family(target).draw(2, tasks).checked()
        assert episodes.support_x.shape[:2] == (tasks, 5), f"support of shape {episodes.support_x.shape}"
        assert episodes.query_y.shape[:2] == (tasks, 7), f"queries of shape {episodes.query_y.shape}"
        for part in episodes[:4]:
            assert part is not None
            assert bool(part.isfinite().all()), "a number is not finite"


def _is_known_by_number(target: FamilyFactory) -> None:
    family = example_task_family(target)
    whole = family.draw(0, 9)
    for number in range(9):
        assert _same(family.draw(number, 1), whole.take(number, number + 1)), f"task {number} differs alone"
    torch.manual_seed(99)
    assert _same(example_task_family(target).draw(0, 9), whole), "the global generator matters"


def _differs_by_task_and_seed(target: FamilyFactory) -> None:
    episodes = target(k_shot=5, n_query=5, seed=3).draw(0, 50)
    other = target(k_shot=5, n_query=5, seed=4).draw(0, 50)
    for side in (episodes.support_x, episodes.query_x):
        flat = side.flatten(1)
        assert len(flat.unique(dim=0)) == 50, "two tasks have the same inputs"
    assert not torch.equal(episodes.support_x, other.support_x), "the seed does not matter"
    assert not torch.equal(episodes.support_x, episodes.query_x), "support and query are the same points"


def _ignores_shots(target: FamilyFactory) -> None:
    few, many = (target(k_shot=k, n_query=7, seed=3) for k in (5, 8))
    a, b = few.draw(0, 3), many.draw(0, 3)
    assert torch.equal(a.query_y, b.query_y), "more shots give other queries"
    assert torch.equal(a.support_y, b.support_y[:, :5]), "more shots change the first"


def _has_its_function(target: FamilyFactory) -> None:
    family = target(k_shot=5, n_query=7, seed=3, dtype=torch.float64)
    episodes, parameters = family.draw(4, 6), family.parameters(4, 6)
    assert torch.equal(episodes.support_y, family.target(episodes.support_x, parameters)), "other parameters"


def _has_its_floors(target: FamilyFactory) -> None:
    # Points of one task are dependent: the standard error is that over tasks, and five of them are allowed.
    family = target(k_shot=1, n_query=8, seed=11, noise=0.3, dtype=torch.float64)
    episodes = family.draw(0, 20_000)
    for prediction, floor in (
        (torch.zeros_like(episodes.query_y), family.zero_error),
        (family.unadapted(episodes.query_x), family.unadapted_error),
    ):
        errors = (episodes.query_y - prediction).square().flatten(1).mean(1)
        slack = 5 * errors.std().item() / len(errors) ** 0.5
        assert abs(errors.mean().item() - floor) < slack, f"{errors.mean()} is not {floor}"


def task_family_checks(component: Component, target: FamilyFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a family of regression tasks."""
    laws = {
        "draws have the shots, queries and tasks asked for": _has_shapes,
        "a task is the same alone and in a batch": _is_known_by_number,
        "tasks, seeds, supports and queries differ": _differs_by_task_and_seed,
        "the shots change no task": _ignores_shots,
        "targets are those of the parameters": _has_its_function,
        "the floors are the expected errors": _has_its_floors,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
