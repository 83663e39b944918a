"""The file that Glyphs are kept in: an array in the NumPy format, then its SHA-256; whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from athena_meta._glyph_alphabet import ALPHABETS, CHARACTERS, skeletons
from athena_meta._glyph_drawer import DRAWERS, SIZE, draw_character, drawers
from athena_meta._progress_bar import progress_bar

VERSION = 1  # of the drawn bytes: another drawing gets another file
DIGEST = 32  # bytes of a SHA-256


def glyph_path(folder: Path, seed: int) -> Path:
    """Where the glyphs of a seed are kept."""
    return folder / f"glyphs-v{VERSION}-seed{seed}.npy"


def draw_alphabets(seed: int, alphabets: int = ALPHABETS) -> Iterator[NDArray[np.uint8]]:
    """The first alphabets, one character after the other, each ``(DRAWERS, 1, SIZE, SIZE)``.

    >>> next(draw_alphabets(0, 1)).shape
    (20, 1, 28, 28)
    """
    for alphabet, characters in enumerate(skeletons(seed, alphabets)):
        hands = drawers(seed, alphabet)
        for number, skeleton in enumerate(characters):
            yield draw_character(seed, alphabet, number, skeleton, hands)[:, None]


def _shape(alphabets: int) -> tuple[int, int, int, int]:
    return sum(CHARACTERS[:alphabets]) * DRAWERS, 1, SIZE, SIZE


def make_file(path: Path, seed: int, alphabets: int = ALPHABETS) -> None:
    """Draw the glyphs into a file beside ``path`` and rename it, so that two processes may do so at once.

    Raises OSError where the folder cannot be written, naming ``folder=`` as the remedy.
    """
    shape = _shape(alphabets)
    half = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with progress_bar() as bar, half.open("xb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            digest = hashlib.sha256()
            # The skeletons, a third of the work, come before the first character.
            for images in bar.track(
                draw_alphabets(seed, alphabets), shape[0] // DRAWERS, description="Glyphs"
            ):
                file.write(images.tobytes())
                digest.update(images.tobytes())
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        # Another process was first, and Windows does not replace an open file.
        if is_whole(path, alphabets) and is_intact(path):
            return
        raise OSError(
            f"`folder` must be one that can be written to; got {str(path.parent)!r}: {error.strerror}. "
            "Pass another as `folder=`."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def is_whole(path: Path, alphabets: int = ALPHABETS) -> bool:
    """Whether the file has the right header and length. Milliseconds; for its contents see `is_intact`."""
    shape = _shape(alphabets)
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return False
            found = np.lib.format.read_array_header_1_0(file)
            expected = file.tell() + shape[0] * SIZE * SIZE + DIGEST
        return found == (shape, False, np.dtype("u1")) and path.stat().st_size == expected
    except (OSError, ValueError):
        return False


def open_file(path: Path) -> NDArray[np.uint8]:
    """The images, memory-mapped; writing into them does not reach the file."""
    return np.load(path, mmap_mode="c", allow_pickle=False)


def is_intact(path: Path) -> bool:
    """Whether the images are those whose SHA-256 stands at the end of the file."""
    with path.open("rb") as file:
        file.seek(-DIGEST, os.SEEK_END)
        return hashlib.sha256(open_file(path).tobytes()).digest() == file.read()
