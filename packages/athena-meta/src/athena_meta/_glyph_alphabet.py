"""Alphabets of Glyphs: stroke primitives, rules by which strokes join, and characters made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athena_meta._glyph_random import uniforms
from athena_meta._glyph_raster import rasterize, stroke_points

ALPHABETS = 50
CHARACTERS = tuple(13 + 34 * alphabet % 39 for alphabet in range(ALPHABETS))  # 1,623 in all
STYLE, SKELETON = 0, 1  # streams of random numbers; those of the drawers follow in `_glyph_drawer`
PRIMITIVES = 7
STROKES = 4  # at most
LENGTHS = (0.45, 0.7, 1.0)
JOINTS = (0.0, 0.5, 1.0)  # where along a stroke another one may touch it
THUMBNAIL = 16  # 16 x 16 x 255 x 255 < 2^24: products of two thumbnails are exact in float32
TOO_ALIKE = 0.84  # cosine of two centred thumbnails, above which they are one glyph


@dataclass(frozen=True)
class Alphabet:
    """What the characters of an alphabet share.

    Attributes:
        primitives: control points ``(PRIMITIVES, 4, 2)``, beginning at the origin.
        joints: cumulative probabilities of ``JOINTS``, on the stroke that is there ``[0]`` and the new one.
        apart: probability that a stroke touches no other.
        strokes: cumulative probabilities of 1, 2, 3 and 4 strokes.
    """

    primitives: NDArray[np.float64]
    joints: NDArray[np.float64]
    apart: float
    strokes: NDArray[np.float64]


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running sums over the last axis, one after the other, scaled to end at 1."""
    sums = [weights[..., 0]]
    for index in range(1, weights.shape[-1]):
        sums.append(sums[-1] + weights[..., index])
    return np.stack([part / sums[-1] for part in sums], axis=-1)


def _directions() -> NDArray[np.float64]:
    """The 16 directions of a lattice of 5 x 5, as unit vectors."""
    lattice = np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3) if 2 in (abs(x), abs(y))], float)
    return lattice / np.sqrt(lattice[:, :1] * lattice[:, :1] + lattice[:, 1:] * lattice[:, 1:])


def alphabet_style(seed: int, alphabet: int) -> Alphabet:
    """The style of an alphabet: angular or round, which directions, how its strokes join."""
    drawn = uniforms(seed, STYLE, alphabet, 0, 0, count=16 + 5 * PRIMITIVES)[0]
    curved, joints, apart, strokes = drawn[0], drawn[1:7].reshape(2, 3), 0.15 * drawn[7], drawn[8:12]
    shape = drawn[16:].reshape(PRIMITIVES, 5)
    direction = _directions()[(shape[:, 0] * 16).astype(int)]
    length = np.array(LENGTHS)[(shape[:, 1] * 3).astype(int)][:, None]
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    # A bend beyond the length makes a loop or a hook; a square keeps angular alphabets nearly straight.
    bends = (2.0 * shape[:, 2:4] - 1.0) * (0.1 + 1.7 * curved)
    bends[:, 1] = np.where(shape[:, 4] < 0.65, np.abs(bends[:, 1]) * np.sign(bends[:, 0]), bends[:, 1])
    along = np.array([0.0, 0.3, 0.7, 1.0])[None, :, None] * direction[:, None]
    across = np.stack([0 * bends[:, 0], bends[:, 0], bends[:, 1], 0 * bends[:, 0]], axis=1)[..., None]
    primitives = length[:, None] * (along + across * normal[:, None])
    counts = np.array([0.25, 1.0, 1.3, 0.9]) * (0.4 + strokes)
    return Alphabet(primitives, _cumulative(0.2 + joints), float(apart), _cumulative(counts))


def _skeleton(style: Alphabet, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strokes ``(strokes, 4, 2)`` put together by the rules, in a box of side 1 around the origin."""
    count = 1 + int((drawn[0] >= style.strokes).sum())
    strokes: list[NDArray[np.float64]] = []
    for pick, flip, onto, here, there, apart, x, y in drawn[1:].reshape(STROKES, 8)[:count]:
        stroke = style.primitives[int(pick * PRIMITIVES)]
        if flip < 0.5:
            stroke = stroke * np.array([-1.0, 1.0])
        if strokes:
            other = strokes[int(onto * len(strokes))]
            place = _joint(other, style.joints[0], there) - _joint(stroke, style.joints[1], here)
            if apart < style.apart:
                place = place + np.array([x - 0.5, y - 0.5])
            stroke = stroke + place
        strokes.append(stroke)
    skeleton = np.stack(strokes)
    points = stroke_points(skeleton).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    return (skeleton - 0.5 * (low + high)) / max(float((high - low).max()), 1e-6)


def _joint(stroke: NDArray[np.float64], cumulative: NDArray[np.float64], drawn: float) -> NDArray[np.float64]:
    """The end, the middle or the beginning of a stroke."""
    return stroke_points(stroke, segments=2)[int((drawn >= cumulative).sum())]


def thumbnail(skeleton: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A glyph drawn with a steady hand, small and centred: what it is compared by."""
    points = stroke_points(skeleton) * (THUMBNAIL - 4.0) + 0.5 * THUMBNAIL
    return rasterize(points[None], np.array([1.0]), size=THUMBNAIL)[0]


def _alike(turned: NDArray[np.float32], others: NDArray[np.float32], norms: NDArray[np.float64]) -> bool:
    """Whether a thumbnail, in any turn given, is like any of the others. Exact: all products are integers."""
    products = (turned @ others.T).astype(np.float64)
    return bool((products * products > TOO_ALIKE * TOO_ALIKE * _norm(turned[0]) * norms).any())


def _norm(image: NDArray[np.float32]) -> float:
    return float(image @ image)


def skeletons(seed: int, alphabets: int = ALPHABETS) -> list[list[NDArray[np.float64]]]:
    """The characters of the first alphabets, ``(strokes, 4, 2)``, none like another or like itself turned.

    A drawn glyph is drawn again while, in any of its four turns, it is too much like an earlier one of any
    alphabet, or while a turn leaves it as it was: so turned glyphs can be classes of their own.

    >>> [len(characters) for characters in skeletons(0, 2)] == list(CHARACTERS[:2])
    True
    """
    found: list[list[NDArray[np.float64]]] = []
    kept = np.empty((sum(CHARACTERS[:alphabets]), THUMBNAIL * THUMBNAIL), np.float32)
    norms = np.empty(len(kept))
    number = 0
    for alphabet in range(alphabets):
        style = alphabet_style(seed, alphabet)
        found.append([])
        attempt = 0
        while len(found[-1]) < CHARACTERS[alphabet]:
            drawn = uniforms(seed, SKELETON, alphabet, attempt, 0, count=1 + 8 * STROKES)[0]
            attempt += 1
            skeleton = _skeleton(style, drawn)
            image = thumbnail(skeleton)
            turned = np.stack([np.rot90(image, turn).ravel() for turn in range(4)]).astype(np.float32)
            same = np.full(3, _norm(turned[0]))
            if _alike(turned[:1], turned[1:], same) or _alike(turned, kept[:number], norms[:number]):
                continue
            kept[number], norms[number] = turned[0], same[0]
            number += 1
            found[-1].append(skeleton)
    return found
