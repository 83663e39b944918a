"""The statistics beside rliable's and SciPy's.

rliable 1.2.0 imports arch 7, which needs pandas below 3. Its ``random_state`` is inert: it draws from NumPy's
global state, which these tests therefore seed and put back.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from rliable import library, metrics

from athena_core import stats

RESAMPLES = 20_000
# Two ends from so many resamples each differ by a standard error of 0.027 of the statistic's deviation; the
# interval is 3.9 deviations long.
TOLERANCE = 4 * 0.027 / 3.9


@pytest.fixture(autouse=True)
def _global_state():
    before = np.random.get_state()
    np.random.seed(20210830)
    yield
    np.random.set_state(before)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=shape)


def assert_same_ends(ours, theirs) -> None:
    low, high = np.asarray(theirs)
    allowed = TOLERANCE * (high - low)
    assert np.all(np.abs(ours.low - low) <= allowed), (ours.low, low)
    assert np.all(np.abs(ours.high - high) <= allowed), (ours.high, high)


@pytest.mark.parametrize("n", range(1, 18))
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    scores = drawn(n, 3)
    assert stats.interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    expected = scipy.stats.trim_mean(scores, 0.25, axis=0)
    np.testing.assert_allclose(stats.interquartile_mean(scores, axis=0), expected, rtol=1e-12)


@pytest.mark.parametrize(("runs", "tasks"), [(5, 10), (10, 3), (20, 1)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(stats.interquartile_mean, metrics.aggregate_iqm), (np.mean, metrics.aggregate_mean)],
    ids=["iqm", "mean"],
)
def test_interval_is_rliables(runs, tasks, ours, theirs):
    scores = drawn(runs, tasks) * (1 + np.arange(tasks))
    point, ends = library.get_interval_estimates(
        {"a": scores}, lambda s: np.array([theirs(s)]), reps=RESAMPLES
    )
    interval = stats.bootstrap_interval(scores, rng=0, statistic=ours, resamples=RESAMPLES)
    assert interval.estimate == pytest.approx(point["a"][0])
    assert_same_ends(interval, ends["a"][:, 0])


def test_band_is_rliables():
    curves = drawn(6, 4, 5).cumsum(axis=-1)

    def aggregate(c):
        return np.array([metrics.aggregate_iqm(c[..., point]) for point in range(c.shape[-1])])

    point, ends = library.get_interval_estimates({"a": curves}, aggregate, reps=RESAMPLES)
    band = stats.learning_curve(curves, rng=0, resamples=RESAMPLES)
    np.testing.assert_allclose(band.estimate, point["a"], rtol=1e-12)
    assert_same_ends(band, ends["a"])


def test_profile_is_rliables():
    scores, taus = drawn(8, 5), np.linspace(0.5, 4, 6)
    point, ends = library.create_performance_profile({"a": scores}, taus, reps=RESAMPLES)
    profile = stats.performance_profile(scores, taus, rng=0, resamples=RESAMPLES)
    np.testing.assert_allclose(profile.estimate, point["a"], rtol=1e-12)
    atom = 1 / scores.size  # the share takes only such steps, so an end may lie one of them away
    np.testing.assert_allclose([profile.low, profile.high], ends["a"], atol=1.001 * atom)


def test_improvement_is_rliables_and_mann_whitneys():
    x, y = drawn(6, 4).round(1), drawn(9, 4, seed=1).round(1)  # rounded: some ties
    improvement = stats.probability_of_improvement(x, y, rng=0, resamples=RESAMPLES)
    assert improvement.estimate == pytest.approx(metrics.probability_of_improvement(x, y))
    u = [scipy.stats.mannwhitneyu(x[:, task], y[:, task]).statistic for task in range(4)]
    assert improvement.estimate == pytest.approx(np.mean(u) / (6 * 9))


def test_improvements_interval_is_rliables():
    x, y = drawn(6, 2), drawn(9, 2, seed=1)
    _, ends = library.get_interval_estimates(
        {"a": (x, y)}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=2000
    )
    interval = stats.probability_of_improvement(x, y, rng=0, resamples=RESAMPLES)
    np.testing.assert_allclose([interval.low, interval.high], ends["a"][:, 0], atol=0.025)


def test_difference_is_scipys_percentile_bootstrap_of_the_differences():
    x, y = drawn(15), drawn(15, seed=1)
    theirs = scipy.stats.bootstrap(
        (x - y,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert_same_ends(stats.paired_difference(x, y, rng=0, statistic=np.mean, resamples=RESAMPLES), theirs)
