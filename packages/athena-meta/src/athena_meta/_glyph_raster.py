"""Bezier strokes to pixels, by the distance of each pixel to the pen's path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEGMENTS = 8  # straight pieces of a stroke; at 28 pixels they are about 2 long, and no corner is seen


def stroke_points(control: NDArray[np.float64], *, segments: int = SEGMENTS) -> NDArray[np.float64]:
    r"""Points along cubic Bezier curves, :math:`B(t) = \sum_j \binom{3}{j} t^j (1 - t)^{3 - j} P_j`.

    Sums are written out: a matrix product adds in an order of its own on each machine.

    Shape: ``(..., 4, 2) -> (..., segments + 1, 2)``.

    >>> stroke_points(np.array([[0.0, 0], [1, 0], [2, 0], [3, 0]]), segments=3)[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    t = (np.arange(segments + 1) / segments)[:, None]
    s = 1.0 - t
    first, second, third, fourth = (control[..., j, None, :] for j in range(4))
    return (s * s * s * first + 3.0 * s * s * t * second) + (3.0 * s * t * t * third + t * t * t * fourth)


def rasterize(points: NDArray[np.float64], radius: NDArray[np.float64], *, size: int) -> NDArray[np.uint8]:
    r"""Images of strokes, 255 where there is ink: :math:`\operatorname{clip}(r + \tfrac12 - d, 0, 1)`, with
    :math:`d` the distance of a pixel's centre to the nearest straight piece.

    Only sums, products, quotients and square roots, each rounded as IEEE 754 prescribes, in float32.

    Args:
        points: ``(images, strokes, points, 2)``, x and y in pixels, the first pixel's centre at 0.5.
        radius: ``(images,)``, half the pen's width in pixels.
        size: of the side, in pixels.

    Shape: returns ``(images, size, size)``.

    >>> line = np.array([[[[1.5, 2.5], [3.5, 2.5]]]])
    >>> rasterize(line, np.array([0.5]), size=5)[0, 2].tolist()
    [0, 255, 255, 255, 0]
    """
    path = points.astype(np.float32)
    centre = np.arange(size, dtype=np.float32) + np.float32(0.5)
    nearest = np.full((len(path), size, size), np.float32(4 * size * size))
    product, distance = np.empty_like(nearest), np.empty_like(nearest)
    for stroke in range(path.shape[1]):
        for index in range(path.shape[2] - 1):
            start, end = path[:, stroke, index], path[:, stroke, index + 1]
            _squared_distance(centre, start, end - start, product=product, out=distance)
            np.minimum(nearest, distance, out=nearest)
    np.sqrt(nearest, out=nearest)
    np.subtract(radius.astype(np.float32)[:, None, None] + np.float32(0.5), nearest, out=nearest)
    np.clip(nearest, 0, 1, out=nearest)
    return (nearest * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _squared_distance(
    centre: NDArray[np.float32],
    start: NDArray[np.float32],
    along: NDArray[np.float32],
    *,
    product: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    r""":math:`|p - a - \operatorname{clip}(\frac{(p - a) \cdot v}{v \cdot v}, 0, 1) v|^2` of every pixel."""
    x = (centre - start[:, :1])[:, None, :]
    y = (centre - start[:, 1:])[:, :, None]
    vx, vy = along[:, 0, None, None], along[:, 1, None, None]
    # A piece of no length is a point: any share of it will do, so 0 / tiny is kept finite.
    length = np.maximum(vx * vx + vy * vy, np.float32(1e-12))
    np.add(x * (vx / length), y * (vy / length), out=product)
    np.clip(product, 0, 1, out=product)
    np.multiply(product, vy, out=out)
    np.subtract(y, out, out=out)
    np.multiply(out, out, out=out)
    np.multiply(product, vx, out=product)
    np.subtract(x, product, out=product)
    np.multiply(product, product, out=product)
    np.add(out, product, out=out)
