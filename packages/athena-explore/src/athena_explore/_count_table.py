"""A table from 64-bit keys to counts, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from athena_explore._memory import Memory
from athena_explore._state_keys import mix

_ROW = 8  # slots that are looked through at once
_SMALLEST = 8  # rows
_ROW_MIX = -7723592293110705685  # 0x94D049BB133111EB: keys of one table need not be well spread


@dataclass(frozen=True, eq=False)
class Found:
    """Counts of keys ``(B,)``, and where `CountTable.add` puts them if nothing was added since."""

    counts: Tensor
    places: Tensor
    version: int

    def __getitem__(self, rows: Tensor) -> Found:
        return Found(self.counts[rows], self.places[rows], self.version)


class CountTable(Memory):
    """How often each 64-bit key was counted, exactly; looking up and adding are vectorised.

    Rows of eight slots of 16 bytes, two to four of them a key: 32 to 64 bytes a distinct key. With labels a
    slot has 24 bytes, and a live key two to six of them. The table grows when half full, the old one beside
    the new meanwhile. Checkpoints hold the keys in ascending order and their counts, 16 bytes a key.

    Args:
        live: keep an integer label beside each key, and forget keys whose label this function denies: at the
            latest when the table grows. None keeps all.

    Source: open addressing in buckets, Knuth, The Art of Computer Programming, volume 3, section 6.4. Departs
    from it: many keys at a time.

    >>> table = CountTable()
    >>> table.add(torch.tensor([7, 9]), torch.tensor([2, 1]))
    >>> table.look_up(torch.tensor([7, 8, 9]))
    tensor([2, 0, 1])
    """

    def __init__(self, *, live: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.live = live
        self._names = ("keys", "counts") if live is None else ("keys", "counts", "labels")
        self._used = 0  # slots, those of keys no longer live among them
        self._version = 0

    def __len__(self) -> int:
        """How many keys there are."""
        return self._used if self.live is None else len(self.entries()["keys"])

    @property
    def slots(self) -> int:
        """How many keys there is memory for."""
        return len(self["table"]) * _ROW if "table" in self else 0

    def look_up(self, keys: Tensor) -> Tensor:
        """The counts of keys ``(B,)``, 0 of those that are not there."""
        return self.find(keys).counts

    def find(self, keys: Tensor) -> Found:
        """Their counts, and their places, of which `add` makes use."""
        if "table" not in self:
            nothing = torch.zeros_like(keys)
            return Found(nothing, nothing, -1)
        places = self._places(keys)
        return Found(self["table"].view(-1)[places + _ROW], places, self._version)

    def add(
        self, keys: Tensor, amounts: Tensor, *, labels: Tensor | None = None, found: Found | None = None
    ) -> None:
        """Add positive amounts to the counts of keys ``(B,)``, no two the same.

        Args:
            labels: of the keys, if any are kept.
            found: what `find` said of the keys, to save looking for them again.
        """
        if not len(keys):
            return
        places = found.places if found is not None and found.version == self._version else None
        if 2 * (self._used + len(keys)) > self.slots:
            self._grow(len(keys))
            places = None
        self._version += 1
        self._put(keys, amounts, labels, places)

    def entries(self) -> dict[str, Tensor]:
        """Live keys in ascending order, their counts, and their labels if any are kept."""
        columns = self._columns()
        return dict(zip(self._names, columns[:, columns[0].argsort()], strict=True))

    def clear(self) -> None:
        super().clear()
        self._used = 0
        self._version += 1

    def _columns(self) -> Tensor:
        """Live keys, their counts and labels, in no order."""
        if "table" not in self:
            return torch.zeros(len(self._names), 0, dtype=torch.int64, device=self.device)
        columns = self["table"].movedim(1, 0).flatten(1)
        kept = columns[:, columns[1] > 0]
        return kept[:, self.live(kept[2])] if self.live is not None else kept

    def _grow(self, more: int) -> None:
        columns = self._columns()
        share = 2 if self.live is None else 3  # with room for those that die before the next time
        wanted = -(-share * (columns.shape[1] + more) // _ROW)
        rows = max(_SMALLEST, 1 << (wanted - 1).bit_length())
        self["table"] = torch.zeros(rows, len(self._names), _ROW, dtype=torch.int64, device=self.device)
        self._used = 0
        labels = columns[2] if self.live is not None else None
        stride = self["table"][0].numel()
        self._put(columns[0], columns[1], labels, self._home(columns[0]) * stride)  # all rows are free yet

    def _put(self, keys: Tensor, amounts: Tensor, labels: Tensor | None, places: Tensor | None) -> None:
        """Add to the counts where there is room for all."""
        flat = self["table"].view(-1)
        while len(keys):
            places = self._places(keys) if places is None else places
            if bool(flat[places + _ROW].all()):  # none is new
                flat[places + _ROW] += amounts
                return
            nth, _ = occurrences(places)  # keys that are new may meet in a row
            fits = places % _ROW + nth <= _ROW
            here, left = fits.nonzero()[:, 0], (~fits).nonzero()[:, 0]
            places = (places + nth - 1)[here]
            before = flat[places + _ROW]
            flat[places] = keys[here]
            flat[places + _ROW] = before + amounts[here]
            self._used += len(before) - int(before.count_nonzero())
            if labels is not None:
                flat[places + 2 * _ROW] = labels[here]
                labels = labels[left]
            keys, amounts, places = keys[left], amounts[left], None

    def _home(self, keys: Tensor) -> Tensor:
        """The row in which a key belongs if there is room."""
        return mix(keys, _ROW_MIX) & (len(self["table"]) - 1)

    def _places(self, keys: Tensor) -> Tensor:
        """Where in the flat table each key is, or the free slot where it would be."""
        table, rows = self["table"], self._home(keys)
        last, stride = len(table) - 1, table[0].numel()
        places, going = torch.empty_like(keys), None
        while True:
            held = table.index_select(0, rows)
            fits = (held[:, 0] == keys[:, None]) | (held[:, 1] == 0)  # a row fills from the left
            found = rows * stride + fits.to(torch.uint8).argmax(1)
            if going is None:
                places = found
            else:
                places[going] = found
            full = (~fits.any(1)).nonzero()[:, 0]
            if not len(full):
                return places
            going = full if going is None else going[full]
            keys, rows = keys[full], (rows[full] + 1) & last

    def get_extra_state(self) -> dict[str, Tensor]:
        return self.entries()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.clear()
        state = {name: tensor.to(self.device) for name, tensor in state.items()}
        self.add(state["keys"], state["counts"], labels=state.get("labels"))


def occurrences(keys: Tensor) -> tuple[Tensor, Tensor]:
    """How manieth of its kind each key is along the first axis, from 1, and whether it is the last.

    >>> occurrences(torch.tensor([5, 3, 5, 5]))
    (tensor([1, 1, 2, 3]), tensor([False,  True, False,  True]))
    """
    if not keys.numel():
        return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
    ordered, order = keys.sort(dim=0, stable=True)
    position = torch.arange(len(keys), device=keys.device).view(-1, *[1] * (keys.dim() - 1))
    edge = torch.ones_like(keys[:1], dtype=torch.bool)
    changes = ordered[1:] != ordered[:-1]
    start = torch.where(torch.cat([edge, changes]), position, 0).cummax(0).values
    nth = torch.empty_like(keys).scatter_(0, order, position - start + 1)
    return nth, torch.empty_like(keys, dtype=torch.bool).scatter_(0, order, torch.cat([changes, edge]))
