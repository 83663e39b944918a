"""`athena report`: tables and pictures of finished runs, grouped by configuration, over their seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from athena_core import _toml, figures, stats
from athena_core._errors import AthenaError
from athena_core._resume_command import resume_command

_RNG = 0  # of the bootstrap: the same runs always give the same report
_POINTS = 500  # of a curve with a band, spread evenly: a picture shows no more, and each is resampled
_FEW = 10  # seeds, below which percentile intervals are noticeably too short

Scores = dict[str, dict[str, stats.Array]]  # by metric and label, (runs,)


@dataclass(frozen=True)
class _Finished:
    """A finished run: its configuration flat and without the seed, its curves as ``{step: value}``."""

    folder: Path
    seed: int
    config: dict[str, str]
    final: dict[str, float]
    curves: dict[str, dict[int, float]]


def report(paths: Sequence[Path], out: Path) -> str:
    """Compare the runs in ``paths``, draw their curves into ``out``, and return the tables as Markdown.

    Args:
        paths: folders of runs, or folders in which those lie at any depth.
        out: the pictures' folder, made if need be.

    Raises AthenaError that names the folder of a run which is unfinished, damaged, without metrics, there
    twice, or has other metrics, steps or seeds than the runs it is compared with.
    """
    groups = _group([_read(folder) for folder in _run_folders(paths)])
    scores: Scores = {}
    for label, runs in groups.items():
        for metric in runs[0].final:
            scores.setdefault(metric, {})[label] = np.array([run.final[metric] for run in runs], np.float64)
    n_seeds = len(next(iter(groups.values())))
    parts = [_final_table(scores)]
    if n_seeds == 1:
        parts.append("One seed: no interval can be given. `athena run NAME --seeds 0:5` makes five runs.")
    elif len(groups) > 1:
        parts.append(_difference_table(scores))
    if 1 < n_seeds < _FEW:
        parts.append(
            f"With {n_seeds} seeds the intervals are too short: of normal scores, those of 95 % cover 75 % "
            "with 3 seeds, 90 % with 5, 93 % with 10."
        )
    if find_spec("matplotlib") is None:
        parts.append("No pictures: they need matplotlib, `pip install 'athena-core[plot]'`.")
    else:
        parts.append("\n".join(f"picture: {path}" for path in _draw(groups, scores, out)))
    return "\n\n".join(parts)


# Reading.


def _run_folders(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}  # by resolved path, so that a run named twice counts once
    for path in paths:
        inside = sorted(file.parent for file in path.rglob("config.toml"))
        inside = [folder for folder in inside if not folder.name.startswith(".")]  # half-made by a killed run
        if not inside:
            raise AthenaError(f"{path}: no run there; a run's folder holds `config.toml`.")
        found |= {folder.resolve(): folder for folder in inside}
    return list(found.values())


def _read(folder: Path) -> _Finished:
    config = _toml.read(folder / "config.toml")
    seed = config.pop("seed", None)
    if type(seed) is not int or "recipe" not in config:
        raise AthenaError(f"{folder}: config.toml must name a `recipe` and a whole `seed`; got {seed!r}.")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        status, final = summary["status"], summary.get("metrics")
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        status, final, lines = f"without {Path(error.filename).name}", None, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AthenaError(f"{folder}: summary.json or metrics.jsonl is damaged: {error!r}.") from error
    if status != "complete":
        remedy = "Start a new run." if status == "failed" else f"Go on with: {resume_command(folder)}"
        raise AthenaError(f"{folder}: not complete but {status}. {remedy}")
    if not isinstance(final, dict) or not final or not all(map(_is_finite, final.values())):
        raise AthenaError(f"{folder}: the final metrics must be finite numbers, at least one; got {final!r}.")
    return _Finished(folder, seed, _flat(config), final, _curves(folder, lines))


def _curves(folder: Path, lines: Iterable[str]) -> dict[str, dict[int, float]]:
    curves: dict[str, dict[int, float]] = {}
    last = -1
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step = row.pop("step")
            if type(step) is not int or step <= last or not all(map(_is_finite, row.values())):
                raise ValueError(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AthenaError(
                f"{folder}: metrics.jsonl, line {number}: must be an object with a growing `step` and "
                f"finite numbers; got {line[:80]!r}. Run it again."
            ) from error
        for metric, value in row.items():
            curves.setdefault(metric, {})[step] = value
        last = step
    return curves


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # an int may be larger yet


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Tables as dotted keys; a component's name stands under its field alone, as in ``--optimizer lamb``."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = prefix[:-1] if prefix and key == "name" else prefix + key
        flat |= _flat(value, f"{path}.") if isinstance(value, Mapping) else {path: str(value)}
    return flat


# Comparing.


def _group(runs: Sequence[_Finished]) -> dict[str, list[_Finished]]:
    """Runs of equal configuration in the order of their seeds, labelled by what tells the groups apart."""
    groups: dict[tuple[tuple[str, str], ...], list[_Finished]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        group = groups.setdefault(tuple(sorted(run.config.items())), [])
        if group:
            _check_comparable(run, group[-1])
        group.append(run)
    seeds = {run.seed for run in runs}
    for first, *others in groups.values():
        if missing := seeds - {first.seed, *(run.seed for run in others)}:
            names = ", ".join(map(str, sorted(missing)))
            raise AthenaError(f"{first.folder}: other configurations have the seeds {names} too. Run them.")
    labels = _labels([group[0].config for group in groups.values()])
    return dict(zip(labels, groups.values(), strict=True))


def _labels(configs: Sequence[Mapping[str, str]]) -> list[str]:
    values = {key: {config.get(key) for config in configs} for config in configs for key in config}

    def spelled(telling: Collection[str]) -> list[str]:
        return [", ".join(f"{key}={c[key]}" for key in telling if key in c) or c["recipe"] for c in configs]

    # An option that only one optimizer has says no more than that one's name, unless nothing else differs.
    labels = spelled([key for key, found in values.items() if len(found - {None}) > 1])
    if len(set(labels)) == len(configs):
        return labels
    return spelled([key for key, found in values.items() if len(found) > 1])


def _check_comparable(run: _Finished, other: _Finished) -> None:
    """Two runs of one configuration must differ in the seed, and in nothing but the numbers they logged."""
    if run.seed == other.seed:
        raise AthenaError(f"{run.folder}: {other.folder} has the same configuration and seed. Leave one out.")
    if odd := run.final.keys() ^ other.final.keys():
        raise AthenaError(f"{run.folder}: only it or only {other.folder} has the final metric `{min(odd)}`.")
    for metric in sorted(run.curves.keys() | other.curves.keys()):
        if run.curves.get(metric, {}).keys() != other.curves.get(metric, {}).keys():
            raise AthenaError(f"{run.folder}: `{metric}` is logged at other steps than in {other.folder}.")


def _final_table(scores: Scores) -> str:
    rows = []
    for metric, by_label in scores.items():
        for label, values in by_label.items():
            alone = f"{values[0]:.5g} [no interval]"
            estimate = _with_ends(stats.bootstrap_interval(values, rng=_RNG)) if len(values) > 1 else alone
            rows.append((metric, label, str(len(values)), f"{values.mean():.5g}", estimate))
    return _table(("final metric", "configuration", "seeds", "mean", "IQM [95 % interval]"), rows)


def _difference_table(scores: Scores) -> str:
    rows = []
    for metric, by_label in scores.items():
        for (a, x), (b, y) in combinations(by_label.items(), 2):
            difference = stats.paired_difference(x, y, rng=_RNG)
            better = stats.probability_of_improvement(x, y, rng=_RNG)
            rows.append((metric, a, b, _with_ends(difference), _with_ends(better)))
    return _table(("final metric", "A", "B", "IQM of A - B by seed", "P(A > B)"), rows)


def _with_ends(interval: stats.Interval) -> str:
    return f"{interval.estimate:.5g} [{interval.low:.5g}, {interval.high:.5g}]"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _draw(groups: Mapping[str, Sequence[_Finished]], scores: Scores, out: Path) -> list[Path]:
    pictures = {}
    n_seeds = len(next(iter(groups.values())))
    title = f"IQM of {n_seeds} seeds, 95 % interval" if n_seeds > 1 else "one seed"
    for metric in dict.fromkeys(metric for runs in groups.values() for metric in runs[0].curves):
        logged = {_drawn(label): runs for label, runs in groups.items() if metric in runs[0].curves}
        curves = {label: _curve(runs, metric) for label, runs in logged.items()}
        pictures[f"curve-{metric}"] = figures.learning_curves(
            curves, x_label="step", y_label=_drawn(metric), title=title
        )
    for metric, by_label in scores.items():
        if n_seeds > 1 and len(by_label) > 1:
            ends = {_drawn(label): stats.bootstrap_interval(v, rng=_RNG) for label, v in by_label.items()}
            pictures[f"final-{metric}"] = figures.intervals(
                ends, x_label=f"final {_drawn(metric)}", title=title
            )
    paths = {out / f"{quote(name, safe='')}.png": figure for name, figure in pictures.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, figure in paths.items():
            figures.save(figure, path)
    except OSError as error:
        raise AthenaError(f"{out}: no pictures can be written: {error.strerror}. Choose `--out`.") from error
    return list(paths)


def _drawn(label: str) -> str:
    """A label for matplotlib, which takes what stands between two dollars for a formula."""
    return label.replace("$", r"\$")


def _curve(runs: Sequence[_Finished], metric: str) -> tuple[stats.Array, stats.Band | stats.Array]:
    steps = np.array(list(runs[0].curves[metric]), dtype=np.float64)
    values = np.array([list(run.curves[metric].values()) for run in runs], dtype=np.float64)
    if len(runs) == 1:
        return steps, values[0]
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(int))
    return steps[kept], stats.learning_curve(values[:, kept], rng=_RNG)
