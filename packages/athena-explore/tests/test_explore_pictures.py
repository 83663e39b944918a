"""Pictures of exploration: what they show is what they were given, in the right places."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from athena_core.environments import Episode, VisitMap
from athena_core.figures import save
from athena_explore import plot_bonus, plot_returns, plot_visits, record_gif
from athena_explore._explore_pictures import binned_means

pytest.importorskip("matplotlib")
DEEP_SEA = "athena_explore.environments:athena/DeepSea-v0"


def test_means_and_errors_of_the_parts_of_a_run():
    """Against a loop."""
    random = np.random.default_rng(0)
    ends, values = np.sort(random.integers(1, 101, size=40)), random.normal(size=40)
    x, mean, error = binned_means(ends, values, steps=100, bins=7)
    parts = {}
    for end, value in zip(ends, values, strict=True):
        parts.setdefault(int(np.ceil(end * 7 / 100)), []).append(value)
    assert x.tolist() == pytest.approx([100 * part / 7 for part in parts])
    np.testing.assert_allclose(mean, [np.mean(part) for part in parts.values()])
    expected = [np.std(part, ddof=1) / len(part) ** 0.5 if len(part) > 1 else 0 for part in parts.values()]
    np.testing.assert_allclose(error, expected)


def test_one_episode_and_none(tmp_path):
    save(plot_returns([5], [1.0], steps=10), tmp_path / "one.png")
    with pytest.raises(ValueError, match="`ends` must hold an episode that ended; got none"):
        plot_returns([], [], steps=10)


def test_the_band_of_returns_ends_where_no_return_was():
    axes = plot_returns([10] * 4, [0.0, 1.0, 1.0, 1.0], steps=10, goal=1.0, title="half").axes[0]
    assert axes.get_lines()[0].get_ydata() == [0.75]
    band = axes.collections[0].get_paths()[0].vertices
    assert 0 <= band[:, 1].min() < 0.75 < band[:, 1].max() == 1
    assert axes.get_title(loc="left") == "half"
    assert len(axes.get_lines()) == 2


def test_the_band_of_a_bonus_that_is_never_negative_ends_at_0():
    for means, lowest in (([0.1, 0.5], 0.0), ([-0.2, 0.5], -0.2)):
        axes = plot_bonus([1, 2], means, [0.3, 0.3]).axes[0]
        assert axes.collections[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(lowest)


def images(visits: VisitMap) -> tuple[Any, list[Any]]:
    axes = plot_visits(visits, title="where").axes[0]
    return axes, [np.ma.filled(image.get_array().astype(float), -1) for image in axes.get_images()]


def test_a_grid_is_drawn_from_the_top_with_grey_where_nobody_comes(tmp_path):
    reachable = np.array([[True, True, True], [True, False, True]])
    visits = VisitMap([-0.5, -0.5], [1.5, 2.5], [2, 3], reachable=reachable)
    visits.add([[0, 0], [0, 0], [1, 2]])
    axes, (pale, counts) = images(visits)
    assert counts.tolist() == [[2, -1, -1], [-1, -1, 1]]  # masked where there was no visit
    assert pale.tolist() == [[0, 0, 0], [0, -1, 0]]
    assert axes.get_ylim() == (1.5, -0.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("column", "row")
    assert not any(tick % 1 for tick in axes.get_yticks())
    assert "40.0 % of the cells visited" in axes.get_title(loc="left")
    save(plot_visits(visits), tmp_path / "grid.png")


def test_a_plane_is_drawn_upwards_and_a_line_as_a_strip(tmp_path):
    plane = VisitMap([0, 10], [4, 16], [2, 3])
    plane.add([[3.9, 10.1]])
    axes, (_, counts) = images(plane)
    assert counts.tolist() == [[-1, 1], [-1, -1], [-1, -1]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 4), (10, 16))
    line = VisitMap([-0.5], [4.5], [5])
    axes, (_, counts) = images(line)  # nothing visited yet
    assert counts.tolist() == [[-1] * 5]
    assert axes.get_xlabel() == "state"
    for name, visits in (("plane", plane), ("line", line)):
        save(plot_visits(visits), tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="`visits` must have one or two axes; got 3"):
        plot_visits(VisitMap([0] * 3, [1] * 3, [2] * 3))


def test_a_recorded_episode_shows_each_of_its_steps(tmp_path):
    env = gym.make(DEEP_SEA, size=3, render_mode="rgb_array")
    actions = np.array([1, 0, 1])
    path = record_gif(env, Episode(0, actions, 0.0), tmp_path / "new" / "dive.gif", fps=10)
    env.reset()
    expected = [env.render()] + [(env.step(action), env.render())[1] for action in actions]
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size) == (4, (240, 240))
        durations = []
        for index, frame in enumerate(expected):
            gif.seek(index)
            durations.append(gif.info["duration"])
            shown = np.array(gif.convert("RGB"))[2::5, 2::5]
            assert np.abs(shown.astype(int) - np.array(frame, dtype=int)).max() < 8  # 256 colours
    assert durations == [100, 100, 100, 1000]


def test_a_long_episode_loses_frames_evenly_and_keeps_its_ends(tmp_path):
    env = gym.make("athena_explore.environments:athena/SparseMountainCar-v0", render_mode="rgb_array")
    path = record_gif(env, Episode(0, np.arange(199) // 20 % 3, 0.0), tmp_path / "car.gif", max_frames=5)
    with Image.open(path) as gif:
        assert gif.n_frames <= 5
        assert gif.size == (240, 160)
    assert path.stat().st_size < 20_000


def test_an_environment_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`env` must render pictures"):
        record_gif(gym.make(DEEP_SEA).unwrapped, Episode(0, np.array([1]), 0.0), tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()
