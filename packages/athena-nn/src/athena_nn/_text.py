"""Text to train on, as bytes."""

from __future__ import annotations

from pathlib import Path

from athena_core import AthenaError


def read_text(data: Path | None) -> bytes:
    """The bytes of a file, of all text in a folder, or of Python's own documentation topics.

    In a folder, text is every file below it that decodes as UTF-8 and holds no NUL byte; the files
    are joined in the order of their paths, an empty line between them. A single file is taken as it
    is. None takes `pydoc_data.topics`, 0.47 MB that every CPython brings.

    Raises AthenaError if there is nothing at ``data``, it cannot be read, or it holds no text.

    >>> len(read_text(None)) > 100_000
    True
    """
    if data is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics)).encode()
    try:
        if data.is_dir():
            return _read_folder(data)
        if not data.exists():
            raise AthenaError(f"`data` must be a file or folder; {data} does not exist.")
        if not data.is_file():
            raise AthenaError(f"`data` must be a file or folder; {data} is neither.")
        content = data.read_bytes()
    except OSError as error:
        raise AthenaError(f"`data`: cannot read {error.filename or data}: {error.strerror}.") from error
    if not content:
        raise AthenaError(f"`data` must hold text; {data} is empty.")
    return content


def _read_folder(folder: Path) -> bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts = [content for path in files if _is_text(content := path.read_bytes())]
    if not texts:
        raise AthenaError(
            f"`data` must hold text; of {len(files)} files in {folder}, none is UTF-8 without NUL bytes "
            "and not empty."
        )
    return b"\n\n".join(texts)


def _is_text(content: bytes) -> bool:
    if not content or b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def split_text(text: bytes, *, context: int, heldout: int) -> tuple[bytes, bytes]:
    """Hold out the last tenth, at most ``heldout`` bytes of it; returns training and held-out text.

    Raises AthenaError if the training text is shorter than one context and the byte after it.

    >>> split_text(b"abcdefghijklmnopqrst", context=4, heldout=100)
    (b'abcdefghijklmnopqr', b'st')
    """
    size = min(len(text) // 10, heldout)
    if size < 1 or len(text) - size <= context:
        raise AthenaError(
            f"`data` must hold more than one context of {context} bytes besides the tenth held out; "
            f"got {len(text)} bytes. Give more text, or lower `context`."
        )
    return text[:-size], text[-size:]
