"""Discovery: which distributions have a plugin, and which fit this athena-core."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
from fake_distributions import plugin_source, write_distribution
from hypothesis import given
from hypothesis import strategies as st

from athena_core import PluginHost, _discovery, _settings
from athena_core._discovery import Found, normalise, scan, unmet
from athena_core._target import unmet_requirements


def test_found_says_what_the_metadata_says(tmp_path: Path) -> None:
    write_distribution(tmp_path, "Foo_Bar", "", version="2.1", requires=["numpy", "Athena_Core<3,>=0.1"])
    assert scan([str(tmp_path)]) == [
        Found("foo-bar", "2.1", "main", "foo_bar_plugin", ("Athena_Core<3,>=0.1",))
    ]


@pytest.mark.parametrize("name", ["Foo_Bar", "foo.bar", "FOO--bar", " foo_-_bar "])
def test_names_are_normalised(name: str) -> None:
    """Pitfall 15."""
    assert normalise(name) == "foo-bar"


@given(st.text("aZ09-_.", min_size=1, max_size=20))
def test_normalising_is_idempotent_and_blind_to_case(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name) == normalise(name.upper())


def test_a_distribution_on_two_paths_counts_once(tmp_path: Path) -> None:
    """Pitfall 5: `lib64` links to `lib`, and an orphaned egg-info names an entry point of old."""
    lib, other = tmp_path / "lib", tmp_path / "other"
    write_distribution(lib, "foo-bar", "")
    (tmp_path / "lib64").symlink_to(lib)
    egg = other / "Foo_Bar.egg-info"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 0.1\n")
    (egg / "entry_points.txt").write_text("[athena]\nold = gone\n")
    paths = [str(lib), str(tmp_path / "lib64"), str(other)]
    assert [(one.version, one.entry_point) for one in scan(paths)] == [("1.0", "main")]
    assert [(one.version, one.entry_point) for one in scan(paths[::-1])] == [("0.1", "old")]


def test_an_egg_info_keeps_its_requirements_elsewhere(tmp_path: Path) -> None:
    egg = tmp_path / "foo.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: foo\nVersion: 0.1\n")
    (egg / "requires.txt").write_text("numpy\nathena-core>=9\n\n[plot]\nathena-core>=99\n")
    (egg / "entry_points.txt").write_text("[athena]\nfoo = foo\n")
    (found,) = scan([str(tmp_path)])
    assert unmet(found.requires_core, "0.1") == "athena-core>=9"


def test_one_distribution_may_have_several_entry_points(tmp_path: Path) -> None:
    text = "[console_scripts]\nx = y:z\n[athena]\n# a comment\nb = two\na=one\n\n[other]\nc = three\n"
    write_distribution(tmp_path, "foo", "", entry_points=text)
    assert [(one.entry_point, one.value) for one in scan([str(tmp_path)])] == [("a", "one"), ("b", "two")]


def test_broken_metadata_hides_no_other_plugin(tmp_path: Path) -> None:
    write_distribution(tmp_path, "binary", "")
    (tmp_path / "binary-1.0.dist-info" / "entry_points.txt").write_bytes(b"[athena]\nx = \xff\xfe\n")
    write_distribution(tmp_path, "nameless", "")
    (tmp_path / "nameless-1.0.dist-info" / "METADATA").unlink()
    write_distribution(tmp_path, "sound", "")
    write_distribution(tmp_path, "valueless", "", entry_points="[athena]\nx\n")
    found = {one.distribution: (one.version, one.value) for one in scan([str(tmp_path)])}
    assert found == {
        "nameless-plugin": ("unknown", "nameless_plugin"),
        "sound": ("1.0", "sound_plugin"),
        "valueless": ("1.0", ""),
    }


def test_one_scan_a_process(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 10."""
    write_distribution(installed, "foo", plugin_source("part/a"))
    distributions = Mock(wraps=_discovery.distributions)
    monkeypatch.setattr(_discovery, "distributions", distributions)
    for host in (PluginHost(), PluginHost()):
        host.components()
        host.kinds()
        host.plugins()
    _settings.disable("foo")
    assert distributions.call_count == 1


@pytest.mark.parametrize(
    ("requirement", "core", "expected"),
    [
        ("athena-core", "0.1", True),
        ("athena-core>=0.1,<1", "0.1.0", True),
        ("athena-core>=0.1", "0.2rc1", True),
        ("athena-core>=0.2", "0.2rc1", False),
        ("athena-core>=9", "0.1", False),
        ("athena-core<0.1", "0.1", False),
        ("athena-core>=9; python_version < '3'", "0.1", True),
        ("athena-core>=9; python_version >= '3'", "0.1", False),
        ("athena-core[plot]>=9; extra == 'plot'", "0.1", True),
        ("athena-core (>=0.1)", "0.1", True),
        ("athena-core >>> 1", "0.1", False),
    ],
)
def test_compatibility(requirement: str, core: str, expected: bool) -> None:
    assert unmet((requirement,), core) == ("" if expected else requirement)


def test_other_distributions_of_a_like_name_say_nothing_about_the_core(tmp_path: Path) -> None:
    write_distribution(tmp_path, "foo", "", requires=["athena-core-extras>=9", "athena-corelib>=9"])
    assert scan([str(tmp_path)])[0].requires_core == ()


def test_unmet_requirements() -> None:
    pluggy = version("pluggy")
    asked = [
        f"pluggy=={pluggy}",
        "pluggy>=99",
        "No.Such_Thing>=1; python_version >= '3'",
        "x; python_version < '3'",
    ]
    assert unmet_requirements(asked) == ["pluggy>=99", "No.Such_Thing>=1"]
