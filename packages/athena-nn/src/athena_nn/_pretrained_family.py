"""What a family of checkpoints is: from config.json to a model and back, and which tensor is which part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from athena_core import SplitEmbedding, SplitLinear
from athena_nn._decoder import Decoder
from athena_nn._decoding_linear import DecodingLinear
from athena_nn._positions import Positions

HEAD = "lm_head.weight"
_Kind = TypeVar("_Kind", int, float, bool, str)
_LARGEST = 2**31 - 1  # sizes beyond are mistakes, and tensors of them torch's own errors
_WORDS = {
    int: "a whole number from 1 to 2**31 - 1",
    float: "a number",
    bool: "true or false",
    str: "a string",
}


class Config:
    """What config.json says, each value checked where it is read; null counts as absent.

    >>> Config({"n_head": 2}).required("n_head", int)
    2
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    @property
    def model_type(self) -> str:
        return self.required("model_type", str)

    def required(self, key: str, kind: type[_Kind]) -> _Kind:
        """Raises ValueError if the key is absent or its value of another kind."""
        value = self.optional(key, kind)
        if value is None:
            raise ValueError(f"config.json must have `{key}`, {_WORDS[kind]}.")
        return value

    def optional(self, key: str, kind: type[_Kind]) -> _Kind | None:
        """Raises ValueError if the value is of another kind."""
        value = self.values.get(key)
        if value is None:
            return None
        right = isinstance(value, (int, float) if kind is float else kind)
        if isinstance(value, bool):
            right = kind is bool
        if not right or (kind is int and not 1 <= cast("int", value) <= _LARGEST):
            raise ValueError(f"config.json: `{key}` must be {_WORDS[kind]}; got {value!r}.")
        return cast("_Kind", value)

    def default(self, key: str, default: _Kind) -> _Kind:
        """The value, or what transformers takes where there is none."""
        value = self.optional(key, type(default))
        return default if value is None else value

    def refuse(self, key: str, *, unless: Any) -> None:
        """Raises ValueError if the key asks for something else than ``unless``, which is its default."""
        value = self.values.get(key)
        if value not in (None, unless):
            raise ValueError(
                f"config.json: `{key}` must be {unless!r} for a {self.model_type}; got {value!r}, which is "
                "not supported."
            )


@dataclass(frozen=True)
class Family:
    """One way in which checkpoints are laid out.

    Attributes:
        model_types: those of config.json that it reads.
        positions: what tells a model to save that it is of this family.
        prefix: of all names but the head's; files of a model without a head lack it.
        depth: what config.json calls the number of layers.
        build: the model that a configuration describes.
        tensors: each tensor of a checkpoint by name, as a view of the parameter that holds it: what is
            copied into them loads a model, what is read from them saves it.
        misfits: what a model has that the family cannot express, in words; empty if it fits.
        describe: config.json of a model that fits.
    """

    model_types: tuple[str, ...]
    positions: type[Positions]
    prefix: str
    depth: str
    build: Callable[[Config], Decoder]
    tensors: Callable[[Decoder], dict[str, Tensor]]
    misfits: Callable[[Decoder], list[str]]
    describe: Callable[[Decoder], dict[str, Any]]


def linear_parts(
    linear: nn.Linear, names: Sequence[str], sizes: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    """Rows of weight and bias that stand one below the other here, and apart in a checkpoint."""
    for kind, parameter in linear.named_parameters():
        for name, part in zip(names, parameter.detach().split(list(sizes)), strict=True):
            yield f"{name}.{kind}", part


def named(module: nn.Module, name: str) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a module that is the same in a checkpoint."""
    for kind, parameter in module.named_parameters():
        yield f"{name}.{kind}", parameter.detach()


def is_tied(model: Decoder) -> bool:
    """Whether the output projection is the embedding's matrix."""
    return model.head.weight is model.embedding.weight


def misfits_of_all(model: Decoder) -> list[str]:
    """What a model has that no family here can express, in words."""
    blocks = model.layers()
    has = {
        "layers prepared for decoding (save the model that they were prepared from)": any(
            isinstance(module, DecodingLinear) for module in model.modules()
        ),
        "a vocabulary in pieces (load its state dict into a model that is not placed)": isinstance(
            model.head, SplitLinear
        )
        or isinstance(model.embedding, SplitEmbedding),
        "an embedding norm": not isinstance(model.embedding_norm, nn.Identity),
        "an embedding scale": model.embedding_scale != 1,
        "norms after the sum": not all(block.norm_first for block in blocks),
        "cross-attention": any(block.cross_attention is not None for block in blocks),
        "query and key norms": any(block.attention.q_norm is not None for block in blocks),
        "positions of single blocks": any(block.attention.positions is not None for block in blocks),
        "no `max_length` (set it)": model.max_length is None,
    }
    return [words for words, found in has.items() if found]


def norms(model: Decoder) -> list[nn.Module]:
    """All norms along the stream, the last one first."""
    pairs = [(block.attention_norm, block.feed_forward_norm) for block in model.layers()]
    return [model.norm, *(norm for pair in pairs for norm in pair)]
