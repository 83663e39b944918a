"""Checkpoints: what they take, what they refuse, and that they are whole or absent."""

from __future__ import annotations

import collections
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athena_core import AthenaError, load_checkpoint, save_checkpoint


def test_tensors_and_primitives_come_back_the_same(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.arange(3), torch.zeros(0, 2), torch.tensor(1.5, dtype=torch.bfloat16)],
        "tuple": (None, True, 3, 0.1),
        "words": "text",
        "bytes": b"bytes",
        "nested": {"a": {1: [{}]}},
        "ordered": collections.OrderedDict(weight=torch.ones(2)),
    }
    save_checkpoint(tmp_path / "a.pt", state)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.pop("words") == state.pop("words")
    assert loaded.pop("bytes") == state.pop("bytes")
    torch.testing.assert_close(loaded, {**state, "ordered": dict(state["ordered"])}, rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "uint32", "int64", "float16", "float64", "complex64"]
)
def test_arrays_become_tensors_and_numpy_scalars_become_pythons(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    save_checkpoint(tmp_path / "a.pt", {"array": array.T, "scalar": array[1, 2].real})
    loaded = load_checkpoint(tmp_path / "a.pt")
    np.testing.assert_array_equal(loaded["array"].numpy(), array.T)
    assert loaded["scalar"] == array[1, 2]
    assert type(loaded["scalar"]) in (bool, int, float)


@pytest.mark.parametrize("array", [np.array(2.5), np.arange(6.0, dtype=">f4")[::-2]])
def test_arrays_keep_their_shape_and_take_the_machines_byte_order(tmp_path: Path, array: np.ndarray) -> None:
    save_checkpoint(tmp_path / "a.pt", {"array": array})
    loaded = load_checkpoint(tmp_path / "a.pt")["array"].numpy()
    assert loaded.shape == array.shape
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("generator", ["MT19937", "Philox", "PCG64"])
def test_the_states_of_numpys_generators_are_taken(tmp_path: Path, generator: str) -> None:
    state = getattr(np.random, generator)(0).state
    save_checkpoint(tmp_path / "a.pt", {"rng": state})
    assert load_checkpoint(tmp_path / "a.pt")["rng"]["bit_generator"] == generator


class Thing:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Path("a"),
        collections.deque([1]),
        collections.defaultdict(int),
        Thing(),
        {1, 2},
        lambda: 0,
        np.array([Thing()]),
        np.array(["text"]),
        np.datetime64("2026-01-01"),
        torch.float32,
        torch.Size([2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_its_key_path_when_saving(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"`model\.layers\.1` holds a "):
        save_checkpoint(tmp_path / "a.pt", {"model": {"layers": [0, value]}})
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_would_not_come_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`model` has the key"):
        save_checkpoint(tmp_path / "a.pt", {"model": {("a", "b"): 1}})


def test_an_empty_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    with pytest.raises(AthenaError, match=r"a\.pt is empty\."):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"weight": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(AthenaError, match=r"a\.pt is cut short or damaged\.|holds something other") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_any_byte_changed_loads_or_is_one_line(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    state = {"weight": torch.arange(4.0), "steps": 3, "name": "a"}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except AthenaError as error:
            assert "\n" not in str(error)  # noqa: PT017


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_a_pickled_object_is_refused_and_never_executed(tmp_path: Path, save: Any) -> None:
    save({"state": Bomb(tmp_path / "mark")}, tmp_path / "a.pt")
    with pytest.raises(AthenaError, match="refused, nothing of it was executed") as raised:
        load_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "mark").exists()


def test_a_failed_write_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "a.pt", {"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "a.pt", {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert load_checkpoint(tmp_path / "a.pt") == {"step": 1}


def test_what_cannot_be_read_back_is_never_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read before it counts: here the disk keeps only half of what was written."""
    save = torch.save

    def halved(state: Any, file: Any) -> None:
        save(state, file)
        file.truncate(file.tell() // 2)

    monkeypatch.setattr(torch, "save", halved)
    with pytest.raises(AthenaError):
        save_checkpoint(tmp_path / "a.pt", {"weight": torch.ones(100)})
    assert list(tmp_path.iterdir()) == []
