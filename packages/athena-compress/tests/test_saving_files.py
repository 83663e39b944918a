"""Folders that hold no saved model, or half of one, and saves that fail on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import user_models
from torch import nn

from athena_compress import _saving_files as files
from athena_compress import load, save

TENSORS, TREE = "model.safetensors", "athena_compress.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    save(user_models.ResNet(), tmp_path / "model")
    return tmp_path / "model"


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a folder on this machine") as error:
        load(tmp_path / "nowhere")
    one_line(error)
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold athena_compress\.json"):
        load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"must be a folder"):
        load(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"`folder` must be a folder or not be there yet"):
        save(nn.Linear(1, 1), tmp_path / "file")


@pytest.mark.parametrize("name", [TENSORS, TREE])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"`folder` must hold {name}"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
@pytest.mark.parametrize("name", [TENSORS, TREE])
def test_a_file_cut_short(folder, name, kept):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: kept if kept >= 0 else -2])
    with pytest.raises(ValueError, match=r"cut short|no whole JSON") as error:
        load(folder)
    assert name in one_line(error)
    assert "Copy the folder again" in one_line(error)


def test_a_changed_file(folder):
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match=r"must have the sha256 that athena_compress\.json states"):
        load(folder)


def test_another_format_or_version(folder):
    for values, message in (
        (
            {"version": 2},
            r"must be of version 1 of the format; got 2\. Load it with",
        ),
        ({"format": "other"}, r"must be of the format 'athena-compress'"),
        ({"file": None}, r"must state the bytes and sha256"),
        ({"file": {}}, r"must state the bytes and sha256"),
    ):
        tree = json.loads((folder / TREE).read_text())
        other = folder.with_name("other")
        other.mkdir(exist_ok=True)
        (other / TENSORS).write_bytes((folder / TENSORS).read_bytes())
        (other / TREE).write_text(json.dumps(tree | values))
        with pytest.raises(ValueError, match=message) as error:
            load(other)
        one_line(error)
    for text in ("[]", "3", '{"a": 1}', "[" * 100_000):
        (folder / TREE).write_text(text)
        with pytest.raises(ValueError, match=r"must be of the format|no whole JSON"):
            load(folder)


def change(folder: Path, edit) -> None:
    tree = json.loads((folder / TREE).read_text())
    edit(tree)
    (folder / TREE).write_text(json.dumps(tree))


def rename(tree):
    tree["memories"][0]["name"] = "no.such"


def reshape(tree):
    tree["memories"][0]["shape"] = [9, 9]


def recast(tree):
    tree["memories"][0]["dtype"] = "float64"


def odd_dtype(tree):
    tree["memories"][0]["dtype"] = "load"


def too_far(tree):
    tree["tensors"][0]["offset"] = 10**6


def negative(tree):
    tree["tensors"][0]["offset"] = -4


def no_class(tree):
    tree["modules"][0]["class"] = "user_models:Gone"


def no_part(tree):
    del tree["modules"]


def no_record(tree):
    tree["modules"][0]["modules"]["stem"] = 1000


def unknown_value(tree):
    tree["modules"][0]["attributes"]["odd"] = {"lambda": "x"}


def wrong_kind(tree):
    tree["modules"][0]["attributes"]["odd"] = {"dtype": "load"}


def no_shape(tree):
    tree["memories"][0]["shape"] = 3


def negative_shape(tree):
    tree["memories"][0].update(meta=True, shape=[-1], stride=[1])


def empty_value(tree):
    tree["modules"][0]["attributes"]["odd"] = {"tensor": "a"}


DAMAGE = {
    rename: r"the file of tensors must hold `no\.such`, and does not",
    reshape: r"must hold `stem\.weight` with shape \(9, 9\) and torch\.float32; got \(8, 3, 3, 3\)",
    recast: r"must hold `stem\.weight` with .* torch\.float64",
    odd_dtype: r"must have the dtype 'load', and has not",
    too_far: r"`stem\.weight` must lie inside of its memory",
    negative: r"`stem\.weight` must lie inside of its memory",
    no_class: r"`user_models:Gone` must be a subclass of nn\.Module of the module user_",
    no_part: r"damaged: KeyError\('modules'\)",
    no_record: r"damaged: IndexError",
    unknown_value: r"damaged: KeyError\('lambda'\)",
    wrong_kind: r"damaged: TypeError",
    no_shape: r"damaged: TypeError",
    negative_shape: r"damaged: RuntimeError",
    empty_value: r"damaged: TypeError",
}


@pytest.mark.parametrize("edit", DAMAGE, ids=lambda edit: edit.__name__)
def test_a_damaged_description(folder, edit):
    change(folder, edit)
    with pytest.raises(ValueError, match=DAMAGE[edit]) as error:
        load(folder)
    assert str(folder) in one_line(error)


def test_a_model_that_cannot_be_saved_leaves_the_earlier_one(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"is a lambda"):
        save(user_models.Holder(value=lambda x: x), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("failing", ["write", TENSORS, TREE])
def test_a_save_that_fails_leaves_the_earlier_one(folder, failing, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace = Path.replace

    def break_off(source: Path, target: Path) -> Path:
        if Path(target).name == failing and source.name == failing:
            raise OSError("disk full")
        return replace(source, target)

    def no_space(*_: object, **__: object) -> None:
        raise OSError("disk full")

    if failing == "write":
        monkeypatch.setattr(files, "save_file", no_space)
    else:
        monkeypatch.setattr(Path, "replace", break_off)
    with pytest.raises(OSError, match=r"disk full"):
        save(nn.Linear(3, 3), folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load(folder)


def test_a_later_save_takes_the_place_and_leaves_other_files(folder):
    (folder / "README").touch()
    save(nn.Linear(3, 3), str(folder))
    assert isinstance(load(str(folder)), nn.Linear)
    assert sorted(path.name for path in folder.iterdir()) == ["README", TREE, TENSORS]


def test_loading_runs_no_pickle(folder):
    script = (
        "import pickle, sys; sys.path.insert(0, sys.argv[2])\n"
        "import torch\n"
        "def refuse(*_, **__): raise AssertionError('pickle')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
        "from athena_compress import load\n"
        "load(sys.argv[1], trust='user_models')\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_of_tensors_that_is_none(folder):
    text = b"no safetensors at all"
    (folder / TENSORS).write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    change(folder, lambda tree: tree["file"].update(bytes=len(text), sha256=digest))
    with pytest.raises(ValueError, match=r"is no whole safetensors file"):
        load(folder)
