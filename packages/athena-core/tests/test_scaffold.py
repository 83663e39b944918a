"""`athena new` makes a package; that it installs and passes its own tests is the nox session `scaffold`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from athena_core import AthenaError
from athena_core._scaffold import make


def test_the_package_is_named_after_its_folder(tmp_path: Path) -> None:
    said = make(tmp_path / "my-plugin")
    project = tomllib.loads((tmp_path / "my-plugin" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "my-plugin"
    assert project["entry-points"]["athena"] == {"my_plugin": "my_plugin._plugin"}
    assert "athena run my-plugin" in said


def test_every_file_is_valid_python_and_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    make(tmp_path / "my-plugin")
    files = [path for path in (tmp_path / "my-plugin").rglob("*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert "$" not in path.read_text()
        if path.suffix in (".py", ".pyi"):
            compile(path.read_text(), path.name, "exec")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-plugin").mkdir()
    (tmp_path / "my-plugin" / "work.py").touch()
    with pytest.raises(AthenaError, match="there already, and not an empty folder"):
        make(tmp_path / "my-plugin")
    assert [path.name for path in (tmp_path / "my-plugin").iterdir()] == ["work.py"]


@pytest.mark.parametrize("name", ["class", "none", "run", "f", "json", "torch", "athena-core"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AthenaError, match="is a word of Python or an installed package"):
        make(tmp_path / name)


@pytest.mark.parametrize("name", ["My-Plugin", "my_plugin", "1st", "a--b", "class name"])
def test_a_name_that_a_distribution_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AthenaError, match="lower case, words joined by `-`"):
        make(tmp_path / name)
