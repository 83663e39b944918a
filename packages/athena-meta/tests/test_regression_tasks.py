"""Families of regression tasks: their distributions, and the floors that need no learning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from athena_meta import Harmonics, Lines, RegressionTasks, Sinusoids

FAMILIES = [Harmonics, Lines, Sinusoids]


def midpoints(low: float, high: float, count: int) -> np.ndarray:
    return low + (high - low) * (np.arange(count) + 0.5) / count


def test_floors_of_sinusoids_by_integration() -> None:
    # The integrals of E[y^2] and E[(y - E[y|x])^2] over amplitude, phase and input, on a grid of midpoints,
    # without the closed forms that the class has.
    amplitude, phase, x = (midpoints(*ends, 200) for ends in ((0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)))
    y = amplitude[:, None, None] * np.sin(x - phase[:, None])
    mean = y.mean(axis=(0, 1))
    tasks = Sinusoids()
    zero, unadapted = (y**2).mean(), ((y - mean) ** 2).mean()
    assert round(zero, 3) == 4.252  # 4.2517 in the limit
    assert round(unadapted, 3) == 3.006  # 3.0057
    # Midpoints err by the square of the step, the largest being 0.05 with a curvature of up to 25.
    assert tasks.zero_error == pytest.approx(zero, abs=2e-4)
    assert tasks.unadapted_error == pytest.approx(unadapted, abs=2e-4)
    assert np.allclose(tasks.unadapted(torch.from_numpy(x)).numpy(), mean, atol=1e-4)


def test_floors_of_sinusoids_are_those_of_the_protocol() -> None:
    assert f"{Sinusoids().zero_error:.4f} {Sinusoids().unadapted_error:.4f}" == "4.2517 3.0057"


def test_the_best_unadapted_predictor_is_at_a_minimum() -> None:
    # Any other cosine does worse, on the average over many tasks.
    episodes = Sinusoids(k_shot=1, n_query=20, dtype=torch.float64).draw(0, 20_000)
    basis = torch.stack([torch.ones_like(episodes.query_x), episodes.query_x.cos(), episodes.query_x.sin()])
    design, target = basis.flatten(1).T, episodes.query_y.flatten()
    solution = torch.linalg.lstsq(design, target).solution
    assert solution.tolist() == pytest.approx([0, -2 / math.pi * 2.55, 0], abs=0.03)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_noise_is_added_to_both_and_to_the_floors(family: type[RegressionTasks], noise: float) -> None:
    tasks = family(k_shot=50, n_query=30, seed=1, noise=noise, dtype=torch.float64)
    episodes, parameters = tasks.draw(0, 200), tasks.parameters(0, 200)
    parts = []
    for x, y in ((episodes.support_x, episodes.support_y), (episodes.query_x, episodes.query_y)):
        residual = (y - tasks.target(x, parameters)).flatten()
        assert residual.std().item() == pytest.approx(noise, rel=0.05)
        parts.append(residual[:6000])
    assert noise == 0 or abs(torch.corrcoef(torch.stack(parts))[0, 1]) < 5 / math.sqrt(6000)
    assert tasks.zero_error - family().zero_error == pytest.approx(noise**2)
    assert tasks.unadapted_error - family().unadapted_error == pytest.approx(noise**2)


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """The Kolmogorov-Smirnov statistic stays under its 0.01 % point."""
    ordered = ((values.flatten() - low) / (high - low)).sort().values.double()
    n = len(ordered)
    ranks = torch.arange(n, dtype=torch.float64)
    distance = torch.maximum((ordered - ranks / n).abs(), (ordered - (ranks + 1) / n).abs()).max()
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    assert distance < 2.23 / math.sqrt(n)


def test_parameters_have_their_distributions() -> None:
    sinusoids, lines, harmonics = (
        family(seed=2).parameters(0, 5000) for family in (Sinusoids, Lines, Harmonics)
    )
    assert_uniform(sinusoids["amplitude"], 0.1, 5)
    assert_uniform(sinusoids["phase"], 0, math.pi)
    for name in ("slope", "intercept"):
        assert_uniform(lines[name], -3, 3)
    assert_uniform(harmonics["frequency"], 5, 7)
    assert_uniform(harmonics["center"], -4, 4)
    for name in ("b_1", "b_2"):
        assert_uniform(harmonics[name], 0, 2 * math.pi)
    for name in ("a_1", "a_2"):
        assert_uniform(torch.special.ndtr(harmonics[name]), 0, 1)


def test_inputs_have_their_distributions() -> None:
    for family in (Sinusoids, Lines):
        episodes = family(k_shot=5, n_query=5, seed=3).draw(0, 1000)
        assert_uniform(episodes.support_x, -5, 5)
        assert_uniform(episodes.query_x, -5, 5)
    harmonics = Harmonics(k_shot=5, n_query=5, seed=3)
    center = harmonics.parameters(0, 1000)["center"]
    assert_uniform(torch.special.ndtr(harmonics.draw(0, 1000).query_x[..., 0] - center[:, None]), 0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_dtype(family: type[RegressionTasks], dtype: torch.dtype) -> None:
    episodes = family(k_shot=1, n_query=1, dtype=dtype).draw(10**12, 3)
    assert all(part.dtype == dtype and part.shape == (3, 1, 1) for part in episodes[:4])
    assert not family.classification


def test_these_tasks_never_change() -> None:
    # Golden: the curves of `benchmarks/sinusoid.json` are of such tasks.
    parameters = Sinusoids(seed=42).parameters(7, 2)
    x = Sinusoids(seed=42, dtype=torch.float64).draw(7, 1).query_x[0, :2, 0]
    assert parameters["amplitude"].tolist() == pytest.approx([1.3518132603325, 4.3135245158556], abs=1e-12)
    assert parameters["phase"].tolist() == pytest.approx([0.5010214949454, 1.2892476433194], abs=1e-12)
    assert x.tolist() == pytest.approx([-2.8484549091046, 2.3679295511337], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k_shot": 0}, "`k_shot` must be at least 1; got 0"),
        ({"n_query": 0}, "`n_query` must be at least 1; got 0"),
        ({"noise": -1.0}, "`noise` must be a standard deviation, 0 or above; got -1.0"),
        ({"noise": math.nan}, "`noise` must be a standard deviation, 0 or above; got nan"),
    ],
)
def test_bad_options_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sinusoids(**options)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="`first` and `count` must not be negative; got -1 and 2"):
        Lines().draw(-1, 2)
