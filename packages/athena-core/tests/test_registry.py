"""Loading and creating: what the errors say, and what passes untouched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import athena_core
from athena_core import AthenaError, Component, PluginHost, components_of, hookimpl


class Widget:
    def __init__(
        self, params: list[float], *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.lr = lr + 0.0  # a TypeError of the component's own, where `lr` is no number


def takes_anything(**options: Any) -> dict[str, Any]:
    return options


class Plugin:
    def __init__(self, *components: Component) -> None:
        self.components = components

    @hookimpl
    def athena_components(self) -> tuple[Component, ...]:
        return self.components


def component(name: str, target: str, *requires: str) -> Component:
    return Component("part", name, target, "a part", requires=requires)


@pytest.fixture
def parts(athena_host: PluginHost, monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    monkeypatch.setitem(sys.modules, "parts_of_tests", sys.modules[__name__])
    offered = Plugin(
        component("widget", "parts_of_tests:Widget"),
        component("anything", "parts_of_tests:takes_anything"),
        component("range", "builtins:range"),
        component("nested", "parts_of_tests:Widget.__init__"),
        component("constant", "math:pi"),
    )
    athena_host.register(offered, "foo", "1.2")
    return athena_host


def test_load_and_create(parts: PluginHost) -> None:
    assert athena_core.load("part", "widget") is Widget
    assert athena_core.load("part", "foo/widget") is Widget
    assert athena_core.load("part", "nested") is Widget.__init__
    made = athena_core.create("part", "widget", [1.0], lr=0.5)
    assert isinstance(made, Widget)
    assert made.lr == 0.5
    assert list(athena_core.create("part", "range", 3)) == [0, 1, 2]


def test_the_registry_asks_the_default_host(parts: PluginHost) -> None:
    assert athena_core.components("part") == parts.components("part")
    assert [kind.name for kind in athena_core.kinds()] == ["device", "recipe", "tracker"]


def test_options_may_be_called_kind_and_name(parts: PluginHost) -> None:
    assert athena_core.create("part", "anything", kind=1, name=2, self=3) == {"kind": 1, "name": 2, "self": 3}


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (([],), {"lrr": 1}, "part `widget`: unknown option `lrr`. Did you mean `lr`?"),
        (([],), {"zzz": 1}, "part `widget`: unknown option `zzz`. Allowed: betas, lr, params."),
        ((), {"lr": 1}, "part `widget`: missing a required argument: 'params'. It takes: params, lr, betas."),
        (([], 1), {}, "part `widget`: too many positional arguments. It takes: params, lr, betas."),
        (
            ([],),
            {"params": 1},
            "part `widget`: multiple values for argument 'params'. It takes: params, lr, betas.",
        ),
    ],
)
def test_arguments_that_do_not_fit(parts: PluginHost, arguments: Any, options: Any, said: str) -> None:
    with pytest.raises(AthenaError) as caught:
        athena_core.create("part", "widget", *arguments, **options)
    assert str(caught.value) == said
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("name", "arguments", "own"),
    [
        ("widget", ([], {"lr": "fast"}), "str"),
        ("range", (["x"], {}), "interpreted"),
        ("constant", ([], {}), "not callable"),
    ],
)
def test_a_components_own_type_error_passes_untouched(
    parts: PluginHost, name: str, arguments: Any, own: str
) -> None:
    positional, options = arguments
    positional = ([],) if name == "widget" else positional
    with pytest.raises(TypeError, match=own) as caught:
        athena_core.create("part", name, *positional, **options)
    assert not isinstance(caught.value, AthenaError)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("part", "wigdet", "unknown part `wigdet`. Did you mean `widget`?"),
        ("part", "foo/wigdet", "unknown part `foo/wigdet`. Did you mean `foo/widget`?"),
        ("part", "bar/widget", "unknown part `bar/widget`. Did you mean `foo/widget`?"),
        ("tracker", "q", "unknown tracker `q`. Allowed: jsonl, tensorboard."),
        (
            "prat",
            "widget",
            "no installed plugin offers the kind `prat`. Install the package that does. Did you mean `part`?",
        ),
        (
            "optimizer",
            "lamb",
            (
                "no installed plugin offers the kind `optimizer`. Install the package that does. "
                "Allowed: device, part, recipe, tracker."
            ),
        ),
    ],
)
def test_unknown_names_get_the_nearest(parts: PluginHost, kind: str, name: str, said: str) -> None:
    with pytest.raises(AthenaError) as caught:
        athena_core.create(kind, name)
    assert str(caught.value) == said


def test_requirements_are_tested_before_import(athena_host: PluginHost) -> None:
    unmet = component(
        "a",
        "never_imported:X",
        "pluggy>=99",
        "no-such-thing; python_version >= '3'",
        "y; python_version < '3'",
    )
    athena_host.register(Plugin(unmet, component("b", "builtins:dict", "pluggy>=1")), "foo", "1.2")
    with pytest.raises(AthenaError) as caught:
        athena_core.load("part", "a")
    assert str(caught.value) == (
        "part `a` of foo 1.2 needs pluggy>=99, no-such-thing: pip install 'pluggy>=99' 'no-such-thing'"
    )
    assert athena_core.load("part", "b") is dict


def test_a_malformed_requirement_names_its_component(athena_host: PluginHost) -> None:
    athena_host.register(Plugin(component("a", "builtins:dict", "x >>> 1")), "foo", "1.2")
    with pytest.raises(AthenaError, match=r"part `a` of foo 1\.2: its `requires` is malformed: .*x >>> 1"):
        athena_core.load("part", "a")


@pytest.mark.parametrize(
    ("target", "said", "cause"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'", ModuleNotFoundError),
        ("math:Lamb", "AttributeError: module 'math' has no attribute 'Lamb'", AttributeError),
        ("needs_more:X", "ImportError: libxpu.so is missing", ImportError),
        ("leaves:X", "SystemExit: 1", SystemExit),
        ("wrong:X", "wrong.py, line 1", SyntaxError),
    ],
)
def test_a_target_that_cannot_be_imported(
    installed: Path, athena_host: PluginHost, target: str, said: str, cause: type[BaseException]
) -> None:
    (installed / "needs_more.py").write_text("raise ImportError('libxpu.so is missing')")
    (installed / "leaves.py").write_text("raise SystemExit(1)")
    (installed / "wrong.py").write_text("def (")
    athena_host.register(Plugin(component("a", target)), "foo", "1.2")
    assert [one.name for one in athena_core.components("part")] == ["a"]
    with pytest.raises(AthenaError) as caught:
        athena_core.load("part", "a")
    assert str(caught.value).startswith(f"part `a` of foo 1.2: cannot import `{target}`: ")
    assert said in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)


def test_requirements_of_a_component_stand_before_those_of_its_kind() -> None:
    rows = [(name, "my_package:A", "One", "") for name in ("light", "heavy")]
    needs = {"recipe": ("numpy>=2",), "recipe/heavy": ("mujoco>=3",)}
    found = {component.name: component.requires for component in components_of({"recipe": rows}, needs)}
    assert found == {"light": ("numpy>=2",), "heavy": ("mujoco>=3",)}
