"""Intervals that speak of other classes, not only of other episodes of the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from athena_core.stats import Interval

_ELEMENTS = 2**22  # most numbers that one array of resamples holds: 32 MiB


class Pairs(NamedTuple):
    r"""How often queries of class :math:`c` met class :math:`d` in their episode, and were taken for it.

    Shape: both ``(classes, classes)``, with zeros on the diagonal.

    >>> pairs = class_pairs(np.array([[4, 9]]), np.array([[0, 0, 1]]), np.array([[0, 1, 1]]))
    >>> pairs.met.tolist(), pairs.mistaken.tolist()
    ([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    """

    met: NDArray[np.float64]
    mistaken: NDArray[np.float64]


def class_pairs(classes: NDArray[np.int64], targets: NDArray[np.int64], answers: NDArray[np.int64]) -> Pairs:
    """Count pairs of classes.

    Args:
        classes: which class of the data set each column stands for ``(episodes, n_way)``.
        targets: columns of the queries ``(episodes, n_query)``.
        answers: columns they were taken for, likewise.

    >>> class_pairs(np.array([[0, 1]]), np.array([[0]]), np.array([[1]])).mistaken.tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    names, dense = np.unique(classes, return_inverse=True)
    dense = dense.reshape(classes.shape)
    met, mistaken = np.zeros((2, len(names), len(names)))
    episodes = np.arange(len(classes))[:, None]
    np.add.at(met, (dense[episodes, targets][..., None], dense[:, None, :]), 1.0)
    np.add.at(mistaken, (dense[episodes, targets], dense[episodes, answers]), 1.0)
    for counts in (met, mistaken):
        np.fill_diagonal(counts, 0.0)
    return Pairs(met, mistaken)


def class_bootstrap(
    pairs: Pairs,
    minus: Pairs | None = None,
    *,
    n_way: int,
    level: float = 0.95,
    resamples: int = 2000,
    rng: int | np.random.Generator = 0,
) -> Interval:
    r"""Accuracy, or the difference of two, with the interval over the choice of classes.

    .. math:: \text{accuracy}(w) = 1 - (n - 1)\,\frac{\sum_{c \neq d} w_c w_d\, \text{mistaken}_{cd}}
        {\sum_{c \neq d} w_c w_d\, \text{met}_{cd}}

    An error is of two classes, that of the query and that it was taken for. Resample the classes, class
    :math:`c` coming :math:`w_c` times, and the accuracy of :math:`n`-way episodes of these has each pair
    :math:`w_c w_d` times. At :math:`w = 1` it is the plain accuracy. The interval's ends are quantiles of the
    resampled values.

    It covers what the usual interval leaves out: episodes that use the same classes and images again are not
    independent. Where classes do not differ it is up to :math:`\sqrt 3` times too wide, as any bootstrap of
    both sides of a pair is.

    Args:
        pairs: counts of one learner.
        minus: those of another on the same episodes, whose accuracy is subtracted.
        n_way: classes an episode.
        level: the interval's nominal coverage.
        resamples: how many samples of classes.
        rng: a seed or generator; the same seed gives the same interval.

    Raises ValueError for fewer than two classes, for one-way episodes, and for a level that is none.

    Source: Owen and Eckles 2012, arXiv:1106.2125, with multinomial weights; why: Lafargue et al. 2024,
    arXiv:2409.02850. Departs from them: both sides of a pair are drawn from one set of classes.

    >>> pairs = Pairs(100 * (1 - np.eye(20)), 10 * (1 - np.eye(20)))
    >>> class_bootstrap(pairs, n_way=5)
    Interval(estimate=0.6, low=0.6, high=0.6)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1; got {level}. 0.95 is 95 %.")
    count = len(pairs.met)
    if n_way < 2 or count < 2:
        raise ValueError(
            f"a class bootstrap must have 2 ways and 2 classes; got {n_way} and {count}. "
            "Use the interval by episode."
        )
    wrong = [part.mistaken for part in (pairs, minus) if part is not None]
    draws = [_accuracies(pairs.met, wrong, weights, n_way) for weights in _weights(count, resamples, rng)]
    values = np.concatenate(draws)
    # Without two classes that met, a sample says nothing; it happens with a handful of classes.
    values = values[np.isfinite(values)]
    estimate = _accuracies(pairs.met, wrong, np.ones((1, count)), n_way)[0]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(*(round(float(value), 12) for value in (estimate, low, high)))


def _weights(count: int, resamples: int, rng: int | np.random.Generator) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(rng)
    size = max(1, _ELEMENTS // count)
    for first in range(0, resamples, size):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(size, resamples - first))
        yield drawn.astype(np.float64)


def _accuracies(
    met: NDArray[np.float64],
    wrong: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
    n_way: int,
) -> NDArray[np.float64]:
    """One value a row of weights ``(samples, classes)``; NaN where no pair was met."""

    def total(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((weights @ counts) * weights).sum(1)

    with np.errstate(invalid="ignore"):
        accuracies = [1 - (n_way - 1) * total(mistaken) / total(met) for mistaken in wrong]
    return accuracies[0] if len(accuracies) == 1 else accuracies[0] - accuracies[1]
