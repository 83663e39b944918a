"""Reading text: what counts as text, the order, and one clear line for everything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from athena_core import AthenaError
from athena_nn._text import read_text, split_text


def test_the_default_is_pythons_documentation():
    text = read_text(None)
    assert len(text) > 300_000
    assert b"The standard type hierarchy" in text


def test_a_file_is_taken_as_it_is(tmp_path: Path):
    file = tmp_path / "data.bin"
    file.write_bytes(b"a\0\xff\n")
    assert read_text(file) == b"a\0\xff\n"


def test_a_folder_gives_its_text_files_in_order(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "late.txt").write_text("later", encoding="utf-8")
    (tmp_path / "a.txt").write_text("früh", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"text with a NUL \0")
    (tmp_path / "latin").write_bytes("früh".encode("latin-1"))
    (tmp_path / "empty").touch()
    assert read_text(tmp_path) == "früh\n\nlater".encode()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.mkdir(), "of 0 files in .*, none is UTF-8"),
        (lambda path: os.mkfifo(path), "is neither"),
    ],
    ids=["absent", "empty", "no text", "not a file"],
)
def test_bad_data_is_one_line(tmp_path: Path, make, message):
    path = tmp_path / "data"
    make(path)
    with pytest.raises(AthenaError, match=message) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_binaries_is_refused(tmp_path: Path):
    (tmp_path / "image").write_bytes(b"\x89PNG\0")
    with pytest.raises(AthenaError, match="of 1 files"):
        read_text(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "secret"
    file.write_text("x", encoding="utf-8")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for data in (file, tmp_path):
        with pytest.raises(AthenaError, match=r"cannot read .*secret: Permission denied"):
            read_text(data)


def test_the_last_tenth_is_held_out():
    text = bytes(range(100))
    assert split_text(text, context=10, heldout=1000) == (text[:90], text[90:])
    assert split_text(text, context=10, heldout=4) == (text[:96], text[96:])
    assert split_text(text, context=89, heldout=1000) == (text[:90], text[90:])


@pytest.mark.parametrize(("size", "context"), [(100, 90), (5, 2), (0, 1)])
def test_a_text_shorter_than_a_context_is_refused(size, context):
    with pytest.raises(AthenaError, match=f"more than one context of {context} bytes .* got {size} bytes"):
        split_text(bytes(size), context=context, heldout=1000)
