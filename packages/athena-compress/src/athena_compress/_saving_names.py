"""Names of classes and functions, as "module:qualname": what may be saved, and what a file may ask for."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

#: Where functions written in C are at home; their own `__module__` often is a private one.
_HOMES = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "torch.fft", "math", "operator")
_OBJECTS = ("torch.distributions",)


def name_of(thing: Any) -> str | None:
    """The name under which exactly this class or function is found again, None if there is none."""
    own = getattr(thing, "__module__", None)
    homes = _HOMES if isinstance(thing, BuiltinFunctionType) else (own, *_HOMES)
    plain = getattr(thing, "__name__", "")
    for home in homes:
        module = sys.modules.get(home) if isinstance(home, str) else None
        for qualname in (getattr(thing, "__qualname__", ""), plain, plain.partition("_")[2]):
            if module is not None and _find(module, qualname) is thing:
                return f"{home}:{qualname}"
    return None


def is_known_function(name: str) -> bool:
    """Whether `Names` finds a function of this name without trust."""
    module, _, function = name.partition(":")
    if module == "torch":  # whose functions in Python are no maths: `torch.load`
        return function != "from_file" and isinstance(_find(torch, function), BuiltinFunctionType)
    return module in (*_HOMES, "torch.functional", "torch.nn.init")


class Names:
    """What a saved model may name: classes that are already imported, and those of trusted packages.

    Args:
        trust: modules and packages whose classes, functions and plain objects may be used too.
    """

    def __init__(self, trust: Sequence[str]) -> None:
        self._trust = tuple(trust)

    def module_class(self, name: str) -> type[nn.Module]:
        return self._resolve(name, "a subclass of nn.Module", lambda one: _is_class(one, nn.Module))

    def enum_class(self, name: str) -> type[Enum]:
        return self._resolve(name, "an enum", lambda one: _is_class(one, Enum))

    def any_class(self, name: str) -> type:
        found = self._resolve(name, "a class", lambda one: isinstance(one, type))
        if not issubclass(found, nn.Module):
            self._require_trust(name, "a class that is no nn.Module", _OBJECTS)
        return found

    def object_class(self, name: str, attributes: Sequence[str]) -> type:
        """The class of a plain object: a dataclass with these fields, or one of a trusted module."""
        found: type = self._resolve(name, "a class", lambda one: isinstance(one, type))
        fields = (
            {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else None
        )
        if fields is None or not set(attributes) <= fields:
            self._require_trust(name, "an object that is no dataclass", _OBJECTS)
        return found

    def function(self, name: str) -> Callable[..., Any]:
        if not is_known_function(name):
            self._require_trust(name, "a function that is not of torch's mathematics", ())
        return self._resolve(name, "a function", _is_function)

    def _is_trusted(self, module: str) -> bool:
        return module.startswith("athena_") or _within(module, self._trust)

    def _require_trust(self, name: str, kind: str, allowed: tuple[str, ...]) -> None:
        module = name.partition(":")[0]
        if not self._is_trusted(module) and not _within(module, allowed):
            package = module.partition(".")[0]
            raise ValueError(
                f"`{name}` is {kind}, and so its module must be trusted. If you trust it, pass "
                f'trust=("{package}",).'
            )

    def _resolve(self, name: str, kind: str, is_right: Callable[[Any], bool]) -> Any:
        path, _, qualname = name.partition(":")
        module = self._module(path, name)
        found = _find(module, qualname)
        if found is None:
            raise ValueError(
                f"`{name}` must be {kind} of the module {path}, which has nothing of that name. Install the "
                f"version that the model was saved with, or define it there."
            )
        if not is_right(found):
            raise ValueError(
                f"`{name}` must be {kind}; got {type(found).__name__}. Install the version it was saved with."
            )
        return found

    def _module(self, path: str, name: str) -> ModuleType:
        if path in sys.modules:
            return sys.modules[path]
        package = path.partition(".")[0]
        if not (package == "torch" or self._is_trusted(path)):
            raise ValueError(
                f"`{name}` is of a module that is not imported. If you trust it, `import {path}` before "
                f'loading, or pass trust=("{package}",).'
            )
        try:
            return importlib.import_module(path)
        except ImportError as error:
            raise ValueError(f"`{name}` must be importable: {error}. Install {package}.") from error


def _find(owner: Any, qualname: str) -> Any:
    """What a chain of names leads to from a module, through classes alone; None if to nothing."""
    for depth, part in enumerate(qualname.split(".")):
        holds = isinstance(owner, type if depth else ModuleType)
        if not holds or not part.isidentifier() or (part.startswith("__") and part.endswith("__")):
            return None
        owner = vars(owner).get(part)
    return owner


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _is_class(thing: Any, base: type) -> bool:
    return isinstance(thing, type) and issubclass(thing, base)


def _is_function(thing: Any) -> bool:
    return isinstance(thing, (FunctionType, BuiltinFunctionType))
