"""Options: names first, then the options of the chosen components; typed, and back again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athena_core import (
    AthenaError,
    Component,
    Configured,
    PluginHost,
    Recipe,
    Run,
    _toml,
    component,
    hookimpl,
)
from athena_core._config import differences, resolve, to_values


class Color(Enum):
    RED = 1
    BLUE = 2


def plain(params: object, lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99), note: str | None = None):
    return params, lr, betas, note


def strict(params: object, total: int, rate: int, inner: Callable[..., int] = len):
    return params, total, rate, inner


@dataclass
class Size:
    width: int = 1


@dataclass(kw_only=True)
class Experiment(Recipe):
    """An experiment.

    Args:
        steps: how many.
        data: where from.
    """

    steps: int = 5
    data: Path | None = None
    color: Color = Color.RED
    mode: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, ...] = (1, 2)
    layers: list[int | None] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    text: str | None = "text"
    anything: Any = None
    optimizer: Configured = component("tool", "plain", lr=0.5)
    schedule: Configured = component("tool", "strict", given=("total",), rate=3)

    def run(self, run: Run) -> Mapping[str, float]:
        return {}


class Tools:
    @hookimpl
    def athena_components(self) -> list[Component]:
        return [
            Component("tool", "plain", "test_config:plain", "Plain"),
            Component("tool", "strict", "test_config:strict", "Strict"),
        ]


@pytest.fixture(autouse=True)
def tools(athena_host: PluginHost) -> None:
    athena_host.register(Tools(), "tools")


def read(*arguments: str, recipe: type[Recipe] = Experiment, **values: Any) -> Any:
    return resolve(recipe, arguments, values, name="experiment", source="file.toml")


def test_nothing_given_is_the_defaults_with_every_option_spelled_out() -> None:
    assert read() == Experiment(
        optimizer=Configured("tool", "plain", {"lr": 0.5, "betas": (0.9, 0.99), "note": None}),
        schedule=Configured("tool", "strict", {"rate": 3}),
    )


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default() -> None:
    experiment = read("--steps", "7", steps=6, data="a.txt", optimizer={"lr": 0.25})
    assert (experiment.steps, experiment.data) == (7, Path("a.txt"))
    assert experiment.optimizer.options["lr"] == 0.25


@pytest.mark.parametrize("arguments", [["--optimizer", "strict"], ["--optimizer.name=strict"]])
def test_a_component_is_chosen_by_name_in_both_forms(arguments: list[str]) -> None:
    chosen = read(*arguments, "--optimizer.rate", "2", "--optimizer.total=9").optimizer
    assert (chosen.name, chosen.options) == ("strict", {"total": 9, "rate": 2})


def test_the_defaults_of_a_recipe_are_for_its_own_component_only() -> None:
    swapped = read(schedule="plain").schedule  # `rate=3` belongs to `strict`
    assert swapped.options == {"lr": 0.1, "betas": (0.9, 0.99), "note": None}


def test_a_default_that_is_no_plain_value_is_left_to_the_component() -> None:
    assert "inner" not in read().schedule.options


def test_create_passes_the_options_and_what_the_recipe_gives() -> None:
    assert read().schedule.create("params", total=4) == ("params", 4, 3, len)


@pytest.mark.parametrize("words", ["null", "5", "true", "[1]", "~", "a: b", "# x", " ", ""])
def test_a_string_in_a_file_stays_that_string(words: str) -> None:
    experiment = read(text=words, anything=words, data=words or ".", optimizer={"note": words})
    assert (experiment.text, experiment.anything) == (words, words)
    assert experiment.data == Path(words)
    assert experiment.optimizer.options["note"] == words


def test_an_option_may_be_spelled_with_hyphens() -> None:
    @dataclass(kw_only=True)
    class Spelled(Experiment):
        eval_every: int = 1

    assert read("--eval-every", "3", recipe=Spelled).eval_every == 3


@pytest.mark.parametrize("text", ["inf", "-inf", "nan"])
def test_a_number_that_is_not_finite_is_spelled_as_python_and_toml_do(text: str) -> None:
    recipe = read("--optimizer.lr", text, "--optimizer.note", text, "--text", text)
    assert repr(recipe.optimizer.options["lr"]) == text
    assert (recipe.optimizer.options["note"], recipe.text) == (text, text)


def test_null_on_the_command_line_is_none() -> None:
    assert read("--text", "null").text is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stepz", "3"], r"unknown option `--stepz`\. Did you mean `--steps`\?"),
        (["--optimizer.lrr", "3"], r"unknown option `--optimizer\.lrr`\. Did you mean `--optimizer\.lr`\?"),
        (["--optimizer", "plane"], r"unknown tool `plane`\. Did you mean `plain`\?"),
        (["--steps", "many"], r"option `steps` must be int; got many\."),
        (["--optimizer.lr", "x"], r"option `optimizer\.lr` must be float; got x\."),
        (["--mode", "middling"], r"option `mode` must be Literal\['fast', 'slow'\]; got middling\."),
        (["--steps"], r"option `--steps` needs a value\."),
        (["--steps", ""], r"option `steps` must be int; got an empty text\."),
        (["--layers+", "3"], r"unknown option `--layers\+`\. Did you mean `--layers`\?"),
        (["--data="], r"option `--data` must be a path; got an empty one\."),
        (["stray"], r"got `stray` where an option such as `--steps` was expected\."),
        (["--optimizer", "strict"], r"required: optimizer\.total, optimizer\.rate"),
        (["--schedule.total", "3"], r"unknown option `--schedule\.total`\."),  # the recipe gives it
        (["--optimizer.params", "3"], r"unknown option `--optimizer\.params`\."),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(AthenaError, match=says) as raised:
        read(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"stepz": 3}, r"file\.toml: unknown option `stepz`\. Did you mean `steps`\?"),
        ({"layers+": [3]}, r"file\.toml: unknown option `layers\+`\. Did you mean `layers`\?"),
        ({"optimizer": {"lrr": 3}}, r"file\.toml: unknown option `optimizer\.lrr`\."),
        ({"optimizer": 3}, r"file\.toml: `optimizer` must be a name or a table with one; got 3\."),
        ({"optimizer": {"name": 3}}, r"file\.toml: `optimizer\.name` must be a string; got 3\."),
        ({"steps": "5"}, r"option `steps` must be int; got the string '5'\."),
        ({"steps": [1]}, r"option `steps` must be int; got \[1\]\."),
        ({"layers": ["1", 2]}, r"option `layers` must be int \| None; got the string '1'\."),
        ({"steps": None}, r"option `steps` must be int; got null\."),
        ({"optimizer": {"lr": None}}, r"option `optimizer\.lr` must be float; got null\."),
        ({"data": ""}, r"option `data` must be a path; got an empty one\."),
        ({"table": {"a": "1"}}, r"option `table\.a` must be float; got the string '1'\."),
    ],
)
def test_a_mistake_in_a_file_is_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(AthenaError, match=says) as raised:
        read(**values)
    assert "\n" not in str(raised.value)


def test_a_field_that_is_an_option_of_the_command_itself_is_refused() -> None:
    @dataclass(kw_only=True)
    class Taken(Experiment):
        seed: int = 3

    with pytest.raises(AthenaError, match="the field `seed` is an option of `athena run` itself"):
        read(recipe=Taken)


def test_a_field_that_is_a_dataclass_is_refused() -> None:
    @dataclass(kw_only=True)
    class Nested(Experiment):
        inner: Size | None = None

    says = "the field `inner` must be of a type that TOML can hold; got .*Size"
    with pytest.raises(AthenaError, match=says):
        read(recipe=Nested)


def test_a_value_that_toml_cannot_hold_is_named_by_its_key() -> None:
    with pytest.raises(AthenaError, match=r"option `table\.a` holds a complex"):
        to_values(Experiment(table={"a": 1j}))  # type: ignore[dict-item]


words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["null", "1", "true"]
)
number = st.floats(allow_nan=False)
whole = st.integers(-(2**63), 2**63 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.builds(
        Experiment,
        steps=whole,
        data=st.none() | words.map(Path),
        color=st.sampled_from(Color),
        mode=st.sampled_from(["fast", "slow"]),
        sizes=st.lists(whole, max_size=3).map(tuple),
        layers=st.lists(st.none() | whole, max_size=3),
        table=st.dictionaries(words, number, max_size=3),
        text=st.none() | words,
        anything=st.none() | st.booleans() | whole | number | words,
        optimizer=st.builds(
            lambda lr, betas, note: Configured("tool", "plain", {"lr": lr, "betas": betas, "note": note}),
            number,
            st.tuples(number, number),
            st.none() | words,
        ),
        schedule=whole.map(lambda rate: Configured("tool", "strict", {"rate": rate})),
    )
)
def test_a_resolved_configuration_is_read_back_the_same(experiment: Experiment) -> None:
    values = _toml.loads(_toml.dumps(to_values(experiment)))
    assert read(**values) == experiment


def test_differences_name_the_keys_with_both_values() -> None:
    old = {"steps": 5, "optimizer": {"name": "plain", "lr": 0.1}}
    new = {"steps": 5, "optimizer": {"name": "plain", "lr": 0.2}, "data": None}
    assert differences(old, new) == ["optimizer.lr (0.1 -> 0.2)", "data (absent -> None)"]
    assert differences(old, old) == []
    assert differences({"a": "absent"}, {}) == ["a ('absent' -> absent)"]


def test_a_nan_is_no_difference_to_a_nan() -> None:
    nan = float("nan")
    assert differences({"a": nan, "b": [nan]}, {"a": float("nan"), "b": [float("nan")]}) == []
    assert differences({"a": nan}, {"a": 1.0}) == ["a (nan -> 1.0)"]


def test_an_option_that_toml_cannot_hold_is_refused_when_it_is_given() -> None:
    """One that the component has by default is left to it; one that was asked for must not be dropped."""
    given = read("--optimizer", "strict", "--optimizer.total", "1", "--optimizer.rate", "2")
    assert "inner" not in given.optimizer.options
    with pytest.raises(AthenaError, match=r"option `schedule\.inner` holds a "):
        to_values(read("--schedule.inner", "builtins.max"))


def keyword_only(*, base: float, scale: float = 1.0):
    return base, scale


def test_only_a_positional_required_parameter_is_the_recipes() -> None:
    from athena_core._config import _given
    from athena_core._recipe import Slot

    assert _given(keyword_only, Slot("tool", ())) == set()
    assert _given(keyword_only, Slot("tool", ("scale", "else"))) == {"scale"}
    assert _given(lambda base=1.0: base, Slot("tool", ())) == set()
    assert _given(plain, Slot("tool", ())) == {"params"}


def test_what_the_recipe_itself_refuses_is_one_line() -> None:
    @dataclass(kw_only=True)
    class Picky(Experiment):
        def __post_init__(self) -> None:
            if self.steps < 1:
                raise ValueError(f"`steps` must be at least 1; got {self.steps}.")

    with pytest.raises(AthenaError, match="`steps` must be at least 1; got 0"):
        read("--steps", "0", recipe=Picky)


def union(params: object, lr: float | bool = 0.1):
    return params, lr


def test_a_union_that_fits_no_type_is_one_line_of_its_types(athena_host: PluginHost) -> None:
    class Union:
        @hookimpl
        def athena_components(self) -> list[Component]:
            return [Component("tool", "union", "test_config:union", "Union")]

    athena_host.register(Union(), "union")
    with pytest.raises(AthenaError, match=r"option `optimizer\.lr` must be float \| bool; got fast\."):
        read("--optimizer", "union", "--optimizer.lr", "fast")
    says = r"option `optimizer\.lr` must be float \| bool; got an empty text\."
    with pytest.raises(AthenaError, match=says):
        read("--optimizer", "union", "--optimizer.lr", "")
