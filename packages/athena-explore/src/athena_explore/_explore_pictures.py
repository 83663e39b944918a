"""Pictures of exploration: returns over steps, where an agent has been, how a bonus decays, an episode."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from athena_core import AthenaError
from athena_core.environments import Episode, VisitMap
from athena_core.figures import learning_curves
from athena_core.stats import Band

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 50  # of a curve of returns
_UNREACHABLE, _UNVISITED = "#B0B0B0", "#F2F2F2"
_SQUARE = 240  # pixels of a longest side, in a recorded episode


def plot_returns(
    ends: ArrayLike, returns: ArrayLike, *, steps: int, title: str = "", goal: float | None = None
) -> Figure:
    """Draw the mean return of the episodes that ended in each fiftieth of a run.

    The band is the mean with 1.96 times its standard error on either side, as if episodes were independent,
    cut where no return of the run was.

    Args:
        ends: at which step each episode ended ``(episodes,)``.
        returns: of each ``(episodes,)``.
        steps: of the run.
        goal: a return to compare with.

    Raises ValueError if no episode ended; AthenaError without matplotlib.

    >>> plot_returns([10, 20, 20], [0.0, 1.0, 0.0], steps=20).axes[0].get_xlabel()
    'environment steps'
    """
    x, mean, error = binned_means(ends, returns, steps=steps, bins=_POINTS)
    low, high = (np.clip(mean + z * error, np.min(returns), np.max(returns)) for z in (-1.96, 1.96))
    curve = Band(mean, low, high)
    return learning_curves(
        {"return": (x, curve)},
        x_label="environment steps",
        y_label="return of an episode",
        title=title,
        levels=None if goal is None else {"goal": goal},
    )


def binned_means(
    ends: ArrayLike, values: ArrayLike, *, steps: int, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, means and standard errors of values in equal parts of a run; parts without any are left out.

    >>> x, mean, error = binned_means([1, 2, 10], [0.0, 4.0, 7.0], steps=10, bins=2)
    >>> x.tolist(), mean.tolist(), error.tolist()
    ([5.0, 10.0], [2.0, 7.0], [2.0, 0.0])
    """
    ends, values = np.asarray(ends, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if not len(ends):
        raise ValueError("`ends` must hold an episode that ended; got none. Take more steps.")
    part = np.clip(np.ceil(ends / steps * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(part, minlength=bins)
    there = count > 0
    mean = np.bincount(part, values, bins) / np.maximum(count, 1)
    squares = np.bincount(part, (values - mean[part]) ** 2, bins)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    x = (np.arange(bins) + 1) * steps / bins
    return x[there], mean[there], error[there]


def plot_bonus(steps: ArrayLike, means: ArrayLike, stds: ArrayLike, *, title: str = "") -> Figure:
    """Draw how the bonus changes over a run: its mean in each rollout, with one deviation on either side.

    The band ends at 0 where no mean is below.

    Args:
        steps: at the end of each rollout ``(rollouts,)``.
        means, stds: of the rewards in it ``(rollouts,)``.

    Raises ValueError for lengths that differ; AthenaError without matplotlib.

    >>> plot_bonus([8, 16], [1.0, 0.5], [0.1, 0.1]).axes[0].get_ylabel()
    'bonus of a step'
    """
    mean, std = np.asarray(means, dtype=np.float64), np.asarray(stds, dtype=np.float64)
    low = np.maximum(mean - std, min(0.0, mean.min()))
    return learning_curves(
        {"bonus": (steps, Band(mean, low, mean + std))},
        x_label="environment steps",
        y_label="bonus of a step",
        title=title,
    )


def plot_visits(visits: VisitMap, *, title: str = "") -> Figure:
    """Draw a map of visits of one or two axes, on a logarithmic scale.

    Cells that were not visited are pale, those that cannot be are grey. Cells of side 1 are rows and columns
    of a grid, from the top; others are the first observation rightwards and the second upwards.

    Raises ValueError for a map of more axes; AthenaError without matplotlib.

    >>> visits = VisitMap([-0.5, -0.5], [3.5, 3.5], [4, 4])
    >>> visits.add([[0, 0], [0, 1], [0, 1]])
    >>> plot_visits(visits).axes[0].get_ylabel()
    'row'
    """
    if len(visits.bins) > 2:
        raise ValueError(f"`visits` must have one or two axes; got {len(visits.bins)}. Choose two of them.")
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise AthenaError("Pictures need matplotlib: run `pip install 'athena-explore[plot]'`.") from error
    cells = bool(np.allclose((visits.high - visits.low) / visits.bins, 1))
    counts, reachable, extent = _laid_out(visits, cells=cells)
    figure = Figure(figsize=(6.0, 5.2 if len(visits.bins) == 2 else 1.9), dpi=150, layout="constrained")
    axes = figure.add_subplot(facecolor=_UNREACHABLE)
    options: dict[str, Any] = {"extent": extent, "aspect": "equal" if cells and len(counts) > 1 else "auto"}
    options |= {"origin": "upper" if cells else "lower", "interpolation": "nearest"}
    pale = np.where(reachable, 0.0, np.nan)
    axes.imshow(pale, cmap=_single(_UNVISITED), **options)
    shown = np.ma.masked_equal(counts, 0)
    picture = axes.imshow(shown, cmap="viridis", norm=LogNorm(1, max(2, int(counts.max()))), **options)
    figure.colorbar(picture, ax=axes, label="visits", orientation="vertical")
    axes.set(**_axis_labels(visits, cells=cells))
    if cells:
        axes.locator_params(integer=True)
    if len(visits.bins) == 1:
        axes.set_yticks([])
    axes.set_title(
        f"{title}\n{100 * visits.coverage:.1f} % of the cells visited".strip(), loc="left", fontsize="medium"
    )
    return figure


def _laid_out(
    visits: VisitMap, *, cells: bool
) -> tuple[NDArray[np.int64], NDArray[np.bool_], tuple[float, float, float, float]]:
    """Counts as rows from the top of a grid, or from the bottom of a plane; and the picture's edges."""
    low, high = visits.low, visits.high
    if len(visits.bins) == 1:
        return visits.counts[None], visits.reachable[None], (low[0], high[0], 0.0, 1.0)
    if cells:
        return visits.counts, visits.reachable, (low[1], high[1], high[0], low[0])
    return visits.counts.T, visits.reachable.T, (low[0], high[0], low[1], high[1])


def _axis_labels(visits: VisitMap, *, cells: bool) -> dict[str, str]:
    if len(visits.bins) == 1:
        return {"xlabel": "state"}
    if cells:
        return {"xlabel": "column", "ylabel": "row"}
    return {"xlabel": "first observation", "ylabel": "second observation"}


def _single(colour: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


def record_gif(
    env: gym.Env[Any, Any], episode: Episode, path: str | Path, *, max_frames: int = 120, fps: int = 15
) -> Path:
    """Play an episode again and write it as an animated GIF, at most 240 pixels a side.

    Of a long episode, frames are left out evenly; the first and the last stay.

    Args:
        env: as that of the episode, with ``render_mode="rgb_array"``.
        episode: its seed and actions.
        path: ends in ``.gif``; folders are made.
        max_frames: at most as many, at least 2.
        fps: frames a second.

    Raises ValueError if the environment does not render pictures; AthenaError without pillow.

    >>> import tempfile
    >>> env = gym.make("athena_explore.environments:athena/DeepSea-v0", size=3, render_mode="rgb_array")
    >>> record_gif(env, Episode(0, np.array([1, 1, 1]), 0.99), tempfile.mkdtemp() + "/dive.gif").name
    'dive.gif'
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise AthenaError("GIFs need pillow: run `pip install 'athena-explore[recipes]'`.") from error
    path = Path(path)
    wanted = np.linspace(0, len(episode.actions), min(max_frames, len(episode.actions) + 1)).round()
    pictures = []
    for step, frame in enumerate(_frames(env, episode)):
        if step in wanted:
            picture = Image.fromarray(frame)
            scale = _SQUARE / max(picture.size)
            size = [max(1, round(side * scale)) for side in picture.size]
            resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
            pictures.append(
                picture.resize((size[0], size[1]), resample).convert("P", palette=Image.Palette.ADAPTIVE)
            )
    durations = [1000 // fps] * (len(pictures) - 1) + [1000]  # the last picture stays for a second
    whole = io.BytesIO()
    pictures[0].save(
        whole, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole.getbuffer())
    return path


def _frames(env: gym.Env[Any, Any], episode: Episode) -> Iterator[NDArray[np.uint8]]:
    env.reset(seed=episode.seed)
    yield _rendered(env)
    for action in episode.actions:
        env.step(action)
        yield _rendered(env)


def _rendered(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    frame = np.asarray(env.render())
    if frame.ndim != 3 or frame.dtype != np.uint8:
        raise ValueError(
            f"`env` must render pictures (height, width, 3); got {frame.dtype} of {frame.shape}. Make it "
            'with render_mode="rgb_array".'
        )
    return frame
