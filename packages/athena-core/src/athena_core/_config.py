"""From names and options, on the command line or in TOML, to a recipe, and back to plain values.

Two passes: the names of the chosen components first (command line over TOML), then the options of
the chosen classes, read by jsonargparse from their signatures.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athena_core._errors import AthenaError, nearest
from athena_core._recipe import Configured, Recipe, Slot, slots
from athena_core._registry import load

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

RESERVED = frozenset(
    ("recipe", "seed", "seeds", "device", "out", "config", "resume", "tracker", "checkpoint_seconds", "none")
)


def resolve(
    recipe: type[Recipe], arguments: Sequence[str], values: Mapping[str, Any], *, name: str, source: str
) -> Recipe:
    """Build a recipe from command-line ``arguments`` over ``values`` over its own defaults.

    ``name`` is what the recipe is called, ``source`` the file that ``values`` came from; both are
    for the errors, which are `AthenaError`.
    """
    if taken := RESERVED & {f.name for f in fields(recipe)}:
        raise AthenaError(
            f"recipe {name}: the field `{min(taken)}` is an option of `athena run` itself; rename it."
        )
    for field, hint in _hints(recipe).items():
        if field not in slots(recipe) and any(map(is_dataclass, _alternatives(hint))):
            raise AthenaError(
                f"recipe {name}: the field `{field}` must be of a type that TOML can hold; got "
                f"{_spelled(hint)}. Use fields of the recipe, a dictionary, or a `component`."
            )
    reading = _Reading(recipe, arguments, values, name, source)
    return reading.recipe()


def options_help(recipe: type[Recipe], arguments: Sequence[str], *, name: str) -> str:
    """The options of a recipe, and of the components that ``arguments`` choose, for ``--help``."""
    reading = _Reading(recipe, arguments, {}, name, "")
    for action in reading.parser._actions:
        (option, *_) = action.option_strings
        if option.removeprefix("--") in reading.slots:
            action.help, action.metavar = f"short for {option}.name", "NAME"
        elif option == "-h" or option.endswith(".help"):
            action.help = argparse.SUPPRESS  # jsonargparse's own
    text = re.sub(r",\s+known subclasses:[^)]*", "", reading.parser.format_help())
    return re.sub(r":math:`([^`]*)`", r"\1", text)


def to_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe's configuration as primitives, lists and tables: what TOML holds.

    Raises AthenaError, with the key, for a value that TOML cannot hold.
    """
    values: dict[str, Any] = {}
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if isinstance(value, Configured):
            options = {k: _plain(v, f"{f.name}.{k}") for k, v in value.options.items()}
            values[f.name] = {"name": value.name, **options}
        else:
            values[f.name] = _plain(value, f.name)
    return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two configurations differ, each with both values."""
    lines = []
    for key in [*old, *(k for k in new if k not in old)]:
        before, after = _listed(old.get(key, _ABSENT)), _listed(new.get(key, _ABSENT))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after and repr(before) != repr(after):  # NaN differs from itself, not in its spelling
            lines.append(f"{prefix}{key} ({before!r} -> {after!r})")
    return lines


def _listed(value: Any) -> Any:
    """A value as TOML gives it back, which has no tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


class _Reading:
    """One reading of a recipe's options: what both passes share."""

    def __init__(
        self,
        recipe: type[Recipe],
        arguments: Sequence[str],
        values: Mapping[str, Any],
        name: str,
        source: str,
    ) -> None:
        self.type = recipe
        self.source = source
        self.slots = slots(recipe)
        self.texts = {self._long_form(path): text for path, text in _pairs(arguments)}
        self.values = {
            key: {"name": value} if key in self.slots and isinstance(value, str) else value
            for key, value in values.items()
        }
        self.chosen = {field: self._choice(field) for field in self.slots}
        self.targets = {field: load(self.slots[field].kind, c.name) for field, c in self.chosen.items()}
        self.parser = self._parser(name)

    def recipe(self) -> Recipe:
        self._refuse_unknown()
        parsed = self._parsed()
        for field, chosen in self.chosen.items():
            asked = {*chosen.options, *self.values.get(field, {})}
            asked |= {path.removeprefix(f"{field}.") for path in self.texts}
            options = {k: v for k, v in parsed[field].items() if k != "name" and (k in asked or _is_plain(v))}
            parsed[field] = Configured(chosen.kind, chosen.name, options)
        try:
            return self.type(**{field.name: parsed[field.name] for field in fields(self.type)})
        except ValueError as error:  # the recipe's own check of its options
            raise AthenaError(str(error)) from error

    # First pass: names.

    def _long_form(self, path: str) -> str:
        """``--optimizer lamb`` is short for ``--optimizer.name lamb``."""
        return f"{path}.name" if path in self.slots else path

    def _choice(self, field: str) -> Configured:
        default = next(f.default for f in fields(self.type) if f.name == field)
        assert isinstance(default, Configured)
        table = self.values.get(field, {})
        if not isinstance(table, Mapping):
            raise AthenaError(f"{self.source}: `{field}` must be a name or a table with one; got {table!r}.")
        name = self.texts.get(f"{field}.name", table.get("name", default.name))
        if not isinstance(name, str):
            raise AthenaError(f"{self.source}: `{field}.name` must be a string; got {name!r}.")
        return Configured(default.kind, name, default.options if name == default.name else {})

    # Second pass: the options of the chosen classes.

    def _parser(self, name: str) -> ArgumentParser:
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(exit_on_error=False, prog=f"athena run {name}", usage=argparse.SUPPRESS)
        parser.add_class_arguments(self.type, skip=set(self.slots), fail_untyped=False)
        for field, target in self.targets.items():
            slot, chosen = self.slots[field], self.chosen[field]
            parser.add_argument(f"--{field}.name", type=str, help=f"the {slot.kind}, by its name")
            add = parser.add_class_arguments if inspect.isclass(target) else parser.add_function_arguments
            add(target, field, skip=_given(target, slot), fail_untyped=False)
            options = {f"{field}.{option}": value for option, value in chosen.options.items()}
            parser.set_defaults({f"{field}.name": chosen.name, **options})
        for action in parser._actions:  # `--layers+`, jsonargparse's own, appends to no list of a file
            action.option_strings = [text for text in action.option_strings if not text.endswith("+")]
        return parser

    def _refuse_unknown(self) -> None:
        known = [text for action in self.parser._actions for text in action.option_strings]
        known = [text.removeprefix("--") for text in known if text.startswith("--")]
        known = [path for path in known if path not in self.slots and not path.endswith("help")]
        for path in self.texts:
            if path not in known:
                options = [f"--{other}" for other in known]
                raise AthenaError(f"unknown option `--{path}`. {nearest(f'--{path}', options)}")
        for key, value in self.values.items():
            for path in [f"{key}.{option}" for option in value] if key in self.slots else [key]:
                if path not in known:
                    raise AthenaError(f"{self.source}: unknown option `{path}`. {nearest(path, known)}")

    def _parsed(self) -> dict[str, Any]:
        merged: dict[str, Any] = copy.deepcopy(self.values)  # jsonargparse converts in place
        for path, text in self.texts.items():
            key, _, option = path.partition(".")
            types = _alternatives(_hints(self.targets.get(key, self.type)).get(option or key))
            # Python's and TOML's spelling; YAML's is `.inf`, and takes this one for a string.
            value = float(text) if text in ("inf", "-inf", "nan") and float in types else text
            if option:
                merged.setdefault(key, {})[option] = value
            else:
                merged[key] = value
        try:
            parsed = self.parser.parse_object(merged, defaults=True).as_dict()
        except argparse.ArgumentError as error:
            raise AthenaError(_one_line(str(error))) from error
        self._restore_text(parsed)
        return parsed

    def _restore_text(self, parsed: dict[str, Any]) -> None:
        """Undo jsonargparse's reading of TOML's strings as YAML: they have their types already."""
        for path, text in self.texts.items():
            if not text and isinstance(parsed.get(path), Path):
                raise AthenaError(f"option `--{path}` must be a path; got an empty one.")
        for key, value in self.values.items():
            hints = _hints(self.targets[key] if key in self.slots else self.type)
            given = value if key in self.slots else {key: value}
            into, prefix = (parsed[key], f"{key}.") if key in self.slots else (parsed, "")
            for option, item in given.items():
                if (path := prefix + option) not in self.texts:
                    into[option] = _as_given(hints.get(option, Any), item, into[option], path)


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Split ``--path value`` and ``--path=value``."""
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--") or argument == "--":
            raise AthenaError(f"got `{argument}` where an option such as `--steps` was expected.")
        path, equals, text = argument.removeprefix("--").partition("=")
        path = path.replace("-", "_")  # `--eval-every` is `eval_every`
        if not equals and (text := next(rest, None)) is None:
            raise AthenaError(f"option `--{path}` needs a value.")
        yield path, text


def _given(target: Any, slot: Slot) -> set[str | int]:
    """The parameters that the recipe passes: the first, if positional and required, and the slot's own."""
    parameters = inspect.signature(target).parameters
    given: set[str | int] = {name for name in slot.given if name in parameters}
    first = next(iter(parameters.values()), None)
    if first and first.kind is not first.KEYWORD_ONLY and first.default is first.empty:
        given.add(first.name)
    return given


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # a hint that only a type checker resolves
        return {}


def _as_given(hint: Any, given: Any, parsed: Any, path: str) -> Any:
    if given is None and not {type(None), Any, object, inspect.Parameter.empty} & set(_alternatives(hint)):
        raise AthenaError(f"option `{path}` must be {_spelled(hint)}; got null.")
    if given == "" and isinstance(parsed, Path):
        raise AthenaError(f"option `{path}` must be a path; got an empty one.")
    if isinstance(given, str) and not isinstance(parsed, (str, Path, Enum)):
        admitted = _alternatives(hint)
        if str in admitted or Any in admitted or inspect.Parameter.empty in admitted:
            return given
        if Path in admitted:
            return Path(given)
        raise AthenaError(f"option `{path}` must be {_spelled(hint)}; got the string {given!r}.")
    if isinstance(given, Mapping) and isinstance(parsed, Mapping):
        item = (*_inside(hint, dict), Any, Any)[1]
        return {k: _as_given(item, given[k], v, f"{path}.{k}") for k, v in parsed.items()}
    if isinstance(given, list) and isinstance(parsed, (list, tuple)):
        inside = _inside(hint, type(parsed)) or (Any,)
        if len(inside) != len(given) or inside[-1] is Ellipsis:
            inside = (inside[0],) * len(given)
        items = zip(inside, given, parsed, strict=True)
        return type(parsed)(_as_given(item, g, p, path) for item, g, p in items)
    return parsed


def _inside(hint: Any, container: type) -> tuple[Any, ...]:
    """The item types of the first alternative of ``hint`` that is such a container."""
    matching = (a for a in _alternatives(hint) if typing.get_origin(a) is container)
    return typing.get_args(next(matching, None))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _spelled(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Enum):
        return value.name
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise AthenaError(f"option `{path}` holds a {type(value).__name__}, which TOML cannot; use plain values.")


def _is_plain(value: Any) -> bool:
    """Whether an option can be written; one that cannot is a default the component keeps itself."""
    try:
        _plain(value, "")
    except AthenaError:
        return False
    return True


def _one_line(message: str) -> str:
    """jsonargparse's message in one line: the key, what was expected, what was received."""
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    text = re.sub(r"<(?:class|enum) '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    simple = re.fullmatch(r'Parser key "([^"]+)": Expected (?:a |an )?(.*)\. Got value: ?(.*)', text)
    if simple:
        path, expected, value = simple.groups()
        return f"option `{path}` must be {expected}; got {value or 'an empty text'}."
    union = re.fullmatch(r'Parser key "([^"]+)": .*? Subtypes: \[(.*?)\] .*Given value: ?(.*)', text)
    if union:
        path, subtypes, value = union.groups()
        return f"option `{path}` must be {subtypes.replace(', ', ' | ')}; got {value or 'an empty text'}."
    return re.sub(r'^Parser key "([^"]+)":', r"option `\1`:", text)
