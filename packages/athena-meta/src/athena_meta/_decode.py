"""One image file to an array: one that was never meant to be read is refused, not guessed at."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Those that Pillow decodes by itself: an EPS would be handed to another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 1 << 26  # 64 million; a file of kilobytes may claim billions
# What Pillow's decoders raise on damaged files.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, struct.error, zlib.error)


class UnreadableImageError(ValueError):
    """A file that is not a whole image of a known format, named.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "empty.png"
    >>> path.touch()
    >>> try:
    ...     decode(path, channels=1, size=None)
    ... except UnreadableImageError as error:
    ...     print("empty.png" in str(error))
    True
    """


def decode(path: Path, *, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The image of a file, upright as its EXIF says, on white where it is transparent.

    Args:
        path: of the file.
        channels: 1 for grey, 3 for colour; either is made of the other.
        size: height and width to scale to, by the bilinear filter, averaging when shrinking; None: as it is.

    Shape: returns ``(channels, height, width)``.
    Raises UnreadableImageError for a damaged file, an unknown format, or more than 64 million pixels.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "grey.png"
    >>> Image.new("L", (5, 4), 128).save(path)
    >>> decode(path, channels=3, size=None)[:, 0, 0].tolist()
    [128, 128, 128]
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"it claims {image.width} x {image.height} pixels")
                array = _pixels(image, channels, size)
    except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(
            f"the image {str(path)!r} must be readable: {reason}. Replace or remove it, or pass "
            "`unreadable='skip'`."
        ) from error
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def _pixels(image: Image.Image, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if upright.mode == "F":
        raise ValueError("its pixels are floats, whose range is unknown")
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    converted = upright.convert("L" if channels == 1 else "RGB")
    if size is not None and converted.size != size[::-1]:
        height, width = size
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(converted)
