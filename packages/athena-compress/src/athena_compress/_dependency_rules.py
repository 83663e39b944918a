"""The table of rules: what an operation of ATen does to the labels of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from athena_compress._dependency_labels import Array, Block, Book, Labels


@dataclass
class Attention:
    """Heads of an attention: a label for each query head and for each key-value head, and its module."""

    module: str
    queries: Array
    keys: Array
    width: int  # of a head


@dataclass
class Findings:
    """What a trace notes beside labels."""

    heads: list[Array] = field(default_factory=list)
    convolved: list[Array] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    normed: dict[str, Array] = field(default_factory=dict)  # channels of norms over them, by module
    whole_groups: dict[str, bool] = field(default_factory=dict)  # of grouped convolutions, by weight


@dataclass
class Call:
    """An operation that ran: its arguments, with labels in place of tensors, and where it ran."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    shapes: list[tuple[int, ...]]  # of the tensors that it returned
    module: str
    book: Book
    findings: Findings
    parameter_name: Callable[[Labels], str]

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, by position or name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def place(self) -> str:
        """The operation and its module, for reasons."""
        return f"{self.name} in {self.module!r}" if self.module else self.name

    @property
    def constant(self) -> str:
        """Why labels that meet a constant size are fixed."""
        return f"their number is set by the model's input or by a constant, which they meet at {self.place}"

    def dim(self, dim: int, labels: Labels) -> int:
        """A dimension counted from the front."""
        return dim % max(len(labels.shape), 1)

    def vector(self, labels: Labels, dim: int) -> Array:
        """Labels of a dimension by itself; only the first part of a split shrinks, as heads do."""
        block = next((one for one in self.book.settled(labels.blocks) if dim in one.dims), None)
        if block is not None:
            shrinking = min(zip(block.axes, block.dims, strict=True))[1]
            left = self.book.close_all([block], set(block.dims) - {shrinking}, self.constant)
            if shrinking == dim and left:
                return left[0].labels
        fresh = self.book.fresh(labels.shape[dim])
        self.book.fix(fresh, self.constant)
        return fresh

    def fix_all(self, labels: Labels, why: str) -> None:
        """Every dimension of a tensor keeps its size."""
        self.book.close_all(self.book.settled(labels.blocks), set(range(len(labels.shape))), why)


Rule = Callable[[Call], list[list[Block]]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for these operations; it returns the blocks of each tensor that they return."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def tensors_in(value: Any) -> list[Labels]:
    """All labels among arguments."""
    if isinstance(value, Labels):
        return [value]
    if isinstance(value, (list, tuple)):
        return [labels for one in value for labels in tensors_in(one)]
    return []
