"""A model as JSON: its modules, with their classes and attributes, and the values that those hold."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import weakref
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from athena_compress._saving_names import is_known_function, name_of
from athena_compress._saving_tensors import Tensors

#: What every nn.Module has; a hook among it is refused, or else it is made anew.
INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_CACHES = ("_compiled_call_impl",)
_AS_IS = (bool, int, str, type(None))
_SEQUENCES = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_MAKE_IT = "Remove it, or name the attribute in its class's `_not_saved`, which sets it to None on loading."


class Describer:
    """Records of all modules, objects and tensors of a model, each by the number at which it was met."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.tensors = Tensors()
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._open: set[int] = set()
        self._add_modules(model, "")

    def _add_modules(self, root: nn.Module, path: str) -> int:
        """Number all modules under ``root`` in their order first, so that each is named after its place."""
        new = [(name, one) for name, one in root.named_modules(prefix=path) if id(one) not in self._numbers]
        for name, module in new:
            _check_module(module, name)
            self._numbers[id(module)] = len(self.modules)
            self._kept.append(module)
            self.modules.append({"path": name, "class": _class_name(module, name)})
        for name, module in new:
            self._add_tensors(module, name)
        for name, module in new:
            record = self.modules[self._numbers[id(module)]]
            record["attributes"] = self._attributes(module, name)
        return self._numbers[id(root)]

    def _add_tensors(self, module: nn.Module, path: str) -> None:
        skipped = _not_saved(module)
        record = self.modules[self._numbers[id(module)]]
        for part in ("parameters", "buffers"):
            held = {key: one for key, one in vars(module)[f"_{part}"].items() if key not in skipped}
            record[part] = {
                name: None if one is None else self.tensors.add(one, _join(path, name))
                for name, one in held.items()
            } | dict.fromkeys(vars(module)[f"_{part}"].keys() & skipped)
        record["temporary"] = sorted(module._non_persistent_buffers_set)
        record["modules"] = {
            name: None if child is None or name in skipped else self._numbers[id(child)]
            for name, child in module._modules.items()
        }

    def _attributes(self, module: nn.Module, path: str) -> dict[str, Any]:
        skipped = _not_saved(module)
        attributes = {
            name: None if name in skipped else self.value(value, _join(path, name))
            for name, value in vars(module).items()
            if name not in INTERNAL and name not in _CACHES
        }
        hooks = list(module._load_state_dict_post_hooks.values())
        if hooks:
            record = self.modules[self._numbers[id(module)]]
            record["after_load_state_dict"] = self.value(hooks, _join(path, "_load_state_dict_post_hooks"))
        return attributes

    def value(self, value: Any, path: str) -> Any:
        """A value as JSON. Raises ValueError, naming ``path`` and the remedy, for what has no description."""
        kind = type(value)
        if kind in _AS_IS:
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind in (list, dict) or kind in _SEQUENCES:
            return self._container(value, path)
        if isinstance(value, Tensor):
            return {"tensor": self.tensors.add(value, path)}
        if isinstance(value, nn.Module):
            number = self._numbers.get(id(value))
            return {"module": self._add_modules(value, path) if number is None else number}
        if kind is weakref.ref:
            return {"weak": self.value(value(), path)}
        return _constant(value, path) or self._object(value, path)

    def _container(self, value: Any, path: str) -> Any:
        if id(value) in self._open:
            raise ValueError(f"`model`: `{path}` contains itself and has no description. {_MAKE_IT}")
        self._open.add(id(value))
        if isinstance(value, dict):
            named = {key: self.value(one, f"{path}[{key!r}]") for key, one in value.items()}
            if all(type(key) is str for key in value):
                described: Any = {"dict": named}
            else:
                described = {"pairs": [[self._key(key, path), one] for key, one in named.items()]}
        elif isinstance(value, (set, frozenset)):
            described = {_SEQUENCES[type(value)]: sorted((self._key(one, path) for one in value), key=repr)}
        else:
            items = [self.value(one, f"{path}[{i}]") for i, one in enumerate(value)]
            described = {"tuple": items} if type(value) is tuple else items
        self._open.discard(id(value))
        return described

    def _key(self, value: Any, path: str) -> Any:
        """A key or an entry of a set, which must have its hash as soon as it is made."""
        before = len(self.objects)
        described = self.value(value, f"{path}[{value!r}]")
        if len(self.objects) > before or (isinstance(described, dict) and "object" in described):
            raise ValueError(
                f"`model`: `{path}` has an object as a key, which cannot be saved. Use its name."
            )
        return described

    def _object(self, value: Any, path: str) -> dict[str, Any]:
        """A dataclass or another object that is nothing but its attributes."""
        if id(value) in self._numbers:
            return {"object": self._numbers[id(value)]}
        name = name_of(type(value)) if _is_plain_object(value) else None
        if name is None:
            raise ValueError(f"`model`: `{path}` {_what(value)}")
        number = self._numbers[id(value)] = len(self.objects)
        self._kept.append(value)
        record: dict[str, Any] = {"class": name}
        self.objects.append(record)
        record["attributes"] = {
            one: self.value(attribute, _join(path, one)) for one, attribute in _state(value).items()
        }
        return {"object": number}


def _constant(value: Any, path: str) -> dict[str, Any] | None:
    """Values of torch, enum members, and what is found by its name."""
    kind = type(value)
    if kind in (torch.dtype, torch.device, torch.memory_format, torch.layout):
        return {kind.__name__: str(value).removeprefix("torch.")}
    if kind is torch.Size:
        return {"size": list(value)}
    if isinstance(value, Enum) and name_of(kind) and kind.__members__.get(value.name) is value:
        return {"enum": name_of(kind), "member": value.name}
    if isinstance(value, type) and (name := name_of(value)):
        return {"class": name}
    if isinstance(value, (FunctionType, BuiltinFunctionType)) and (name := name_of(value)):
        if name.partition(":")[0].partition(".")[0] == "torch" and not is_known_function(name):
            raise ValueError(
                f"`model`: `{path}` is {name}, and of torch's functions only its mathematics is saved. "
                f"{_MAKE_IT}"
            )
        return {"function": name}
    return None


def _check_module(module: nn.Module, path: str) -> None:
    shown = f"`model`: `{path}`" if path else "`model`"
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{shown} is TorchScript, whose code has no description. Use torch.jit.save for it.")
    if "_parameters" not in vars(module):
        raise ValueError(f"{shown} has not called nn.Module's __init__. Call super().__init__() first.")
    if parametrize.is_parametrized(module):
        raise ValueError(
            f"{shown} has parametrizations, which have no description. Call "
            f"torch.nn.utils.parametrize.remove_parametrizations on it first."
        )
    if "_orig_mod" in module._modules:
        raise ValueError(
            f"{shown} is what torch.compile returned. Save its `_orig_mod`; compile after loading."
        )
    for name in sorted(INTERNAL):
        if "hooks" in name and vars(module).get(name) and name != "_load_state_dict_post_hooks":
            raise ValueError(
                f"{shown} has hooks ({name}), which have no description. Remove them before saving, as with "
                f"handle.remove() or torch.nn.utils.prune.remove, and register them after loading."
            )


def _class_name(module: nn.Module, path: str) -> str:
    kind = type(module)
    name = name_of(kind)
    if name is None:
        raise ValueError(
            f"`model`: `{path}` has the class {kind.__module__}.{kind.__qualname__}, which no import finds. "
            f"Define it at the top level of a module."
        )
    return name


def _not_saved(module: nn.Module) -> set[str]:
    """Names that the module's class and its bases leave out."""
    return {name for kind in type(module).__mro__ for name in vars(kind).get("_not_saved", ())}


def _is_plain_object(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, (type, Enum, io.IOBase)) or callable(value) or not hasattr(value, "__dict__"):
        return dataclasses.is_dataclass(value) and not isinstance(value, type)
    own = any("__getstate__" in vars(base) or "__reduce__" in vars(base) for base in kind.__mro__[:-1])
    try:
        object.__new__(kind)
    except TypeError:  # of a class written in C, or a subclass of one
        return False
    return not own and kind.__reduce_ex__ is object.__reduce_ex__


def _state(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})


def _what(value: Any) -> str:
    """The end of an error line: why a value has no description, and what to do."""
    if isinstance(value, MethodType):
        return f"is a bound method, which has no description. Look `{value.__name__}` up where it is called."
    if isinstance(value, functools.partial):
        return "is a functools.partial, which has no description. Write an nn.Module with its arguments."
    if isinstance(value, FunctionType):
        return (
            "is a lambda or a function inside of another, which has no description. Use a function of a "
            "module's top level, or an nn.Module."
        )
    return f"is a {type(value).__module__}.{type(value).__qualname__}, which has no description. {_MAKE_IT}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
