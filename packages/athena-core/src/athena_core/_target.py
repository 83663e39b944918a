"""A component's target: from the string that names it to the call that builds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from athena_core._component import Component
from athena_core._errors import AthenaError, nearest


def resolve(target: str) -> Any:
    """Import ``"module"`` or ``"module:attribute"``.

    >>> resolve("math:tau") == resolve("math").tau
    True
    """
    module, _, attributes = target.partition(":")
    found = import_module(module)
    for name in filter(None, attributes.split(".")):
        found = getattr(found, name)
    return found


def describe(error: BaseException) -> str:
    """Say an exception's type and message in one line, and where a syntax error is.

    >>> describe(ImportError("No module named 'lamp'"))
    "ImportError: No module named 'lamp'"
    """
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        message = f"{error.msg} ({error.filename}, line {error.lineno})"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def import_target(component: Component, distribution: str) -> Any:
    """Import a component's target, its requirements tested first.

    Raises AthenaError if one is not met, with the command that meets it, or if the import fails, from
    the import's own error.
    """
    owner = f"{component.kind} `{component.name}` of {distribution}"
    try:
        missing = unmet_requirements(component.requires)
    except ValueError as error:
        raise AthenaError(f"{owner}: its `requires` is malformed: {describe(error)}") from error
    if missing:
        command = " ".join(f"'{requirement}'" for requirement in missing)
        raise AthenaError(f"{owner} needs {', '.join(missing)}: pip install {command}")
    try:
        return resolve(component.target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that exits is as broken as one that raises
        raise AthenaError(f"{owner}: cannot import `{component.target}`: {describe(error)}") from error


def unmet_requirements(requirements: Iterable[str]) -> list[str]:
    """Return those of the PEP 508 ``requirements`` that this environment does not meet, without markers.

    Raises ValueError (packaging's InvalidRequirement) for one that is malformed.

    >>> unmet_requirements(["pluggy>=1.0", "pluggy>=99", "pluggy>=99; python_version < '3'"])
    ['pluggy>=99']
    """
    if not requirements:
        return []
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    unmet = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            met = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            met = False
        if not met:
            requirement.marker = None
            unmet.append(str(requirement))
    return unmet


def mistake_in_call(target: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> str:
    """Say which arguments the target's signature does not take, or ``""`` if it takes them all.

    >>> mistake_in_call(lambda params, lr: 0, [()], {"lrr": 0.1})
    'unknown option `lrr`. Did you mean `lr`?'
    """
    import inspect

    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # not callable, or written in C: the call's own message has to do
        return ""
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        parameters = signature.parameters.values()
        named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
        for option in options:
            if option not in named and not takes_any:
                return f"unknown option `{option}`. {nearest(option, named)}"
        return f"{error}. It takes: {', '.join(named)}."
    return ""
