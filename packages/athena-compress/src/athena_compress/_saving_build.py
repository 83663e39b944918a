"""A model from its description; no constructor is called, and no code of the file's runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from inspect import getattr_static
from types import MemberDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athena_compress._saving_describe import INTERNAL
from athena_compress._saving_names import Names

_TORCH = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def build(tree: Mapping[str, Any], tensors: list[Tensor], names: Names) -> nn.Module:
    """All modules and objects are made first and filled then, since they may refer to one another.

    Raises ValueError for names that are not found or not trusted. A damaged one raises whatever comes.
    """
    builder = _Builder(tree, tensors, names)
    builder.fill(tree)
    return builder.modules[0]


class _Builder:
    def __init__(self, tree: Mapping[str, Any], tensors: list[Tensor], names: Names) -> None:
        self._tensors, self._names = tensors, names
        self.modules = [_blank(names.module_class(one["class"])) for one in tree["modules"]]
        self.objects = [
            object.__new__(names.object_class(one["class"], tuple(one["attributes"])))
            for one in tree["objects"]
        ]
        self._make: dict[str, Callable[[Any], Any]] = {
            "float": float,
            "tuple": lambda items: tuple(self.value(one) for one in items),
            "set": lambda items: {self.value(one) for one in items},
            "frozenset": lambda items: frozenset(self.value(one) for one in items),
            "dict": lambda items: {key: self.value(one) for key, one in items.items()},
            "pairs": lambda items: {self.value(key): self.value(one) for key, one in items},
            "size": torch.Size,
            "device": torch.device,
            "tensor": lambda number: self._tensors[number],
            "module": lambda number: self.modules[number],
            "object": lambda number: self.objects[number],
            "function": names.function,
            "class": names.any_class,
            "weak": self._weak,
        }

    def fill(self, tree: Mapping[str, Any]) -> None:
        for built, record in zip(self.objects, tree["objects"], strict=True):
            for name, one in record["attributes"].items():
                _set(built, name, self.value(one))
        for module, record in zip(self.modules, tree["modules"], strict=True):
            self._fill_module(module, record)

    def _fill_module(self, module: nn.Module, record: Mapping[str, Any]) -> None:
        taken = INTERNAL.intersection(record["attributes"])
        if taken:
            raise ValueError(f"`{record['path']}` must leave {', '.join(sorted(taken))} to nn.Module.")
        state = vars(module)
        for part in ("parameters", "buffers"):
            held = {key: None if n is None else self._tensors[n] for key, n in record[part].items()}
            state[f"_{part}"].update(held)
        children = record["modules"].items()
        state["_modules"].update({key: None if n is None else self.modules[n] for key, n in children})
        state["_non_persistent_buffers_set"].update(record["temporary"])
        for name, one in record["attributes"].items():
            state[name] = self.value(one)
        for hook in self.value(record.get("after_load_state_dict", [])):
            hooks = state["_load_state_dict_post_hooks"]
            hooks[RemovableHandle(hooks).id] = hook

    def value(self, described: Any) -> Any:
        if isinstance(described, list):
            return [self.value(one) for one in described]
        if not isinstance(described, dict):
            return described
        kind, content = next(iter(described.items()))
        if kind == "enum":
            return self._names.enum_class(content).__members__[described["member"]]
        if kind in _TORCH:
            found = getattr(torch, content)
            if not isinstance(found, _TORCH[kind]):
                raise TypeError(f"{content} is no {kind}")
            return found
        return self._make[kind](content)

    def _weak(self, content: Any) -> Any:
        held = self.value(content)
        return None if held is None else weakref.ref(held)


def _blank(kind: type[nn.Module]) -> nn.Module:
    """A module as nn.Module's constructor leaves it, of any class."""
    module = object.__new__(kind)
    vars(module).update(vars(nn.Module()))
    return module


def _set(built: Any, name: str, value: Any) -> None:
    """Set what an object holds, by none of its class's own ways of setting."""
    if isinstance(getattr_static(type(built), name, None), MemberDescriptorType):  # one of `__slots__`
        object.__setattr__(built, name, value)
    else:
        vars(built)[name] = value
