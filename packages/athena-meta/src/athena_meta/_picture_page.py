"""A page of images: what a few-shot data set looks like."""

from __future__ import annotations

import numpy as np
from PIL import Image

from athena_meta._few_shot_dataset import FewShotDataset


def picture_page(data: FewShotDataset, *, classes: int = 12, images: int = 20, zoom: int = 2) -> Image.Image:
    """A picture with a class in each row and its images in the columns; save it with ``.save("page.png")``.

    Grey images are shown as ink on white. Classes are evenly chosen, images the first of each; where a class
    has fewer, its row ends early.

    Args:
        data: images ``(1 or 3, height, width)`` of uint8, or floats of [0, 1].
        classes: rows, at most as many as there are.
        images: columns, at most.
        zoom: pixels of the picture for each of an image.

    Raises ValueError for images of another shape, or fewer than one row, column or pixel.

    >>> import torch
    >>> from athena_meta import FewShotDataset
    >>> data = FewShotDataset(torch.zeros(6, 1, 28, 28, dtype=torch.uint8), [0, 0, 1, 1, 2, 2])
    >>> picture_page(data).size
    (116, 174)
    """
    if min(classes, images, zoom) < 1:
        raise ValueError(f"`classes`, `images`, `zoom` must be at least 1; got {classes}, {images}, {zoom}.")
    shape = data.images.shape[1:]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"`data` must hold images (1 or 3, height, width); got {tuple(shape)}. Reshape them."
        )
    rows = min(classes, len(data.classes))
    columns = min(images, int(data.counts.max()))
    height, width = shape[1] + 1, shape[2] + 1  # a line of paper between images
    page = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for row in range(rows):
        name = data.classes[row * len(data.classes) // rows]
        for column, image in enumerate(data.raw(data.index_of(name)[:columns])):
            values = image if not image.is_floating_point() else (image.nan_to_num().clamp(0, 1) * 255).byte()
            pixels = values.permute(1, 2, 0).numpy()
            top, left = row * height, column * width
            page[top : top + shape[1], left : left + shape[2]] = 255 - pixels if shape[0] == 1 else pixels
    return Image.fromarray(page.repeat(zoom, axis=0).repeat(zoom, axis=1))
