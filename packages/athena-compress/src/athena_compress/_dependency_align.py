"""Dimensions of several tensors that an operation takes index by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from athena_compress._dependency_labels import Block, Book, Labels


@dataclass
class Operand:
    """Blocks and constant dimensions of a tensor, in the dimensions of an operation."""

    blocks: list[Block]
    constant: set[int]


def operand(book: Book, labels: Labels, places: Sequence[int], sizes: dict[int, int]) -> Operand:
    """A tensor whose dimension ``i`` is the operation's ``places[i]``; sizes of 1 are broadcast."""
    narrow = {dim for dim, place in enumerate(places) if labels.shape[dim] == 1 != sizes[place]}
    names = dict(enumerate(places))
    moved = [block.moved(names) for block in dropped(book.settled(labels.blocks), narrow)]
    covered = {place for block in moved for place in block.dims}
    whole = {place for i, place in enumerate(places) if labels.shape[i] == sizes[place] != 1}
    return Operand(moved, whole - covered)


def dropped(blocks: list[Block], dims: set[int]) -> list[Block]:
    """Blocks without these dimensions, on which nothing is required."""
    found: list[Block] = []
    for block in blocks:
        left: Block | None = block
        for dim in block.dims:
            if dim in dims and left is not None:
                left = left.without(dim)
        if left is not None:
            found.append(left)
    return found


def align(book: Book, operands: list[Operand], why: str) -> list[Block]:
    """Blocks of the result of an operation over equal indices of all operands."""
    result = operands[0]
    for other in operands[1:]:
        result = _merge(book, result, other, why)
    return result.blocks


def broadcast(book: Book, tensors: list[Labels], shape: tuple[int, ...], why: str) -> list[Block]:
    """Blocks of an elementwise operation, with torch's broadcasting."""
    sizes = dict(enumerate(shape))
    operands = [
        operand(book, tensor, range(len(shape) - len(tensor.shape), len(shape)), sizes) for tensor in tensors
    ]
    return align(book, operands, why)


def _merge(book: Book, first: Operand, second: Operand, why: str) -> Operand:
    one = book.close_all(first.blocks, second.constant, why)
    other = book.close_all(second.blocks, first.constant, why)
    constant = first.constant | second.constant
    while (pair := _conflict(one, other)) is not None:
        keep = _shrinking(book, *pair)
        closed = {dim for block in pair for dim in block.dims} - {keep}
        constant |= closed
        one, other = book.close_all(one, closed, why), book.close_all(other, closed, why)
    partners = {block.dims: block for block in other}
    blocks = []
    for block in one:
        partner = partners.pop(block.dims, None)
        if partner is not None:
            book.unify(block.labels, partner.labels)
            book.link(block, partner)
            # A weak one tells nothing of where its size comes from.
            block = partner if block.weak or block.axes[0] < 0 <= partner.axes[0] else block
        blocks.append(block)
    return Operand(blocks + list(partners.values()), constant)


def _conflict(one: list[Block], other: list[Block]) -> tuple[Block, Block] | None:
    """Two blocks that share some dimensions and not all."""
    for block in one:
        for candidate in other:
            if block.dims != candidate.dims and set(block.dims) & set(candidate.dims):
                return block, candidate
    return None


def _shrinking(book: Book, one: Block, other: Block) -> int:
    """The dimension that may shrink where two blocks overlap: the first part of a split, as heads are."""
    joint = one if len(one.dims) > 1 else other
    free = [pair for pair in zip(joint.axes, joint.dims, strict=True) if not book.holds(pair[0])]
    return min(free)[1] if free else joint.dims[0]
