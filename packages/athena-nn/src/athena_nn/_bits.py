"""What a text costs without a model: its unigram entropy, and xz."""

from __future__ import annotations

import lzma
from collections import Counter
from math import log2

GIVEN_LIMIT = 16 * 2**20


def unigram_entropy(text: bytes) -> float:
    r"""Entropy of single bytes, :math:`-\sum_b p_b \log_2 p_b`, with their frequencies in ``text``.

    In bits a byte: what an ideal code needs that knows the frequencies and nothing else.
    Raises ValueError for an empty text.

    >>> unigram_entropy(b"aabb"), unigram_entropy(b"aaaa")
    (1.0, 0.0)
    """
    if not text:
        raise ValueError("`text` must not be empty.")
    shares = [count / len(text) for count in Counter(text).values()]
    return sum(-share * log2(share) for share in shares)


def xz_bits(text: bytes, *, given: bytes = b"") -> float:
    """Bits a byte that ``xz -9e`` needs for ``text``, after ``given`` if that is there.

    The size of both together less that of ``given`` alone; of ``given`` the last 16 MiB count, to
    bound the time. Raises ValueError for an empty text.

    >>> xz_bits(bytes(range(256)), given=bytes(range(256))) < xz_bits(bytes(range(256)))
    True
    """
    if not text:
        raise ValueError("`text` must not be empty.")
    given = given[-GIVEN_LIMIT:]
    known = _xz_bytes(given) if given else 0
    return 8 * (_xz_bytes(given + text) - known) / len(text)


def _xz_bytes(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
