"""The plugin host: each plugin apart from the others, validated whole, and nothing shadowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest
from fake_distributions import HEAD, plugin_source, write_distribution

from athena_core import AthenaError, Component, Kernel, Kind, PluginHost, _discovery, default_host, hookimpl
from athena_core._host import PluginStatus


class Offering:
    """A plugin object that offers what it is given."""

    def __init__(self, components: object = (), kinds: object = (), kernels: object = ()) -> None:
        self.components, self.kinds, self.kernels = components, kinds, kernels

    @hookimpl
    def athena_kinds(self) -> object:
        return self.kinds

    @hookimpl
    def athena_components(self) -> object:
        return self.components

    @hookimpl
    def athena_kernels(self) -> object:
        return self.kernels


def part(name: str, kind: str = "part") -> Component:
    return Component(kind, name, "builtins:dict", "a part")


PART = Kind("part", "builtins:dict", "parts")
KERNEL = Kernel("fake::op", "cpu", "builtins:dict")


def empty_host(**plugins: object) -> PluginHost:
    host = PluginHost(discover=False)
    for distribution, plugin in plugins.items():
        host.register(plugin, distribution, "1.0", "main")
    return host


def status(host: PluginHost, distribution: str) -> PluginStatus:
    (one,) = [one for one in host.plugins() if one.distribution == distribution]
    return one


def python(code: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATHENA_")}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


COMPONENTS = "@hookimpl\ndef athena_components():\n"
BROKEN = {
    "imports-nothing": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "syntax": ("x = 1\ndef broken(:\n", "syntax_plugin.py, line 2"),
    "orphan": (None, "ModuleNotFoundError: No module named 'orphan_plugin'"),
    "hook-raises": (HEAD + COMPONENTS + "    raise OSError('no\\ndisk')", "OSError: no disk"),
    "hook-raises-late": (
        HEAD + COMPONENTS + "    yield Component('part', 'late', 'a:b', 'c')\n    1 / 0",
        "ZeroDiv",
    ),
    "unknown-argument": (HEAD + "@hookimpl\ndef athena_components(mood): ...", "PluginValidationError"),
    "unknown-hook": (HEAD + "@hookimpl\ndef athena_component(): ...", "unknown hook 'athena_component'"),
    "answers-none": (
        HEAD + COMPONENTS + "    pass",
        "athena_components must return an iterable of Component; got None",
    ),
    "answers-number": (HEAD + COMPONENTS + "    return 3", "must return an iterable of Component; got 3"),
    "answers-text": (HEAD + COMPONENTS + "    return ['lamb']", "it holds 'lamb'"),
    "bad-name": (plugin_source("part/Upper"), "ValueError: component part/Upper: `name` must look like"),
    "name-twice": (plugin_source("part/one", "part/same", "part/same"), "part/same is offered twice"),
    "kind-twice": (
        HEAD + "@hookimpl\ndef athena_kinds():\n    return 2 * [Kind('part', 'a:b', 'c')]",
        "kind part is offered twice",
    ),
    "kernel-twice": (
        HEAD + "@hookimpl\ndef athena_kernels():\n    return 2 * [Kernel('fake::op', 'cpu', 'a:b')]",
        "the kernel of fake::op on cpu is offered twice",
    ),
    "asks-while-loading": (
        "import athena_core\nathena_core.components()",
        "RuntimeError: a plugin module must not query the registry while it is being loaded",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_loses_only_itself(installed: Path, name: str) -> None:
    """Pitfalls 2, 7, 16: the others load, the status says who and why, and nothing of it stays."""
    source, reason = BROKEN[name]
    write_distribution(installed, name, source, version="2.3")
    write_distribution(installed, "a-sound-one", plugin_source("part/a"))
    write_distribution(installed, "z-sound-one", plugin_source("part/z"))
    host = default_host()
    found = status(host, name)
    assert (found.version, found.entry_point, found.state) == ("2.3", "main", "failed")
    assert reason in found.reason
    assert "\n" not in found.reason
    assert [one.component.name for one in host.offers("part")] == ["a", "z"]
    assert name not in {kernel.distribution for kernel in host.kernels()}
    assert "part" not in [kind.name for kind in host.kinds()]

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is asserted below
        host.load("part", f"{name}/anything")
    if name == "exits":  # raised as it is, it would end the process of the one who asks
        assert isinstance(caught.value, AthenaError)
        assert caught.value.__cause__ is found.cause
        assert str(caught.value) == "plugin `exits` 2.3 is failed: SystemExit: 3"
    else:
        assert caught.value is found.cause


def test_a_name_that_a_failed_plugin_had_offered_raises_its_cause(installed: Path) -> None:
    write_distribution(installed, "twice", plugin_source("part/one", "part/same", "part/same", kinds="part"))
    host = PluginHost()
    for ask in (lambda: host.load("part", "one"), lambda: host.kind("part")):
        with pytest.raises(ValueError, match="part/same is offered twice"):
            ask()
    with pytest.raises(
        AthenaError, match=r"no installed plugin offers the kind `part`.*`twice` \(failed\); see `athena pl"
    ):
        host.load("part", "another")


def test_a_sound_plugin_answers_where_a_failed_one_had_offered_the_same(installed: Path) -> None:
    write_distribution(installed, "twice", plugin_source("part/one", "part/same", "part/same"))
    write_distribution(installed, "sound", plugin_source("part/one"))
    assert PluginHost().find("part", "one").distribution == "sound"


def test_every_plugin_broken(installed: Path) -> None:
    """Pitfall 4: plugins are listed and switched off without loading any."""
    for name, (source, _) in BROKEN.items():
        write_distribution(installed, name, source)
    command = "import sys; from athena_core._cli import main; sys.exit(main(['plugins', *sys.argv[1:]]))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATHENA_")}
    environment |= {"PYTHONPATH": str(installed), "ATHENA_CONFIG_DIR": str(installed / "config")}

    def plugins(*arguments: str) -> str:
        line = [sys.executable, "-c", command, *arguments]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout

    plugins("disable", "Exits")
    listed = {line.split()[0]: line for line in plugins("list").splitlines()}
    assert "disabled" in listed["exits"]
    assert all("failed" in listed[name] for name in BROKEN if name != "exits")
    assert "active" in listed["athena-core"]


def test_keyboard_interrupt_is_the_users(installed: Path) -> None:
    write_distribution(installed, "slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PluginHost().components()
    host = empty_host(foo=Offering([Component("part", "slow", "slow_plugin:X", "a part")]))
    with pytest.raises(KeyboardInterrupt):
        host.load("part", "slow")


def test_a_core_without_metadata_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_discovery, "scan", list)
    with pytest.raises(
        AthenaError, match=r"athena-core's own metadata is not on sys\.path.*pip install athena-core"
    ):
        PluginHost().components()


def test_strict_raises_the_plugins_own_error(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_distribution(installed, "broken", "import no_such_module")
    monkeypatch.setenv("ATHENA_STRICT", "1")
    host = PluginHost()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            host.components()


def test_an_incompatible_plugin_is_not_imported(installed: Path) -> None:
    """Pitfall 9."""
    mark = installed / "imported"
    write_distribution(installed, "future", f"open({str(mark)!r}, 'w')", requires=["athena-core>=9"])
    host = PluginHost()
    found = status(host, "future")
    assert found.state == "incompatible"
    assert found.reason.startswith("requires athena-core>=9; this is ")
    assert not mark.exists()
    with pytest.raises(AthenaError, match=r"plugin `future` 1\.0 is incompatible: requires athena-core>=9"):
        host.load("part", "future/x")
    with pytest.raises(
        AthenaError, match=r"unknown device `cpv`\. Did you mean `cpu`\? .*`future` \(incompatible\)"
    ):
        host.load("device", "cpv")


def test_a_disabled_plugin_is_listed_and_not_imported(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 8: switched off is a state with a reason, not a silent None."""
    write_distribution(installed, "loud", "raise SystemExit")
    monkeypatch.setenv("ATHENA_DISABLE", "LOUD")
    assert status(PluginHost(), "loud") == PluginStatus(
        "loud", "1.0", "main", "disabled", "switched off by ATHENA_DISABLE"
    )


def test_listing_imports_nothing_heavy(installed: Path) -> None:
    """Pitfall 1."""
    write_distribution(installed, "foo", plugin_source("part/a"))
    code = "import sys, athena_core; print(len(athena_core.components('part')), *sys.modules)"
    done = python(code, installed)
    count, *modules = done.stdout.split()
    assert count == "1", done.stderr
    assert not {"torch", "numpy", "triton"} & set(modules)


def test_importing_the_package_loads_no_plugin(installed: Path) -> None:
    write_distribution(installed, "foo", "raise SystemExit('loaded')")
    done = python(
        "import athena_core, sys; print('foo_plugin' in sys.modules, 'pluggy' in sys.modules)", installed
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_two_distributions_offer_one_name() -> None:
    """Pitfall 6."""
    host = empty_host(Foo_One=Offering([part("lamb")]), two=Offering([part("lamb"), part("other")]))
    with pytest.raises(AthenaError) as caught:
        host.load("part", "lamb")
    assert str(caught.value) == (
        "part `lamb` is offered by `foo-one` and `two`. Say which: `foo-one/lamb` or `two/lamb`."
    )
    assert (
        host.find("part", "foo-one/lamb").distribution
        == host.find("part", "Foo_One/lamb").distribution
        == "foo-one"
    )
    assert host.find("part", "two/lamb").distribution == "two"
    assert host.find("part", "other").distribution == "two"
    assert [one.distribution for one in host.offers("part")] == ["foo-one", "two", "two"]


def test_a_later_plugin_makes_a_loaded_bare_name_ambiguous() -> None:
    host = empty_host(one=Offering([part("lamb")]))
    host.load("part", "lamb")
    host.register(Offering([part("lamb")]), "two")
    with pytest.raises(AthenaError, match="offered by `one` and `two`"):
        host.create("part", "lamb")


def test_two_distributions_declare_one_kind() -> None:
    """Pitfall 6."""
    host = empty_host(
        one=Offering(kinds=[PART]), two=Offering(kinds=[Kind("part", "builtins:list", "lists")])
    )
    with pytest.raises(AthenaError, match="kind `part` is offered by `one` and `two`"):
        host.kind("part")
    assert host.kind("two/part").summary == "lists"
    assert host.owner("one/part") == "one"


@pytest.mark.parametrize(
    "clash",
    [
        ("foo", Offering([part("a")]), "part/a is offered already by `foo`"),
        ("foo", Offering(kinds=[PART]), "kind part is offered already by `foo`"),
        ("bar", Offering(kernels=[KERNEL]), "the kernel of fake::op on cpu is offered already by `foo`"),
    ],
)
def test_what_a_qualified_name_cannot_tell_apart_is_refused_whole(clash: tuple[str, Offering, str]) -> None:
    """Pitfall 16: the same distribution's name twice, a kernel of another's op and device."""
    distribution, plugin, message = clash
    host = empty_host(foo=Offering([part("a")], [PART], [KERNEL]))
    before = host.plugins(), host.offers(), host.kinds(), host.kernels()
    plugin.components = [part("new"), *plugin.components]
    with pytest.raises(ValueError, match=message):
        host.register(plugin, distribution, entry_point="second")
    assert (host.plugins(), host.offers(), host.kinds(), host.kernels()) == before


def test_an_unknown_hook_argument_leaves_nothing_behind() -> None:
    """Pitfall 7."""

    @hookimpl
    def athena_components(mood: str) -> list[Component]:
        return [part(mood)]

    host = empty_host()
    with pytest.raises(pluggy.PluginValidationError, match="mood"):
        host.register(SimpleNamespace(athena_components=athena_components), "foo")
    assert host.plugins() == host.offers() == []


def test_registering_again_changes_nothing() -> None:
    """Pitfall 11."""
    plugin = Offering([part("a")], [PART], [KERNEL])
    host = empty_host()
    first = host.register(plugin, "foo-bar", "1.0")
    before = host.plugins(), host.offers(), host.kinds(), host.kernels()
    assert host.register(Offering([part("a")], [PART], [KERNEL]), "Foo_Bar", "1.0") == first
    assert (host.plugins(), host.offers(), host.kinds(), host.kernels()) == before


def test_a_spawned_worker_registers_again(installed: Path) -> None:
    """Pitfall 11: a spawned process runs the main module once more."""
    script = installed / "script.py"
    script.write_text(
        "import multiprocessing, sys, athena_core\n"
        "from athena_core import Component, hookimpl\n"
        "@hookimpl\n"
        "def athena_components():\n"
        "    return [Component('part', 'a', 'builtins:dict', 'a part')]\n"
        "athena_core.default_host().register(sys.modules[__name__], 'script', entry_point='main')\n"
        "def count(_):\n"
        "    return len(athena_core.components('part'))\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(count(0), *pool.map(count, range(2)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "1", "1"], done.stderr


def test_a_component_of_an_undeclared_kind_is_listed() -> None:
    host = empty_host(foo=Offering([part("a", kind="gadget")]))
    assert [one.name for one in host.components("gadget")] == ["a"]
    assert host.load("gadget", "a") is dict
    with pytest.raises(AthenaError, match="the kind `gadget` is declared by no installed plugin"):
        host.kind("gadget")


def test_listing_is_by_kind_and_name_and_a_declared_kind_may_be_empty() -> None:
    host = empty_host(
        z=Offering([part("b"), part("a")], [Kind("void", "a:b", "nothing")]),
        a=Offering([part("c"), part("z", "bolt")]),
    )
    assert [f"{one.kind}/{one.name}" for one in host.components()] == ["bolt/z", "part/a", "part/b", "part/c"]
    assert host.components("void") == []
    with pytest.raises(AthenaError, match=r"kind `prat`.*Did you mean `part`\?"):
        host.components("prat")


class Choosing:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def athena_select_device(self, request: str, candidates: tuple[str, ...]) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_device_selection() -> None:
    assert empty_host().select_device("auto", ["cpu"]) is None
    host = empty_host(a=Choosing(None), b=Choosing("xpu"), c=Choosing("xpu"))
    assert host.select_device("auto", ["cpu", "xpu"]) == "xpu"
    host.register(Choosing("cpu"), "d")
    with pytest.raises(
        AthenaError, match=r"differ on the device for `auto`: `b` chooses xpu, `d` chooses cpu"
    ):
        host.select_device("auto", ["cpu", "xpu"])


@pytest.mark.parametrize("answer", [RuntimeError("no driver"), "tpu", 3])
def test_a_plugin_that_fails_to_select_loses_only_itself(answer: object) -> None:
    host = empty_host(bad=Choosing(answer), good=Choosing("xpu"))
    assert host.select_device("auto", ["cpu", "xpu"]) == "xpu"
    assert status(host, "bad").state == "failed"
    assert status(host, "good").state == "active"


def test_an_empty_host_sees_nothing_installed(installed: Path) -> None:
    write_distribution(installed, "foo", plugin_source("part/a"))
    assert PluginHost(discover=False).plugins() == []


def test_the_fixture_is_the_default_host_and_refuses_discovery(athena_host: PluginHost) -> None:
    assert default_host() is athena_host
    assert {one.distribution for one in athena_host.plugins()} == {"athena-core"}
    with pytest.raises(RuntimeError, match="forbids looking for installed plugins"):
        PluginHost().components()


def test_the_pytest_plugin_is_light(tmp_path: Path) -> None:
    """Pitfall 14: a project that uses neither torch nor numpy gets neither."""
    (tmp_path / "test_unrelated.py").write_text("def test_one(): pass\n")
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish(session):\n"
        "    heavy = {'torch', 'numpy', 'triton'} & set(sys.modules)\n"
        "    print('plugin:', session.config.pluginmanager.hasplugin('athena'), 'heavy:', heavy)\n"
    )
    line = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "plugin: True heavy: set()" in done.stdout, done.stdout + done.stderr
