"""Digit strings to reverse or to sort: what the recipe `seq2seq` learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

START, STOP = 10, 11
TASKS: dict[str, tuple[int, Callable[[Sequence[int]], list[int]]]] = {
    "reverse": (12, lambda digits: list(digits[::-1])),
    "sort": (13, sorted),
}
VOCABULARY = 14
IGNORED = -100

Digits = tuple[int, ...]


def is_held_out(digits: Digits) -> bool:
    """Whether a string is kept from training, in both tasks: a tenth is, as a hash of its digits decides.

    >>> sum(is_held_out((a, b, c)) for a in range(10) for b in range(10) for c in range(10))
    93
    """
    return int.from_bytes(blake2b(bytes(digits), digest_size=8).digest(), "big") % 10 == 0


def question(task: str, digits: Digits) -> list[int]:
    """The source: the task's token, then the digits."""
    return [TASKS[task][0], *digits]


def answer(task: str, digits: Digits) -> list[int]:
    """The target: the digits in the task's order, then the stop token.

    >>> answer("reverse", (3, 1, 2)), answer("sort", (3, 1, 2))
    ([2, 1, 3, 11], [1, 2, 3, 11])
    """
    return [*TASKS[task][1](digits), STOP]


def held_out_strings(length: int, count: int) -> list[Digits]:
    """At most ``count`` different held-out strings, always the same; fewer if a thousand draws find no more.

    >>> len(held_out_strings(4, 50)), len(held_out_strings(2, 50))
    (50, 10)
    """
    generator = torch.Generator().manual_seed(length)
    drawn = torch.randint(10, (max(1000, 20 * count), length), generator=generator).tolist()
    found = dict.fromkeys(digits for digits in map(tuple, drawn) if is_held_out(digits))
    return list(found)[:count]


class DigitPairs:
    """Batches of random questions and answers, never of a held-out string, from their own generator.

    Args:
        batch: pairs a draw, each of a task drawn alike.
        lengths: the shortest and the longest string; lengths are drawn alike, too.
        seed: of the generator.

    Shape: `draw` returns the sources ``(batch, longest source)``, True where they are real, what the
    decoder is given ``(batch, longest target)``, and what it should say there, `IGNORED` after its end.

    >>> source, real, given, labels = DigitPairs(batch=2, lengths=(2, 5), seed=0).draw()
    >>> source.shape == real.shape, given.shape == labels.shape
    (True, True)
    """

    def __init__(self, *, batch: int, lengths: tuple[int, int], seed: int) -> None:
        self._batch, (self._shortest, self._longest) = batch, lengths
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pairs: list[tuple[str, Digits]] = []
        while len(pairs) < self._batch:
            pairs += [pair for pair in self._some() if not is_held_out(pair[1])]
        return collate(pairs[: self._batch])

    def _some(self) -> list[tuple[str, Digits]]:
        size, generator, names = (self._batch,), self._generator, list(TASKS)
        digits = torch.randint(10, (*size, self._longest), generator=generator).tolist()
        lengths = torch.randint(self._shortest, self._longest + 1, size, generator=generator).tolist()
        tasks = torch.randint(len(names), size, generator=generator).tolist()
        drawn = zip(tasks, digits, lengths, strict=True)
        return [(names[task], tuple(string[:length])) for task, string, length in drawn]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


def collate(pairs: Sequence[tuple[str, Digits]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `DigitPairs.draw` returns, of these tasks and strings."""
    sources = [torch.tensor(question(*pair)) for pair in pairs]
    answers = [torch.tensor(answer(*pair)) for pair in pairs]
    source = pad_sequence(sources, batch_first=True, padding_value=-1)
    labels = pad_sequence(answers, batch_first=True, padding_value=IGNORED)
    # padding of targets stands on the right, where causality hides it from all that counts
    given = torch.cat((labels.new_full((len(pairs), 1), START), labels[:, :-1]), dim=1)
    return source.clamp(min=0), source >= 0, given.masked_fill(given == IGNORED, STOP), labels
