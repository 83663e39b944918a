"""The user's switches: a file and three environment variables."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from fake_distributions import plugin_source, write_distribution

from athena_core import AthenaError, PluginHost, _settings


@pytest.fixture
def two(installed: Path) -> Path:
    """Two distributions, `foo-bar` and `other`."""
    write_distribution(installed, "Foo_Bar", plugin_source("part/a"))
    write_distribution(installed, "other", plugin_source("part/b"))
    return installed


def states() -> dict[str, str]:
    names = ("athena-core", "foo-bar", "other")
    return {one.distribution: one.state for one in PluginHost().plugins() if one.distribution in names}


def test_disable_and_enable(two: Path) -> None:
    """Pitfall 15: every spelling of the name is the same distribution."""
    assert _settings.disabled() == set()
    _settings.disable("foo.BAR")
    _settings.disable("Foo-Bar")
    assert _settings.disabled() == {"foo-bar"}
    assert states() == {"athena-core": "active", "foo-bar": "disabled", "other": "active"}
    _settings.enable("FOO_bar")
    _settings.enable("foo-bar")
    assert _settings.disabled() == set()
    assert "disabled" not in states().values()


def test_a_rewrite_keeps_what_else_is_in_the_file_and_leaves_no_other_file(two: Path) -> None:
    file = _settings.config_file()
    file.parent.mkdir()
    file.write_text("disabled = ['Gone_Away']\n[later]\nkey = 1\n")
    _settings.disable("other")
    assert tomllib.loads(file.read_text()) == {"disabled": ["gone-away", "other"], "later": {"key": 1}}
    assert list(file.parent.iterdir()) == [file]
    _settings.enable("gone.away")
    assert _settings.disabled() == {"other"}


def test_unknown_names_get_the_nearest(two: Path) -> None:
    for switch in (_settings.disable, _settings.enable):
        with pytest.raises(
            AthenaError, match=r"no installed distribution `foo-baz`.*Did you mean `foo-bar`\?"
        ):
            switch("foo-baz")
    assert not _settings.config_file().exists()


def test_the_core_cannot_be_disabled(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AthenaError, match="athena-core itself cannot be disabled"):
        _settings.disable("Athena_Core")
    monkeypatch.setenv("ATHENA_DISABLE", "other,athena_core")
    with pytest.raises(
        AthenaError, match="athena-core itself cannot be disabled, as it is by ATHENA_DISABLE"
    ):
        PluginHost().components()


def test_environment_variable(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHENA_DISABLE", " Foo_Bar , ,")
    assert states() == {"athena-core": "active", "foo-bar": "disabled", "other": "active"}
    with pytest.raises(AthenaError, match="`foo-bar` stays off: ATHENA_DISABLE names it"):
        _settings.enable("foo-bar")
    with pytest.raises(
        AthenaError, match=r"plugin `foo-bar` 1\.0 is disabled: switched off by ATHENA_DISABLE"
    ):
        PluginHost().find("part", "foo-bar/a")


@pytest.mark.parametrize(("value", "off"), [("1", True), ("0", False), ("", False)])
def test_no_plugins(two: Path, monkeypatch: pytest.MonkeyPatch, value: str, off: bool) -> None:
    monkeypatch.setenv("ATHENA_NO_PLUGINS", value)
    other = "disabled" if off else "active"
    assert states() == {"athena-core": "active", "foo-bar": other, "other": other}


def test_a_folder_that_cannot_be_searched_is_one_line(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(
        AthenaError, match=r"plugins\.toml cannot be read: Permission denied\. Set ATHENA_CONFIG"
    ):
        PluginHost().components()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"disabled = [\n'a',\n= 1", "line 3"),
        (b"\xff\xfe", "UTF-8"),
        (b"disabled = 'a'", "`disabled` must be a list of names; got 'a'"),
        (b"disabled = [1]", "`disabled` must be a list of names; got [1]"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(two: Path, content: bytes, said: str) -> None:
    file = _settings.config_file()
    file.parent.mkdir()
    file.write_bytes(content)
    for call in (_settings.disabled, PluginHost().components, lambda: _settings.disable("other")):
        with pytest.raises(AthenaError) as caught:
            call()
        assert said in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_written(two: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("")
    monkeypatch.setenv("ATHENA_CONFIG_DIR", str(blocked))
    with pytest.raises(AthenaError, match=r"a-file/plugins\.toml cannot be written.*Set ATHENA_CONFIG_DIR"):
        _settings.disable("other")


def test_the_file_is_in_the_users_config_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATHENA_CONFIG_DIR", raising=False)
    assert _settings.config_file().parts[-2:] == ("athena", "plugins.toml")
