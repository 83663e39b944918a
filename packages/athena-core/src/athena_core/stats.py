"""Results of several seeds: aggregates with intervals, differences, and learning curves with bands.

Scores have the axes ``(runs, tasks)``, or ``(runs,)`` for one task; a run is one seed. The parameters
that several functions share:

- ``rng``: an integer seed or a `numpy.random.Generator`. The same seed gives the same interval.
- ``statistic``: called as ``statistic(values, axis=k)`` on pooled runs and tasks, so that `numpy.mean`,
  `numpy.median` and the like can take the place of `interquartile_mean`.
- ``level``: the interval's nominal coverage.
- ``resamples``: how many bootstrap samples are drawn.

A missing run is an error that names it, never a shorter average: every function raises ValueError for
an empty or ragged array and for a NaN or infinite score, and every interval needs at least two runs.

Sources: Agarwal, Schwarzer, Castro, Courville, Bellemare 2021, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice", arXiv:2108.13264, section 4; Efron and Tibshirani 1993, "An Introduction
to the Bootstrap", section 13.3 for the percentile interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., Any]

_ELEMENTS = 2**22  # most numbers that one array of resamples holds: 32 MiB
_AXES = ("run", "task", "point")


class Interval(NamedTuple):
    """An estimate and the ends of its interval.

    >>> estimate, low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0], rng=0)
    >>> low <= estimate <= high
    True
    """

    estimate: float
    low: float
    high: float


class Band(NamedTuple):
    """An estimate and the ends of its interval at each point of a curve, each of shape ``(points,)``.

    >>> band = Band(np.array([1.0, 2.0]), low=np.array([0.5, 1.5]), high=np.array([1.5, 2.5]))
    >>> (band.high - band.low).tolist()
    [1.0, 1.0]
    """

    estimate: Array
    low: Array
    high: Array


def interquartile_mean(scores: ArrayLike, axis: int | None = None) -> Any:
    r"""Mean of the middle half: of :math:`n` scores, without :math:`\lfloor n/4 \rfloor` at either end.

    Shape: any, reduced along ``axis``; all of it by default, which pools runs and tasks.
    Source: Agarwal et al. 2021, section 4.3. Departs from it: no (fewer than four scores: the plain mean).

    >>> float(interquartile_mean([0.0, 2.0, 4.0, 100.0]))
    3.0
    """
    values = _full("scores", scores)
    ordered = np.moveaxis(np.sort(values.ravel() if axis is None else values, axis=axis or 0), axis or 0, -1)
    n = ordered.shape[-1]
    return ordered[..., n // 4 : n - n // 4].mean(axis=-1)


def bootstrap_interval(
    scores: ArrayLike,
    *,
    rng: int | np.random.Generator,
    statistic: Statistic = interquartile_mean,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    r"""Percentile interval of an aggregate score by the stratified bootstrap.

    Each resample draws, in each task on its own, as many runs as there are, with replacement; the
    interval's ends are the :math:`(1 \mp level)/2` quantiles of the resampled statistic. It speaks of
    new runs on the same tasks. With few runs of one task it covers less than ``level``: at 0.95, for the
    interquartile mean of normal scores, 3 runs cover 0.75, 5 runs 0.90, 10 runs 0.93.

    Shape: ``(runs,)`` or ``(runs, tasks)``.
    Source: Agarwal et al. 2021, section 4.1; Efron and Tibshirani 1993, section 13.3. Departs from them:
    quantiles between two resamples are interpolated.

    >>> interval = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0], rng=0)
    >>> interval.low < interval.estimate == 3.0 < interval.high
    True
    """
    values = _full("scores", scores, (1, 2))
    band = _bootstrap(values.reshape(len(values), -1, 1), statistic, rng, level, resamples)
    return Interval(*(float(end[0]) for end in band))


def paired_difference(
    scores: ArrayLike,
    baseline: ArrayLike,
    *,
    rng: int | np.random.Generator,
    statistic: Statistic = interquartile_mean,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    r"""Aggregate of :math:`x_{rt} - y_{rt}` over the same seeds, with its bootstrap interval.

    What a seed does to both methods cancels, so the interval is shorter than that of two separate
    groups. Row ``r`` of both arrays must be the same seed: `align_seeds` sees to that.

    Shape: both ``(runs,)`` or both ``(runs, tasks)``. Raises ValueError if they differ.
    Source: Efron and Tibshirani 1993, section 13.3, on the differences. Departs from it: stratified by
    task as in `bootstrap_interval`.

    >>> paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], rng=0)
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    x, y = _full("scores", scores, (1, 2)), _full("baseline", baseline, (1, 2))
    if x.shape != y.shape:
        raise ValueError(
            f"`baseline` must have the shape of `scores`, {x.shape}, its runs on the same seeds; got "
            f"{y.shape}. Run the missing seeds; `align_seeds` names them."
        )
    return bootstrap_interval(x - y, rng=rng, statistic=statistic, level=level, resamples=resamples)


def probability_of_improvement(
    scores: ArrayLike,
    baseline: ArrayLike,
    *,
    rng: int | np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    r"""How likely a run of one method scores above a run of another, on a task drawn at random.

    .. math:: P(X > Y) = \frac{1}{M} \sum_m \frac{1}{N K} \sum_{i,j} S(x_{im}, y_{jm}), \quad
        S(x, y) = 1 \text{ if } x > y,\ \tfrac12 \text{ if } x = y,\ 0 \text{ otherwise}

    Shape: ``(runs,)`` or ``(runs, tasks)``; the numbers of runs may differ, the tasks may not.
    Source: Agarwal et al. 2021, section 4.3 (the Mann-Whitney statistic), both methods resampled as in
    `bootstrap_interval`. Departs from it: no.

    >>> probability_of_improvement([3.0, 4.0], [1.0, 2.0], rng=0)
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    given = _full("scores", scores, (1, 2)), _full("baseline", baseline, (1, 2))
    x, y = (values.reshape(len(values), -1) for values in given)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"`baseline` must have {x.shape[1]} tasks, as `scores` has; got {y.shape[1]}.")
    wins = ((x[:, None] > y) + 0.5 * (x[:, None] == y)).transpose(2, 0, 1)  # (tasks, runs of x, runs of y)

    def resampled(generator: np.random.Generator, n: int) -> Array:
        # How often each run is drawn stands for the runs drawn: S is evaluated once for all resamples.
        x_counts, y_counts = (_counts(generator, n, *values.shape) for values in (x, y))
        return (np.matmul(x_counts, wins) * y_counts).sum(axis=(0, 2)) / (len(x) * len(y) * len(wins))

    generator, tails = _settings(min(len(x), len(y)), rng, level, resamples)
    sizes = _chunks(resamples, x.shape[1] * (len(x) + 2 * len(y)))
    draws = np.concatenate([resampled(generator, n) for n in sizes])
    return Interval(float(wins.mean()), *(float(end) for end in np.quantile(draws, tails)))


def learning_curve(
    curves: ArrayLike,
    *,
    rng: int | np.random.Generator,
    statistic: Statistic = interquartile_mean,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Band:
    """Aggregate learning curves point by point, with a band; each resample draws whole curves.

    With the same ``rng`` the band at a point is `bootstrap_interval` of the scores there. The level holds
    at each point, not for the whole curve at once.

    Shape: ``(runs, points)`` or ``(runs, tasks, points)``, every run on the same points.
    Source: Agarwal et al. 2021, sections 4.1 and 4.3, at each point. Departs from it: no.

    >>> learning_curve([[0.0, 1.0], [2.0, 3.0]], rng=0).estimate.tolist()
    [1.0, 2.0]
    """
    values = _full("curves", curves, (2, 3))
    return _bootstrap(values.reshape(len(values), -1, values.shape[-1]), statistic, rng, level, resamples)


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    *,
    rng: int | np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Band:
    r"""Share of all runs that score above each threshold :math:`\tau`, with a band.

    .. math:: \hat F(\tau) = \frac{1}{MN} \sum_{m,n} [x_{nm} > \tau]

    Shape: ``(runs,)`` or ``(runs, tasks)``, and ``(points,)`` thresholds.
    Source: Agarwal et al. 2021, section 4.2 (run-score distributions). Departs from it: no.

    >>> performance_profile([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 9.0], rng=0).estimate.tolist()
    [1.0, 0.5, 0.0]
    """
    values, taus = _full("scores", scores, (1, 2)), _full("thresholds", thresholds, (1,))
    above = (values.reshape(len(values), -1, 1) > taus).astype(np.float64)
    return _bootstrap(above, np.mean, rng, level, resamples)


def align_seeds(scores: Mapping[str, Mapping[int, ArrayLike]]) -> dict[str, Array]:
    """Put each method's scores in the order of their seeds, once every method has every seed.

    Args:
        scores: by method and seed, a score or an array of them, such as ``(tasks,)``.

    Shape: ``(runs, ...)`` for each method. Raises ValueError that names the method and the seeds it lacks.

    >>> align_seeds({"lamb": {1: 0.2, 0: 0.1}, "adamw": {0: 0.3, 1: 0.4}})["lamb"].tolist()
    [0.1, 0.2]
    """
    seeds = sorted({seed for runs in scores.values() for seed in runs})
    for method, runs in scores.items():
        if missing := [seed for seed in seeds if seed not in runs]:
            names = ", ".join(map(str, missing))
            raise ValueError(
                f"`{method}` must have the seeds of the other methods; it lacks {names}. "
                "Run them, or leave them out of every method."
            )
    return {method: _full(method, [runs[seed] for seed in seeds]) for method, runs in scores.items()}


def _full(name: str, scores: ArrayLike | Sequence[ArrayLike], dims: tuple[int, ...] = ()) -> Array:
    """``scores`` as an array of finite numbers with one of the numbers of axes in ``dims`` (empty: any)."""
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers, as many tasks in every run; got {error}. "
            "Add the runs that are missing."
        ) from error
    if values.size == 0 or (dims and values.ndim not in dims):
        allowed = " or ".join(map(str, dims)) or "at least one"
        raise ValueError(f"`{name}` must have {allowed} axes and hold a score; got the shape {values.shape}.")
    missing = np.argwhere(~np.isfinite(values))
    if len(missing):
        place = ", ".join(f"{axis} {index}" for axis, index in zip(_AXES, missing[0], strict=False))
        raise ValueError(
            f"`{name}` must hold a finite score for every run; got {values[tuple(missing[0])]} at {place} "
            f"({len(missing)} of {values.size} such). Run it again, or leave that seed out of every method."
        )
    return values


def _settings(
    runs: int, rng: int | np.random.Generator, level: float, resamples: int
) -> tuple[np.random.Generator, tuple[float, float]]:
    """The generator and the two tail probabilities, once all that every interval needs is there."""
    if runs < 2:
        raise ValueError(f"an interval must come from at least 2 runs; got {runs}. Run more seeds.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1); got {level}.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1; got {resamples}.")
    if not isinstance(rng, (int, np.integer, np.random.Generator)):
        raise TypeError(
            f"`rng` must be an integer seed or a numpy.random.Generator, so that the interval can be had "
            f"again; got {rng!r}."
        )
    return np.random.default_rng(rng), ((1 - level) / 2, (1 + level) / 2)


def _chunks(resamples: int, numbers: int) -> Iterator[int]:
    """Split ``resamples``, of so many numbers each, into groups that fit into memory."""
    size = max(1, _ELEMENTS // numbers)
    for first in range(0, resamples, size):
        yield min(size, resamples - first)


def _counts(generator: np.random.Generator, n: int, runs: int, tasks: int) -> Array:
    """How often each run is drawn in ``n`` resamples of each task: ``(tasks, n, runs)``."""
    counts = generator.multinomial(runs, np.full(runs, 1 / runs), size=(n, tasks))
    return counts.transpose(1, 0, 2).astype(np.float64)


def _bootstrap(
    values: Array, statistic: Statistic, rng: int | np.random.Generator, level: float, resamples: int
) -> Band:
    """Stratified percentile bootstrap of ``(runs, tasks, points)``, in blocks of points and of resamples."""
    runs, tasks, points = values.shape
    generator, tails = _settings(runs, rng, level, resamples)
    pooled = values.reshape(runs * tasks, points)
    ends = np.empty((2, points))
    width = max(1, _ELEMENTS // max(resamples, runs * tasks))
    start = generator.bit_generator.state
    for first in range(0, points, width):
        generator.bit_generator.state = start  # the same runs are drawn for every block of points
        block = pooled[:, first : first + width]
        draws = []
        for n in _chunks(resamples, block.size):
            drawn = generator.integers(runs, size=(n, runs, tasks)) * tasks + np.arange(tasks)
            draws.append(statistic(block[drawn.reshape(n, -1)], axis=1))
        ends[:, first : first + width] = np.quantile(np.concatenate(draws), tails, axis=0)
    return Band(np.asarray(statistic(pooled, axis=0)), *ends)
