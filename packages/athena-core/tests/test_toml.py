"""TOML that holds None."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from athena_core import AthenaError, _toml

text = st.text(st.characters(blacklist_categories=["Cs"]))
leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
value = st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=12)


@given(st.dictionaries(text.filter(lambda key: key != _toml.NONE), value))
def test_what_is_written_is_read(document: dict[str, Any]) -> None:
    assert _toml.loads(_toml.dumps(document)) == document


def test_nan_and_infinities_are_read() -> None:
    read = _toml.loads(_toml.dumps({"a": float("nan"), "b": float("-inf")}))
    assert read["a"] != read["a"]
    assert read["b"] == float("-inf")


def test_a_syntax_error_is_one_line_with_its_line_number(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("steps = 5\nlr = \n")
    with pytest.raises(AthenaError, match=r"bad.toml: not valid TOML: .*line 2"):
        _toml.read(path)


@pytest.mark.parametrize("paths", ["3", "[3]", '[["a", "b"]]', '[["a", 4]]', "[[]]"])
def test_a_none_list_that_points_nowhere_is_one_line(paths: str) -> None:
    with pytest.raises(AthenaError, match="`none` must list paths of keys"):
        _toml.loads(f"none = {paths}\na = [1]\n")


def test_an_absent_file_and_a_binary_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(AthenaError, match="cannot be read: No such file"):
        _toml.read(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(AthenaError, match="not UTF-8"):
        _toml.read(tmp_path / "binary.toml")
