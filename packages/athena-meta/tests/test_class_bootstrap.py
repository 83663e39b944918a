"""The class bootstrap against one that builds each resampled set of classes, and its coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from athena_meta import Pairs, class_bootstrap, class_pairs
from athena_meta._evaluation import normal_interval

N_WAY = 3


def outcomes(
    rng: np.random.Generator, rates: NDArray[np.float64], *, episodes: int, n_query: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Episodes in which a query of class c is taken for class d at the rate ``rates[c, d]``."""
    classes = np.stack([rng.permutation(len(rates))[:N_WAY] for _ in range(episodes)])
    targets = np.tile(np.arange(N_WAY).repeat(n_query), (episodes, 1))
    wrong = rates[classes[:, :, None], classes[:, None, :]] * ~np.eye(N_WAY, dtype=bool)
    shares = wrong + np.eye(N_WAY) * (1 - wrong.sum(2, keepdims=True))
    bounds = shares.cumsum(2)[np.arange(episodes)[:, None], targets]
    answers = (rng.random((*targets.shape, 1)) > bounds).sum(2).clip(max=N_WAY - 1)
    return classes, targets, answers


def test_pairs_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    classes, targets, answers = outcomes(rng, np.full((6, 6), 0.2), episodes=30, n_query=2)
    pairs = class_pairs(5 * classes, targets, answers)
    met, mistaken = np.zeros((2, 6, 6))
    for members, columns, given in zip(classes, targets, answers, strict=True):
        for column, answer in zip(columns, given, strict=True):
            for other in members:
                met[members[column], other] += other != members[column]
            mistaken[members[column], members[answer]] += answer != column
    np.testing.assert_array_equal(pairs.met, met)
    np.testing.assert_array_equal(pairs.mistaken, mistaken)


def test_the_estimate_is_the_accuracy() -> None:
    rng = np.random.default_rng(1)
    classes, targets, answers = outcomes(rng, np.full((8, 8), 0.1), episodes=40, n_query=3)
    interval = class_bootstrap(class_pairs(classes, targets, answers), n_way=N_WAY)
    assert interval.estimate == pytest.approx((answers == targets).mean())
    assert interval.low < interval.estimate < interval.high


@pytest.mark.parametrize("paired", [False, True])
def test_equals_a_bootstrap_that_lists_the_classes_drawn(paired: bool) -> None:
    rng = np.random.default_rng(2)
    rates = rng.uniform(0, 0.4, (7, 7))
    classes, targets, answers = outcomes(rng, rates, episodes=25, n_query=2)
    others = np.where(rng.random(answers.shape) < 0.7, answers, targets)
    pairs, minus = class_pairs(classes, targets, answers), class_pairs(classes, targets, others)
    interval = class_bootstrap(pairs, minus if paired else None, n_way=N_WAY, resamples=200, rng=5)

    def accuracy(counts: Pairs, drawn: list[int]) -> float:
        # Every ordered pair of two of the drawn classes that are not the same class.
        both = [(c, d) for c, d in product(drawn, drawn) if c != d]
        errors, chances = (sum(part[c, d] for c, d in both) for part in (counts.mistaken, counts.met))
        return 1 - (N_WAY - 1) * errors / chances

    values = []
    for weights in np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=200):
        drawn = [c for c, times in enumerate(weights) for _ in range(times)]
        values.append(accuracy(pairs, drawn) - (accuracy(minus, drawn) if paired else 0))
    np.testing.assert_allclose(interval[1:], np.quantile(values, [0.025, 0.975]), atol=1e-9)


def test_samples_of_one_class_are_left_out() -> None:
    pairs = Pairs(np.array([[0.0, 9.0], [9.0, 0.0]]), np.array([[0.0, 3.0], [0.0, 0.0]]))
    assert class_bootstrap(pairs, n_way=2) == pytest.approx((5 / 6, 5 / 6, 5 / 6))


def test_covers_where_the_usual_interval_does_not() -> None:
    rng = np.random.default_rng(3)
    covered = {"class": 0, "episode": 0}
    runs, count = 100, 40
    for _ in range(runs):
        # Being taken for others and being what others are taken for, both of a class; on average 0.05 + 0.05.
        from_, to = rng.uniform(0, 0.1, (2, count))
        answered = outcomes(rng, from_[:, None] + to, episodes=300, n_query=5)
        truth = 1 - (N_WAY - 1) * 0.1
        by_class = class_bootstrap(class_pairs(*answered), n_way=N_WAY, resamples=300)
        by_episode = normal_interval((answered[2] == answered[1]).mean(1))
        covered["class"] += by_class.low <= truth <= by_class.high
        covered["episode"] += by_episode.low <= truth <= by_episode.high
    # 95 are expected; 3 standard deviations of a binomial are 6.5. It may cover more, being conservative.
    assert covered["class"] >= 88
    assert covered["episode"] <= 80


def test_is_not_much_too_wide_where_classes_are_alike() -> None:
    rng = np.random.default_rng(4)
    answered = outcomes(rng, np.full((40, 40), 0.1), episodes=400, n_query=5)
    by_class = class_bootstrap(class_pairs(*answered), n_way=N_WAY)
    by_episode = normal_interval((answered[2] == answered[1]).mean(1))
    ratio = (by_class.high - by_class.low) / (by_episode.high - by_episode.low)
    assert 1 < ratio < 3**0.5 * 1.1  # a tenth for the noise of both


def test_the_same_seed_gives_the_same_interval() -> None:
    pairs = class_pairs(*outcomes(np.random.default_rng(0), np.full((6, 6), 0.2), episodes=30, n_query=2))
    assert class_bootstrap(pairs, n_way=3) == class_bootstrap(pairs, n_way=3, rng=0)
    assert class_bootstrap(pairs, n_way=3) != class_bootstrap(pairs, n_way=3, rng=1)
    narrow = class_bootstrap(pairs, n_way=3, level=0.5)
    wide = class_bootstrap(pairs, n_way=3)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_way_is_refused() -> None:
    with pytest.raises(ValueError, match="2 ways and 2 classes; got 1 and 3"):
        class_bootstrap(Pairs(np.zeros((3, 3)), np.zeros((3, 3))), n_way=1)
