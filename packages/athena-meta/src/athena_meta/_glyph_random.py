"""Random numbers by counter: any of them is computed from its key alone, in any order and process."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from athena_meta import _counter as counter

SQRT3 = 1.7320508075688772


def uniforms(*key: ArrayLike, count: int) -> NDArray[np.float64]:
    r"""Numbers of [0, 1) by key: SplitMix64 seeded by a hash of the key.

    :math:`u_i = 2^{-53} \lfloor m(h + (i + 1)\gamma) / 2^{11} \rfloor` with
    :math:`h = m(\ldots m(m(k_1 + \gamma) + k_2 + \gamma) \ldots)`, all modulo :math:`2^{64}`: integers
    throughout and one exact product, so the same bits on every machine.

    Args:
        key: integers, or arrays of them that broadcast together.
        count: numbers for each key.

    Shape: keys ``(...)`` to ``(..., count)``; a scalar key is an array of one.
    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17. Departs
    from it: the seed is hashed from several integers.

    >>> alone, together = uniforms(7, 2, count=3), uniforms(7, [1, 2], count=5)
    >>> bool((alone[0] == together[1, :3]).all())
    True
    """
    parts = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part)).astype(np.uint64) for part in key))
    state = np.zeros_like(parts[0])
    for part in parts:
        state = counter.mixed(state + part + counter.GOLDEN)
    return counter.uniform(state, count)


def bells(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Bell-shaped numbers of mean 0 and variance 1, each the sum of 4 uniform ones, within
    :math:`\pm 2\sqrt{3}`: a normal would need logarithms, whose last bits differ between machines.

    Shape: ``(..., 4 n) -> (..., n)``.

    >>> drawn = bells(uniforms(0, count=40000))
    >>> drawn.shape, bool(abs(drawn.std() - 1) < 0.05)
    ((1, 10000), True)
    """
    part = uniform.reshape(*uniform.shape[:-1], -1, 4)
    return ((part[..., 0] + part[..., 1]) + (part[..., 2] + part[..., 3]) - 2.0) * SQRT3
