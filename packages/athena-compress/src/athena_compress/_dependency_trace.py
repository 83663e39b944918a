"""Running a model on an example while every operation of ATen is followed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

import athena_compress._dependency_image_ops  # noqa: F401  (enters its rules)
from athena_compress._call import call
from athena_compress._dependency_labels import Array, Block, Book, Labels
from athena_compress._dependency_ops import elementwise
from athena_compress._dependency_rules import RULES, Call, Findings
from athena_compress._dependency_shape_ops import _view  # noqa: F401  (enters its rules)
from athena_compress._modes import evaluating
from athena_core import kernels_disabled

_FOLDERS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))


class UntraceableError(RuntimeError):
    """A model whose dependencies cannot be told from one run."""


@dataclass
class Trace:
    """What a run told: labels of each parameter and buffer that took part, and what joins them."""

    book: Book
    findings: Findings
    labels: dict[str, list[Array]]  # by name, one array a dimension
    parameters: frozenset[str]


class Follower(TorchDispatchMode):
    """Gives labels to what each operation returns."""

    def __init__(self, named: dict[str, Tensor], whole_groups: dict[str, bool]) -> None:
        super().__init__()
        self.book, self.findings = Book(), Findings(whole_groups=dict(whole_groups))
        self.names = {id(tensor): name for name, tensor in named.items()}
        self.weights: dict[str, Labels] = {}
        self.known: Any = WeakTensorKeyDictionary()
        self.modules: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        function = RULES.get(name) or RULES.get(name.removesuffix("_"))
        pointwise = torch.Tag.pointwise in func.tags
        if function is None and not pointwise:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        labelled = [self._labelled(arg) for arg in args]
        options = {key: self._labelled(value) for key, value in kwargs.items()}
        given = _labels_in([labelled, options])
        level = _level(given)
        if name in ("_local_scalar_dense", "equal", "is_nonzero") and level == 2:
            raise UntraceableError(self._branch())
        result = func(*args, **kwargs)
        outputs = [one for one in _flat(result) if isinstance(one, Tensor)]
        shapes = [tuple(one.shape) for one in outputs]
        call = Call(name, labelled, options, shapes, self._module(), self.book, self.findings, self._name_of)
        blocks = function(call) if function else elementwise(call) if pointwise else _unknown(call, given)
        for output, its in zip(outputs, blocks, strict=True):
            if id(output) not in self.names:
                some = [block for block in its if block.labels.size]  # a dimension of 0 has none
                self.known[output] = Labels(tuple(output.shape), some, level)
        return result

    def label_inputs(self, inputs: Any) -> None:
        """The model's inputs: constant sizes, and values that change."""
        for tensor in tensors(inputs):
            real = tensor.dtype.is_floating_point or tensor.dtype.is_complex
            self.known[tensor] = Labels(tuple(tensor.shape), [], 2 if real else 1)

    def fix_outputs(self, outputs: Any) -> None:
        """The model's outputs keep their sizes."""
        for tensor in tensors(outputs):
            labels = self.labels_of(tensor)
            blocks = self.book.settled(labels.blocks)
            self.book.close_all(blocks, set(range(len(labels.shape))), "they are an output of the model")

    def labels_of(self, tensor: Tensor) -> Labels:
        """Labels of a tensor; one that was there before and is no weight has constant sizes."""
        name = self.names.get(id(tensor))
        if name is None:
            found = self.known.get(tensor)
            return Labels(tuple(tensor.shape), []) if found is None else found
        if name not in self.weights:
            shape = tuple(tensor.shape)
            self.weights[name] = Labels(shape, self.book.fresh_blocks(shape), learned=True)
        return self.weights[name]

    def _labelled(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.labels_of(value)
        if isinstance(value, (list, tuple)):
            return [self._labelled(one) for one in value]
        return value

    def _module(self) -> str:
        return self.modules[-1] if self.modules else ""

    def _name_of(self, labels: Labels) -> str:
        return next((name for name, own in self.weights.items() if own is labels), self._module())

    def _branch(self) -> str:
        frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(_FOLDERS)]
        line = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "an unknown line"
        where = f"module {self._module()!r}" if self._module() else "the model"
        return (
            f"The model must compute alike for all inputs; {where} looks at a computed value ({line}), so "
            "one run does not show all it may do. Take the branch out, or prune the parts around it alone."
        )


def _unknown(call: Call, given: list[Labels]) -> list[list[Block]]:
    for labels in given:
        call.fix_all(labels, f"the operation {call.place} is not known to keep them apart")
    return [[] for _ in call.shapes]


def _labels_in(value: Any) -> list[Labels]:
    if isinstance(value, Labels):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [labels for one in values for labels in _labels_in(one)]


def _level(given: list[Labels]) -> int:
    level = max((labels.level for labels in given), default=0)
    return 2 if level and any(labels.learned for labels in given) else level


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in _flat(part)]
    return [value]


def tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors(getattr(value, one.name))


def follower_of(model: nn.Module, whole_groups: dict[str, bool] | None = None) -> Follower:
    """What follows a run of this model; with decisions on grouped convolutions of an earlier one."""
    return Follower(dict(model.named_parameters()) | dict(model.named_buffers()), whole_groups or {})


def follow(model: nn.Module, example_inputs: Any, follower: Follower) -> Trace:
    """Run the model and note what its operations do to the dimensions of its weights."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, *_: Any) -> None:
        follower.modules.append(names.get(id(module), follower._module()))

    def leave(*_: Any) -> None:
        follower.modules.pop()

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(kernels_disabled())  # of which ATen's operations would not be seen
        for handle in (register_module_forward_pre_hook(enter), register_module_forward_hook(leave)):
            stack.callback(handle.remove)
        follower.label_inputs(example_inputs)
        try:
            with follower:
                output = call(model, example_inputs)
        except UntraceableError:
            raise
        except Exception as error:
            where = f"module {follower._module()!r}" if follower._module() else "the model"
            error.add_note(f"raised by {where} while it was run on `example_inputs`")
            raise
        follower.fix_outputs(output)
    labels = {name: [block.labels for block in labels.blocks] for name, labels in follower.weights.items()}
    parameters = frozenset(name for name, _ in model.named_parameters())
    return Trace(follower.book, follower.findings, labels, parameters)
