"""Writing a teacher's outputs: shard by shard, and on from where an earlier writer stopped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._call import call
from athena_compress._capture import logits_of
from athena_compress._teacher_cache_files import (
    INDEX,
    check_teacher,
    fingerprint,
    read_index,
    update,
    write_index,
    write_shard,
)
from athena_compress._top_k import top_logits
from athena_core import AthenaError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CacheWriter:
    """Gathers outputs into shards; passes over those that an earlier writer finished."""

    def __init__(self, folder: Path, teacher: nn.Module, options: dict[str, Any]) -> None:
        self.folder, self.teacher = folder, teacher
        own = {"teacher": fingerprint(teacher), **options}
        self.index: dict[str, Any] = {**own, "n_classes": None, "complete": False, "shards": []}
        for left in folder.glob(".*.tmp"):  # of a writer that was killed
            left.unlink(missing_ok=True)
        if (folder / INDEX).exists():
            self.index = read_index(folder)
            check_teacher(folder, self.index, own["teacher"])
            changed = [name for name in options if self.index[name] != options[name]]
            if changed:
                raise AthenaError(
                    f"{folder} was written with another `{changed[0]}`: {self.index[changed[0]]}, now "
                    f"{options[changed[0]]}. Pass that, or another folder."
                )
        self.number = 0
        self._begin()

    def add(self, batch: Any) -> None:
        if self._known() is None and self.index["complete"]:
            raise self._other_data("has more batches")
        update(self.digest, batch)
        self.batches += 1
        known = self._known()
        if known is None:
            logits = logits_of(call(self.teacher, batch)).detach().cpu()
            self._gather(logits)
            self.examples += len(logits)
            if self.examples >= self.index["shard_examples"]:
                self._end()
        elif self.batches == known["batches"]:
            if self.digest.hexdigest() != known["data"]:
                raise self._other_data(f"differs in the batches of {known['file']}")
            self.number += 1
            self._begin()

    def finish(self) -> None:
        """Write what is gathered, and that the cache is whole."""
        if self._known() is not None:
            raise self._other_data("has fewer batches")
        if self.examples:
            self._end()
        if not self.index["shards"]:
            raise ValueError(
                "`batches` must hold at least one example; got none. An iterator is used up once."
            )
        if not self.index["complete"]:
            self.index["complete"] = True
            write_index(self.folder, self.index)

    def _begin(self) -> None:
        self.digest = hashlib.sha256()
        self.batches = self.examples = 0
        self.gathered: list[dict[str, Tensor]] = []

    def _known(self) -> dict[str, Any] | None:
        shards = self.index["shards"]
        return shards[self.number] if self.number < len(shards) else None

    def _gather(self, logits: Tensor) -> None:
        shape = list(logits.shape[1:])
        if self.index.setdefault("shape", shape) != shape:
            raise ValueError(
                f"all examples must have outputs of one shape; got {tuple(self.index['shape'])} and "
                f"{tuple(shape)}. Pad inputs to one length."
            )
        self.index["n_classes"] = shape[-1] if shape else 1
        self.gathered.append(_stored(logits, DTYPES[self.index["dtype"]], self.index["top_k"]))

    def _end(self) -> None:
        tensors = {name: torch.cat([part[name] for part in self.gathered]) for name in self.gathered[0]}
        shard = write_shard(self.folder, self.number, tensors)
        shard |= {"examples": self.examples, "batches": self.batches, "data": self.digest.hexdigest()}
        self.index["shards"].append(shard)
        write_index(self.folder, self.index)  # after the shard: what it names is there
        self.number += 1
        self._begin()

    def _other_data(self, how: str) -> AthenaError:
        return AthenaError(
            f"{self.folder} is of other data: what was passed {how}. Pass the same, unshuffled, or another "
            "folder."
        )


def _stored(logits: Tensor, dtype: torch.dtype, top_k: int | None) -> dict[str, Tensor]:
    if top_k is None:
        tensors = {"logits": logits.to(dtype)}
        kept = tensors["logits"]
    else:
        if not top_k <= logits.shape[-1]:
            raise ValueError(f"`top_k` must lie in [1, {logits.shape[-1]}], the classes; got {top_k}.")
        top = top_logits(logits.float(), top_k)
        kept = top.values.to(dtype)
        tensors = {"values": kept, "classes": top.classes, "rest": top.rest}
    if kept.isinf().sum() > logits.isinf().sum():
        raise ValueError(
            f"`dtype` must hold the teacher's logits, up to {logits.abs().max().item():g}; got {dtype}. Use "
            "'bfloat16' or 'float32'."
        )
    return tensors


def checked_options(dtype: str, top_k: int | None, shard_examples: int) -> dict[str, Any]:
    """The options as the index holds them. Raises ValueError for those that cannot be."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {list(DTYPES)}; got {dtype!r}.")
    for parameter, value in (("top_k", top_k), ("shard_examples", shard_examples)):
        if value is not None and value < 1:
            raise ValueError(f"`{parameter}` must be at least 1; got {value}.")
    return {"dtype": dtype, "top_k": top_k, "shard_examples": shard_examples}
