"""Aggregates, intervals and curves against slow plain references, simulation and the laws they obey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from athena_core import stats

GENERATOR = 20210830
FUNCTIONS = {
    "interval": lambda scores, **o: stats.bootstrap_interval(scores, **o),
    "paired": lambda scores, **o: stats.paired_difference(scores, scores[::-1], **o),
    "improvement": lambda scores, **o: stats.probability_of_improvement(scores, scores - 0.3, **o),
    "curve": lambda scores, **o: stats.learning_curve(scores[:, :, None] + [0.0, 1.0], **o),
    "profile": lambda scores, **o: stats.performance_profile(scores, [-0.5, 0.5], **o),
}


def drawn(*shape: int, seed: int = GENERATOR) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def plain_interquartile_mean(values: list[float]) -> float:
    ordered = sorted(values)
    cut = int(0.25 * len(ordered))
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)


@pytest.fixture(params=FUNCTIONS, name="function")
def _function(request):
    return FUNCTIONS[request.param]


# The interquartile mean.


@pytest.mark.parametrize("n", range(1, 18))
def test_interquartile_mean_equals_the_plain_one(n):
    values = drawn(n)
    assert stats.interquartile_mean(values) == pytest.approx(plain_interquartile_mean(values.tolist()))


def test_interquartile_mean_pools_runs_and_tasks_and_reduces_one_axis():
    scores = drawn(5, 7, 3)
    assert stats.interquartile_mean(scores) == stats.interquartile_mean(scores.ravel())
    for axis in (0, 1, 2, -1):
        expected = np.apply_along_axis(lambda v: plain_interquartile_mean(v.tolist()), axis, scores)
        np.testing.assert_allclose(stats.interquartile_mean(scores, axis=axis), expected, rtol=1e-12)


def test_interquartile_mean_ignores_an_outlier_and_leaves_its_input_alone():
    scores = np.array([4.0, 2.0, 1e9, 1.0, 3.0, 5.0, 0.0, -1e9])
    before = scores.copy()
    assert stats.interquartile_mean(scores) == 2.5
    np.testing.assert_array_equal(scores, before)


# Intervals.


def test_interval_equals_the_exact_bootstrap_distribution():
    """All 3^3 x 3^3 equally likely resamples of 3 runs of 2 tasks: stratified, each task on its own."""
    scores = np.array([[0.0, 10.0], [1.0, 14.0], [3.0, 11.0]])
    choices = list(itertools.product(range(3), repeat=3))
    means = [np.mean([scores[a, 0], scores[b, 1]]) for a in choices for b in choices]
    a = stats.bootstrap_interval(scores, rng=0, statistic=np.mean, level=0.8, resamples=200_000)
    exact = np.quantile(means, [0.1, 0.9])
    assert a.estimate == pytest.approx(scores.mean())
    assert (a.low, a.high) == pytest.approx(exact, abs=0.17)  # the exact distribution's atoms lie 1/6 apart


def test_tasks_are_never_mixed():
    """Without strata a resample could hold one task more often than the other, and the mean would move."""
    scores = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    assert stats.bootstrap_interval(scores, rng=0, statistic=np.mean) == (50.0, 50.0, 50.0)


@pytest.mark.parametrize(("runs", "tasks", "least"), [(10, 1, 0.87), (5, 10, 0.87), (10, 10, 0.90)])
def test_interval_covers_the_truth_about_as_often_as_it_says(runs, tasks, least):
    """Simulated: 1,000 experiments, standard error 0.01. A tail lost or tasks mixed falls outside."""
    scores, truth = drawn(1000, runs, tasks) + np.arange(tasks), (tasks - 1) / 2
    intervals = [
        stats.bootstrap_interval(s, rng=i, statistic=np.mean, resamples=400) for i, s in enumerate(scores)
    ]
    assert least <= np.mean([low <= truth <= high for _, low, high in intervals]) <= 0.97


def test_few_runs_cover_what_the_docstring_says():
    for runs, documented in ((3, 0.75), (5, 0.90), (10, 0.93)):
        intervals = [
            stats.bootstrap_interval(s, rng=i, resamples=400) for i, s in enumerate(drawn(1500, runs))
        ]
        covered = np.mean([low <= 0 <= high for _, low, high in intervals])
        assert covered == pytest.approx(documented, abs=0.035)  # three standard errors


def test_interval_shortens_with_runs_and_widens_with_level():
    def length(runs: int, level: float) -> float:
        interval = stats.bootstrap_interval(drawn(runs), rng=0, level=level)
        return interval.high - interval.low

    assert length(400, 0.95) < 0.5 * length(20, 0.95)
    assert length(20, 0.5) < length(20, 0.95) < length(20, 0.999)


# Reproducible, which rliable's `random_state` is not.


def test_same_seed_agrees_and_different_seeds_differ(function):
    scores = drawn(7, 3)
    rngs = (1, np.random.default_rng(1), 2)
    first, again, other = (np.asarray(function(scores, rng=rng, resamples=101)) for rng in rngs)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    np.testing.assert_array_equal(first[0], other[0])  # the estimate draws nothing


def test_global_random_state_is_neither_read_nor_changed(function):
    before = np.random.get_state()[1].copy()
    function(drawn(4, 2), rng=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_generator_advances_so_that_its_second_interval_is_new():
    rng = np.random.default_rng(0)
    first, second = (stats.bootstrap_interval(drawn(12), rng=rng, resamples=101) for _ in range(2))
    assert first != second


def test_memory_bound_does_not_change_the_result(function, monkeypatch):
    scores = drawn(5, 4)
    whole = np.asarray(function(scores, rng=3))
    monkeypatch.setattr(stats, "_ELEMENTS", 997)  # odd groups of resamples and single points
    np.testing.assert_allclose(np.asarray(function(scores, rng=3)), whole, rtol=1e-12)


# Laws.


def test_permuting_runs_or_tasks_keeps_estimates(function):
    scores = drawn(6, 5)
    order = np.random.default_rng(0)
    expected = np.asarray(function(scores, rng=0)[0])
    if function is not FUNCTIONS["paired"]:  # whose second array is the first one reversed
        np.testing.assert_allclose(
            function(order.permutation(scores, axis=0), rng=0)[0], expected, rtol=1e-12
        )
    np.testing.assert_allclose(function(order.permutation(scores, axis=1), rng=0)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_interval_moves_and_stretches_with_the_scores(scale):
    scores = drawn(8, 3)
    expected = np.array(stats.bootstrap_interval(scores, rng=0))
    moved = np.array(stats.bootstrap_interval(scale * scores + 5, rng=0))
    np.testing.assert_allclose(moved, scale * expected + 5, rtol=1e-12)
    estimate, low, high = stats.bootstrap_interval(-scores, rng=0)  # mirrored
    np.testing.assert_allclose([-estimate, -high, -low], expected, rtol=1e-12)


def test_one_axis_is_one_task():
    scores = drawn(6)
    assert stats.bootstrap_interval(scores, rng=0) == stats.bootstrap_interval(scores[:, None], rng=0)


# Differences and improvement.


def test_pairing_removes_what_seeds_share():
    seeds = 10 * drawn(12)
    effect = 0.5 + 0.1 * drawn(12, seed=1)
    paired = stats.paired_difference(seeds + effect, seeds, rng=0)
    alone = stats.bootstrap_interval(seeds + effect, rng=0)
    assert paired.low < np.mean(effect) < paired.high
    assert paired.high - paired.low < 0.05 * (alone.high - alone.low)


def test_improvement_equals_the_double_loop_with_ties_as_half():
    rng = np.random.default_rng(GENERATOR)
    x, y = rng.integers(0, 4, size=(5, 3)), rng.integers(0, 4, size=(7, 3))
    wins = [(a > b) + (a == b) / 2 for m in range(3) for a in x[:, m] for b in y[:, m]]
    there, back = stats.probability_of_improvement(x, y, rng=0), stats.probability_of_improvement(y, x, rng=0)
    assert there.estimate == pytest.approx(np.mean(wins))
    assert there.estimate + back.estimate == pytest.approx(1)
    assert there.low < there.estimate < there.high


def test_improvement_resamples_both_methods():
    """Against all 2^2 x 2^2 resamples of two runs each: ends of the 80 % interval are exact atoms."""
    x, y = np.array([0.0, 2.0]), np.array([1.0, 1.0])
    assert stats.probability_of_improvement(x, y, rng=0, level=0.4) == (0.5, 0.5, 0.5)
    assert stats.probability_of_improvement(x, y, rng=0, level=0.8) == (0.5, 0.0, 1.0)
    assert stats.probability_of_improvement(y, x, rng=0, level=0.8) == (0.5, 0.0, 1.0)


def test_improvement_of_a_method_over_itself_is_a_half():
    scores = drawn(6, 4)
    assert stats.probability_of_improvement(scores, scores, rng=0).estimate == 0.5


def test_improvement_ignores_monotone_rescaling():
    x, y = drawn(6, 2), drawn(6, 2, seed=1)
    expected = stats.probability_of_improvement(x, y, rng=0)
    assert stats.probability_of_improvement(np.exp(x), np.exp(y), rng=0) == expected


def test_ties_everywhere_give_an_interval_of_length_zero():
    assert stats.bootstrap_interval(np.full((4, 2), 7.0), rng=0) == (7.0, 7.0, 7.0)


# Curves.


@pytest.mark.parametrize("tasks", [1, 3])
def test_band_at_each_point_is_the_interval_there(tasks):
    curves = drawn(5, tasks, 9)
    band = stats.learning_curve(curves[:, 0] if tasks == 1 else curves, rng=4)
    for point in range(9):
        interval = stats.bootstrap_interval(curves[..., point], rng=4)
        np.testing.assert_allclose([end[point] for end in band], interval, rtol=1e-12)


def test_profile_counts_runs_above_each_threshold():
    scores = np.array([[1.0, 2.0], [3.0, 4.0]])
    profile = stats.performance_profile(scores, [0.0, 1.0, 2.5, 4.0], rng=0)
    assert profile.estimate.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert np.all(profile.low <= profile.estimate)
    assert np.all(profile.estimate <= profile.high)


# A missing run is an error, never a shorter average.


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_missing_run_is_named(function, missing):
    scores = drawn(4, 3)
    scores[2, 1] = missing
    with pytest.raises(
        ValueError, match=r"must hold a finite score.*(run 2, task 1|run 1, task 1).*\d+ of \d+"
    ):
        function(scores, rng=0)


def test_nan_is_not_sorted_to_the_end_and_trimmed_away():
    with pytest.raises(ValueError, match="got nan at run 3"):
        stats.interquartile_mean([1.0, 2.0, 3.0, np.nan])


def test_ragged_and_empty_scores_are_refused():
    with pytest.raises(ValueError, match="as many tasks in every run"):
        stats.bootstrap_interval([[1.0, 2.0], [3.0]], rng=0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"hold a score; got the shape \(0,\)"):
        stats.interquartile_mean([])
    with pytest.raises(ValueError, match="must have 1 or 2 axes"):
        stats.bootstrap_interval(np.zeros((2, 2, 2)), rng=0)


def test_one_run_gives_an_estimate_but_no_interval(function):
    assert stats.interquartile_mean([[1.0, 3.0]]) == 2.0
    with pytest.raises(ValueError, match=r"at least 2 runs; got 1\. Run more seeds"):
        function(drawn(1, 3), rng=0)


def test_unequal_runs_or_tasks_are_refused():
    with pytest.raises(ValueError, match=r"`baseline` must have the shape of `scores`, \(4, 2\)"):
        stats.paired_difference(drawn(4, 2), drawn(3, 2), rng=0)
    with pytest.raises(ValueError, match="must have 2 tasks, as `scores` has; got 3"):
        stats.probability_of_improvement(drawn(4, 2), drawn(4, 3), rng=0)


def test_seeds_are_aligned_or_the_missing_ones_named():
    aligned = stats.align_seeds({"a": {7: [1.0, 2.0], 3: [0.0, 1.0]}, "b": {3: [5.0, 5.0], 7: [6.0, 6.0]}})
    assert aligned["a"].tolist() == [[0.0, 1.0], [1.0, 2.0]]
    assert aligned["b"].tolist() == [[5.0, 5.0], [6.0, 6.0]]
    with pytest.raises(ValueError, match="`b` must have the seeds of the other methods; it lacks 3, 9"):
        stats.align_seeds({"a": {3: 0.0, 7: 1.0, 9: 2.0}, "b": {7: 1.0}})
    with pytest.raises(ValueError, match=r"`a` must hold a finite score .* run 1"):
        stats.align_seeds({"a": {3: 0.0, 7: np.nan}})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rng": None}, TypeError, "`rng` must be an integer seed or a numpy.random.Generator"),
        ({"rng": 0, "level": 1.0}, ValueError, r"`level` must lie in \(0, 1\); got 1.0"),
        ({"rng": 0, "resamples": 0}, ValueError, "`resamples` must be at least 1; got 0"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        stats.bootstrap_interval([1.0, 2.0], **options)
