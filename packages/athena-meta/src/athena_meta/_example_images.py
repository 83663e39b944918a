"""Small images for examples of layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from athena_meta._glyph_random import uniforms


def write_example_image(path: Path, number: int, *, channels: int, size: int) -> None:
    """Write an image of blots, another for each number; folders are made as needed.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "class" / "blots.png"
    >>> write_example_image(path, 0, channels=1, size=28)
    >>> with Image.open(path) as image:
    ...     image.size
    (28, 28)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    blots = uniforms(number, count=16 * channels)[0].reshape(4, 4, channels) * 255
    image = Image.fromarray(blots.astype(np.uint8).squeeze())
    image.resize((size, size), Image.Resampling.NEAREST).save(path)
