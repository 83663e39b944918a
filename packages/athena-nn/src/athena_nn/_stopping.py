"""When a row of generated tokens ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence


def check_stop_tokens(stop_tokens: Collection[int], vocabulary: int) -> None:
    """TypeError unless these are a collection of integers; ValueError for one outside the vocabulary."""
    if not isinstance(stop_tokens, Collection) or not all(_is_token(token) for token in stop_tokens):
        raise TypeError(
            f"`stop_tokens` must be a collection of token ids, such as (2,); got {stop_tokens!r}."
        )
    for token in stop_tokens:
        if not 0 <= token < vocabulary:
            raise ValueError(f"`stop_tokens` must lie in [0, {vocabulary}); got {token}.")


def check_stop_strings(stop_strings: Collection[str], decode: Callable[[list[int]], str] | None) -> None:
    """TypeError unless these are a collection of strings; ValueError if they could stop nothing."""
    collection = isinstance(stop_strings, Collection) and not isinstance(stop_strings, str)
    if not collection or not all(isinstance(text, str) for text in stop_strings):
        raise TypeError(
            f'`stop_strings` must be a collection of strings, such as ("\\n",); got {stop_strings!r}.'
        )
    if "" in stop_strings:
        raise ValueError("`stop_strings` must not hold the empty string, which every text contains.")
    if bool(stop_strings) != (decode is not None):
        raise ValueError(
            "`stop_strings` and `decode` go together; got only one. Strings need a tokenizer's `decode`."
        )


def _is_token(token: object) -> bool:
    return isinstance(token, int) and not isinstance(token, bool)


class Stopping:
    """Which rows have met a stop token or a stop string.

    Everything is looked at on the host: however many the conditions, a step reads the device once.

    Args:
        batch: rows.
        stop_tokens: a row ends with the first of these.
        stop_strings: a row ends with the token whose text completes the first of these.
        decode: the text of token ids; it is given all new tokens of a row, as the text of the last few
            alone may differ from the end of the text of all.

    >>> stopping = Stopping(2, stop_tokens=(2,))
    >>> stopping.update([5, 2])
    True
    >>> stopping.done
    [False, True]
    """

    def __init__(
        self,
        batch: int,
        *,
        stop_tokens: Collection[int] = (),
        stop_strings: Collection[str] = (),
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        self.done = [False] * batch
        self._tokens = frozenset(stop_tokens)
        self._strings = tuple(stop_strings)
        self._decode = decode
        self._rows: list[list[int]] = [[] for _ in range(batch)]

    def __bool__(self) -> bool:
        """Whether there is anything that could end a row."""
        return bool(self._tokens or self._strings)

    def update(self, tokens: Sequence[int]) -> bool:
        """Take each row's new token; return whether a row ended with it. Rows that are done stay so."""
        ended = [
            not done and self._ends(row, token)
            for row, (done, token) in enumerate(zip(self.done, tokens, strict=True))
        ]
        self.done = [old or new for old, new in zip(self.done, ended, strict=True)]
        return any(ended)

    def _ends(self, row: int, token: int) -> bool:
        if token in self._tokens:
            return True
        if self._decode is None:
            return False
        self._rows[row].append(token)
        text = self._decode(self._rows[row])
        return any(string in text for string in self._strings)
