"""Drawers of Glyphs: each has a slant, a pen and an unsteadiness of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athena_meta._glyph_random import bells, uniforms
from athena_meta._glyph_raster import rasterize, stroke_points

SIZE = 28  # pixels of a side
DRAWERS = 20
DRAWER, IMAGE = 2, 3  # streams of random numbers, after those of the alphabets

# The knobs of the calibration, chosen by `pixel_accuracy` on the test alphabets and frozen; see Glyphs.
GLYPH_SIZE = (0.55, 0.7)  # longer side of a glyph, as a share of the image's
PEN_RADIUS = (0.55, 1.05)  # pixels
UNSTEADY = (0.01, 0.04)  # standard deviation of a control point, as a share of the glyph's longer side
SLANT = 0.12  # standard deviation of a drawer's shear
STRETCH = 0.07  # standard deviation of a drawer's ratio of the sides
TURN = 0.045  # standard deviation of the tangent of half the angle by which an image is turned
GROWTH = 0.08  # standard deviation of an image's size, as a share of the drawer's
MARGIN = 1.5  # pixels at the border that no path enters


@dataclass(frozen=True)
class Drawers:
    """The habits of an alphabet's drawers, arrays ``(DRAWERS,)``."""

    slant: NDArray[np.float64]
    stretch: NDArray[np.float64]
    unsteady: NDArray[np.float64]
    radius: NDArray[np.float64]
    size: NDArray[np.float64]


def _between(bounds: tuple[float, float], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def drawers(seed: int, alphabet: int) -> Drawers:
    """The habits of the drawers of an alphabet; no other alphabet has these drawers.

    >>> drawers(0, 3).slant.shape
    (20,)
    """
    drawn = uniforms(seed, DRAWER, alphabet, 0, np.arange(DRAWERS), count=11)
    bell = bells(drawn[:, :8])
    return Drawers(
        slant=SLANT * bell[:, 0],
        stretch=1.0 + STRETCH * bell[:, 1],
        unsteady=_between(UNSTEADY, drawn[:, 8]),
        radius=_between(PEN_RADIUS, drawn[:, 9]),
        size=_between(GLYPH_SIZE, drawn[:, 10]),
    )


def _turned(points: NDArray[np.float64], half_tangent: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Turned by :math:`2 \arctan t`: cosine and sine are :math:`(1 - t^2, 2t) / (1 + t^2)`, no series."""
    square = half_tangent * half_tangent
    cosine = ((1.0 - square) / (1.0 + square))[:, None, None]
    sine = (2.0 * half_tangent / (1.0 + square))[:, None, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)


def draw_character(
    seed: int, alphabet: int, character: int, skeleton: NDArray[np.float64], hands: Drawers
) -> NDArray[np.uint8]:
    """A character as each drawer of its alphabet draws it, ``(DRAWERS, SIZE, SIZE)``.

    Control points tremble, the whole is stretched, slanted and turned, and placed within the image.

    >>> line = np.array([[[-0.5, 0.0], [-0.2, 0.0], [0.2, 0.0], [0.5, 0.0]]])
    >>> draw_character(0, 0, 0, line, drawers(0, 0)).shape
    (20, 28, 28)
    """
    trembling = 8 * len(skeleton)
    drawn = uniforms(seed, IMAGE, alphabet, character, np.arange(DRAWERS), count=4 * (trembling + 2) + 2)
    bell, place = bells(drawn[:, :-2]), drawn[:, -2:]
    control = skeleton + hands.unsteady[:, None, None, None] * bell[:, 2:].reshape(DRAWERS, -1, 4, 2)
    y = control[..., 1]
    x = control[..., 0] * hands.stretch[:, None, None] - hands.slant[:, None, None] * y
    control = _turned(np.stack([x, y], axis=-1), TURN * bell[:, 0])
    points = stroke_points(control) * (SIZE * hands.size * (1.0 + GROWTH * bell[:, 1]))[:, None, None, None]
    return rasterize(_placed(points, place), hands.radius, size=SIZE)


def _placed(points: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Anywhere in the image, more often near its middle; made smaller if there is no room."""
    low, high = points.min(axis=(1, 2)), points.max(axis=(1, 2))
    room = SIZE - 2.0 * MARGIN
    fit = np.minimum(1.0, room / np.maximum((high - low).max(axis=1), 1e-6))[:, None]
    centre = 0.5 * (low + high)
    off = 2.0 * share - 1.0
    # The signed square keeps most images comparable and some far off: five and twenty ways are then both as
    # hard as for handwriting, which a uniform placing, whose 20-way accuracy is too low, does not give.
    target = 0.5 * SIZE + 0.5 * off * np.abs(off) * (room - fit * (high - low))
    return (points - centre[:, None, None]) * fit[:, :, None, None] + target[:, None, None]
