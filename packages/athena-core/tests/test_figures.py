"""Pictures show what they were given, touch nothing global, and reach the disk whole."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from athena_core import AthenaError, figures
from athena_core.stats import Band, Interval

STEPS = np.array([10, 20, 30])
BAND = Band(np.array([3.0, 2.0, 1.5]), np.array([2.9, 1.8, 1.2]), np.array([3.1, 2.3, 1.9]))


def curves(n: int = 1) -> dict:
    return {f"method {i}": (STEPS, BAND) for i in range(n)}


def shown(n: int = 1, **options) -> Figure:
    return figures.learning_curves(curves(n), x_label="step", y_label="loss (nats)", **options)


def test_curve_and_band_are_drawn_where_they_belong():
    axes = shown(title="five seeds").axes[0]
    assert axes.get_lines()[0].get_xydata().tolist() == [[10, 3.0], [20, 2.0], [30, 1.5]]
    outline = {tuple(vertex) for vertex in axes.collections[0].get_paths()[0].vertices}
    assert {(10, 2.9), (20, 1.8), (30, 1.2), (10, 3.1), (20, 2.3), (30, 1.9)} <= outline
    labels = axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")
    assert labels == ("step", "loss (nats)", "five seeds")


def test_bare_curve_has_no_band_and_one_point_is_visible():
    figure = figures.learning_curves({"a": ([1], [2.0])}, x_label="step", y_label="loss (nats)")
    assert not figure.axes[0].collections
    assert figure.axes[0].get_lines()[0].get_marker() == "o"


def test_levels_are_horizontal_lines_in_the_legend():
    figure = shown(levels={"unigram entropy": 4.9})
    assert set(figure.axes[0].get_lines()[1].get_ydata()) == {4.9}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["method 0", "unigram entropy"]


def test_legend_hides_no_curve():
    for n in (2, 12):
        figure = shown(n, title="title")
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert not legend.overlaps(figure.axes[0].get_tightbbox())
        assert legend.x1 <= figure.bbox.x1
        assert figure.axes[0].get_window_extent().height > 0.5 * figure.bbox.height
    assert not shown(1).legends


def test_lines_differ_in_colour_or_style_and_stand_out_from_white():
    lines = shown(20).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20
    for colour in figures.PALETTE:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_intervals_stand_in_the_order_given_first_on_top():
    figure = figures.intervals(
        {"b": Interval(2.0, 1.0, 4.0), "a": Interval(5.0, 4.5, 6.0)}, x_label="bits per byte"
    )
    axes = figure.axes[0]
    bar, dot = axes.get_lines()[:2]
    assert (list(bar.get_xdata()), list(dot.get_xdata())) == ([1.0, 4.0], [2.0])
    assert bar.get_solid_capstyle() == "butt"  # a projecting cap would lengthen the interval
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "bits per byte"


def test_large_steps_are_written_out():
    figure = figures.learning_curves({"a": ([0, 1e6], [1.0, 2.0])}, x_label="step", y_label="return")
    figure.draw_without_rendering()
    texts = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "200,000" in texts
    assert "0" in texts


def test_nothing_to_show_or_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="at least one result; got none"):
        figures.learning_curves({}, x_label="step", y_label="loss (nats)")
    with pytest.raises(ValueError, match="at least one result; got none"):
        figures.intervals({}, x_label="loss (nats)")
    with pytest.raises(ValueError, match=r"`a` must have one value a step; got shape \(2,\) for \(3,\)"):
        figures.learning_curves({"a": (STEPS, [1.0, 2.0])}, x_label="step", y_label="loss (nats)")


def test_saved_picture_is_a_whole_png(tmp_path):
    path = tmp_path / "loss.png"
    figures.save(shown(3), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    assert list(tmp_path.iterdir()) == [path]


def test_failure_while_saving_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        figures.save(shown(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_png_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in `\.png`; got .*loss\.pdf"):
        figures.save(shown(), tmp_path / "loss.pdf")


def test_missing_matplotlib_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-core\[plot\]'"):
        shown()


def test_pyplot_and_torch_stay_unloaded_and_matplotlib_waits_for_a_picture(tmp_path):
    program = """
import sys
from athena_core import figures
assert "matplotlib" not in sys.modules
figure = figures.learning_curves({"a": ([1, 2], [1.0, 2.0])}, x_label="step", y_label="loss (nats)")
figures.save(figure, sys.argv[1])
assert not {"matplotlib.pyplot", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True)
