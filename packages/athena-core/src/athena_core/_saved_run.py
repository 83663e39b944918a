"""A run read back from its folder: its recipe with the options it had, and the state that was saved last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from athena_core import _toml
from athena_core._config import resolve
from athena_core._errors import AthenaError
from athena_core._recipe import Recipe
from athena_core._registry import load
from athena_core._run_folder import newest_checkpoint

ITS_OWN = ("recipe", "seed", "device")  # keys of a configuration that are not the recipe's fields


class SavedRun(NamedTuple):
    """What `saved_run` returns: a recipe, the run's seed, and the state of its parts after ``step``.

    >>> SavedRun._fields
    ('recipe', 'seed', 'step', 'state')
    """

    recipe: Recipe
    seed: int
    step: int
    state: dict[str, Any]


def saved_run(folder: str | Path) -> SavedRun:
    """Read a run's folder: the recipe as it was configured, and its newest checkpoint, on the CPU.

    ``state`` has the state dict of each part that the recipe gave to `Run.steps`, by name; nothing in it is
    ever executed, and the folder is left as it is.

    Raises AthenaError if the folder holds no run, its recipe is not installed, there is no checkpoint yet, or
    the newest one is damaged.

    >>> saved_run("absent")
    Traceback (most recent call last):
    ...
    athena_core._errors.AthenaError: absent holds no run: there is no config.toml in it.
    """
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise AthenaError(f"{folder} holds no run: there is no config.toml in it.")
    recipe, values = read_recipe(folder, ())
    content = newest_checkpoint(folder, values)
    if content is None:
        raise AthenaError(f"{folder} has no checkpoint yet: let the run come to its end.")
    return SavedRun(recipe, values["seed"], content["step"], content["state"])


def read_recipe(folder: Path, arguments: Sequence[str]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a run's folder, ``arguments`` over its options, and the whole configuration."""
    source = folder / "config.toml"
    values = _toml.read(source)
    if not values.keys() >= set(ITS_OWN) or not isinstance(values["recipe"], str):
        raise AthenaError(f"{source} is not a run's configuration: it names no recipe.")
    name = values["recipe"]
    recipe = resolve(recipe_class(name), arguments, recipe_fields(values), name=name, source=str(source))
    return recipe, values


def recipe_class(name: str) -> type[Recipe]:
    """The recipe of this name. Raises AthenaError if that is no recipe."""
    target = load("recipe", name)
    if not (isinstance(target, type) and issubclass(target, Recipe)):
        raise AthenaError(f"recipe {name}: {target!r} is not a subclass of athena_core.Recipe.")
    return target


def recipe_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration is the recipe's own."""
    return {key: value for key, value in values.items() if key not in ITS_OWN}
