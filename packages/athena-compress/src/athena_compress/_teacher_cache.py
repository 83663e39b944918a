"""A teacher's outputs on disk: computed once, checked, read by index."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._call import several
from athena_compress._modes import evaluating
from athena_compress._teacher_cache_files import check_teacher, fingerprint, map_shard, read_index
from athena_compress._teacher_cache_writer import CacheWriter, checked_options
from athena_compress._top_k import TopLogits, restored_logits
from athena_core import AthenaError


class TeacherCache:
    """Logits of a teacher for a data set, in a folder that `TeacherCache.write` made.

    ``cache[indices]`` gives the logits of these examples, numbered in the order in which they were written,
    as float32 on the CPU: what ``Distiller.loss(..., teacher_outputs=...)`` takes. Files are mapped into
    memory: of each, what is asked for is read, once its checksum was compared at its first use.

    Args:
        folder: where it was written.
        teacher: compared with the one that the outputs are of.
        length: of the data set, compared with the number of outputs.

    Raises AthenaError for a folder that is no cache or is not written to its end, a file that was cut short
    or changed, another teacher, and another length; IndexError for an example that is not there.

    >>> import tempfile
    >>> folder, teacher, data = tempfile.mkdtemp(), nn.Linear(3, 2), torch.randn(10, 3)
    >>> cache = TeacherCache.write(folder, teacher, data.split(4))
    >>> len(cache), bool((cache[[7, 2]] == teacher(data)[[7, 2]]).all())
    (10, True)
    >>> again = TeacherCache(folder, teacher=teacher, length=10)
    """

    def __init__(
        self, folder: str | Path, *, teacher: nn.Module | None = None, length: int | None = None
    ) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if not index["complete"]:
            raise AthenaError(
                f"{self.folder} is not written to its end. Call TeacherCache.write again, which goes on."
            )
        if teacher is not None:
            check_teacher(self.folder, index, fingerprint(teacher))
        self._shards: list[dict[str, Any]] = index["shards"]
        self._ends = list(accumulate(shard["examples"] for shard in self._shards))
        self._top_k, self._n_classes = index["top_k"], index["n_classes"]
        self._mapped: dict[int, dict[str, Tensor]] = {}
        if length is not None and length != len(self):
            raise AthenaError(
                f"{self.folder} is of other data: it has outputs of {len(self)} examples, and the data set "
                f"has {length}. Write one, in another folder."
            )

    @classmethod
    def write(
        cls,
        folder: str | Path,
        teacher: nn.Module,
        batches: Iterable[Any],
        *,
        dtype: str = "float32",
        top_k: int | None = None,
        shard_examples: int = 4096,
    ) -> TeacherCache:
        """Run the teacher over a data set, once, and open the cache.

        Where an earlier call was interrupted, the teacher runs for what is missing alone, and where it was
        not, for nothing: the batches are read, and compared with those that the outputs are of.

        Args:
            folder: made if it is not there.
            teacher: runs in eval mode, without gradients; left in its own modes.
            batches: of the teacher's inputs, as `Distiller.loss` takes them, in the order of the examples'
                indices: not shuffled, and the same at each call.
            dtype: of the logits on disk: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
            top_k: keep the k largest logits of the last axis, and the mass of the others, which are read as
                equal to one another.
            shard_examples: examples a file, rounded up to whole batches.

        Raises AthenaError for a cache of another teacher, data, or options, and a damaged one; ValueError for
        an unknown dtype, a ``top_k`` that is not in [1, classes], outputs of examples that differ in shape,
        and logits too large for the dtype.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        options = checked_options(dtype, top_k, shard_examples)
        writer = CacheWriter(folder, teacher, options)
        with evaluating(teacher), torch.no_grad():
            for batch in several(batches):
                writer.add(batch)
        writer.finish()
        return cls(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}  # a worker process maps the files itself

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, indices: int | Sequence[int] | Tensor) -> Tensor:
        if isinstance(indices, slice):
            raise IndexError(f"indices must be whole numbers; got {indices}. Pass a range of them.")
        wanted = torch.as_tensor(indices, device="cpu")
        if wanted.numel() and (wanted.dtype == torch.bool or wanted.is_floating_point()):  # [] is of floats
            raise IndexError(
                f"indices must be whole numbers; got {wanted.dtype}. Pass those of the examples."
            )
        flat = wanted.reshape(-1).tolist()
        for index in flat:
            if not 0 <= index < len(self):
                raise IndexError(f"an index must lie in [0, {len(self) - 1}]; got {index}.")
        places: dict[int, list[int]] = {}
        for place, index in enumerate(flat):
            places.setdefault(bisect_right(self._ends, index), []).append(place)
        if not places:
            places = {0: []}
        parts = {
            shard: self._logits(shard, [flat[place] for place in chosen]) for shard, chosen in places.items()
        }
        first = next(iter(parts.values()))
        found = first.new_empty(len(flat), *first.shape[1:])
        for shard, chosen in places.items():
            found[chosen] = parts[shard]
        return found.reshape(*wanted.shape, *first.shape[1:])

    def _logits(self, shard: int, indices: list[int]) -> Tensor:
        if shard not in self._mapped:
            self._mapped[shard] = map_shard(self.folder, self._shards[shard])
        begin = self._ends[shard] - self._shards[shard]["examples"]
        rows = torch.tensor([index - begin for index in indices], dtype=torch.long)
        chosen = {name: tensor.index_select(0, rows) for name, tensor in self._mapped[shard].items()}
        if self._top_k is None:
            return chosen["logits"].float()
        top = TopLogits(chosen["values"].float(), chosen["classes"], chosen["rest"])
        return restored_logits(top, self._n_classes)
