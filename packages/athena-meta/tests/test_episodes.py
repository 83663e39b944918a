"""Episodes: parts, moves, dense labels, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from athena_meta import Episodes


def episodes(tasks: int = 3, n_support: int = 4, n_query: int = 2) -> Episodes:
    y = torch.randint(0, 2, (tasks, n_support))
    x, query_x = torch.rand(tasks, n_support, 5), torch.rand(tasks, n_query, 5)
    return Episodes(x, y, query_x, y[:, :n_query], torch.arange(2).expand(tasks, 2))


def plain_dense(support: list[int], query: list[int]) -> tuple[list[int], list[int]]:
    names = sorted(set(support))
    return [names.index(label) for label in support], [names.index(label) for label in query]


@given(st.data(), st.sampled_from([torch.int64, torch.int32, torch.uint8]))
def test_dense_equals_the_plain_reference(data: st.DataObject, dtype: torch.dtype) -> None:
    tasks, n_support = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    low = 0 if dtype == torch.uint8 else -100
    label = st.integers(low, 100)
    support = [data.draw(st.lists(label, min_size=n_support, max_size=n_support)) for _ in range(tasks)]
    query = [data.draw(st.lists(st.sampled_from(row), min_size=3, max_size=3)) for row in support]
    x = torch.zeros(tasks, 1, 1)
    given_y, given_query_y = torch.tensor(support, dtype=dtype), torch.tensor(query, dtype=dtype)
    dense = Episodes(x, given_y, x, given_query_y).dense()
    expected = [plain_dense(*rows) for rows in zip(support, query, strict=True)]
    assert dense.support_y.tolist() == [row for row, _ in expected]
    assert dense.query_y.tolist() == [row for _, row in expected]
    assert dense.support_y.dtype == dense.query_y.dtype == torch.int64
    assert given_y.tolist() == support


def test_dense_takes_strided_labels_and_no_tasks() -> None:
    y = torch.tensor([[5, 9], [7, 9], [5, 2]]).t()
    assert Episodes(y, y, y, y).dense().query_y.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert Episodes(y[:0], y[:0], y[:0], y[:0]).dense().support_y.shape == (0, 3)
    none = y[:, :0]
    assert Episodes(y, y, none, none).dense().query_y.shape == (2, 0)


@pytest.mark.parametrize("label", [1, 3, 100])
def test_dense_names_the_query_without_support(label: int) -> None:
    y = torch.tensor([[2, 4, 2], [2, 4, 2]])
    query_y = y.clone()
    query_y[1, 2] = label
    match = rf"query 2 of task 1 has {label}, its support set has \[2, 4\]. Add support"
    with pytest.raises(ValueError, match=match):
        Episodes(y, y, y, query_y).dense()


def test_dense_refuses_targets_and_empty_supports() -> None:
    targets, y = torch.rand(2, 3, 1), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`support_y` must be whole numbers .* got torch.float32 of shape"):
        Episodes(targets, targets, y, y).dense()
    with pytest.raises(
        ValueError, match=r"`query_y` must be whole numbers .* got torch.int64 of shape \(6,\)"
    ):
        Episodes(y, y, y, y.flatten()).dense()
    with pytest.raises(ValueError, match="`support_y` must have a label a task to be ranked by; got none"):
        Episodes(y[:, :0], y[:, :0], y, y).dense()


def test_parts_are_the_tasks_in_order() -> None:
    whole = episodes(5)
    parts = [*whole.split(2)]
    assert [part.tasks for part in parts] == [2, 2, 1]
    for side in range(5):
        assert torch.equal(torch.cat([part[side] for part in parts]), whole[side])
    assert [*episodes(0).split(2)] == []


def test_no_classes_stay_none() -> None:
    plain = episodes()._replace(classes=None)
    assert plain.take(0, 1).classes is None
    assert plain.to("cpu").classes is None


def test_to_moves_every_part() -> None:
    moved = episodes().to("meta", non_blocking=True)
    assert {part.device.type for part in moved if isinstance(part, Tensor)} == {"meta"}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            {"support_y": torch.zeros(3, 3)},
            r"`support_y` must have one label an example, .* \(3, 4, 5\) and \(3, 3\)",
        ),
        ({"query_y": torch.zeros(3)}, r"`query_y` must have one label an example"),
        ({"query_x": torch.zeros(2, 2, 5), "query_y": torch.zeros(2, 2)}, "got 2 and 3 tasks. Stack both"),
    ],
)
def test_checked_names_what_is_missing(changed: dict[str, Tensor], match: str) -> None:
    assert episodes().checked().tasks == 3
    with pytest.raises(ValueError, match=match):
        episodes()._replace(**changed).checked()
