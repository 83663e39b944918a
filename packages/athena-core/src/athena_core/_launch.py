"""`athena run`: from a command line to one run, or one a seed."""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from athena_core import _toml
from athena_core._config import options_help, resolve, to_values
from athena_core._device import device as find_device
from athena_core._errors import AthenaError
from athena_core._recipe import Recipe
from athena_core._registry import load
from athena_core._resume_command import resume_command
from athena_core._run import Interrupted, Run
from athena_core._run_folder import checkpoints
from athena_core._saved_run import read_recipe, recipe_class, recipe_fields

SEEDS = 2**63
MOST_SEEDS = 10_000


def launch(arguments: Sequence[str], console: Console | None = None) -> None:
    """Do ``athena run ARGUMENTS``: build the recipe, and run it once for each seed."""
    console = console or Console()
    name, rest = _name_first(arguments)
    options, rest = _parser().parse_known_args(rest)
    if not options.checkpoint_seconds >= 0:
        raise AthenaError(f"`--checkpoint-seconds` must be at least 0; got {options.checkpoint_seconds}.")
    if options.help:
        help_text = _parser().format_help()
        console.print(
            help_text + (options_help(recipe_class(name), rest, name=name) if name else ""), markup=False
        )
    elif options.resume is not None:
        _resume(name, rest, options, console)
    else:
        _start(name, rest, options, console)


def _start(name: str | None, arguments: list[str], options: argparse.Namespace, console: Console) -> None:
    values, source = (_toml.read(options.config), str(options.config)) if options.config else ({}, "")
    if name and values.get("recipe", name) != name:
        raise AthenaError(f"{source} is for the recipe `{values['recipe']}`; got `{name}`. Leave one out.")
    name = name or values.get("recipe")
    if not isinstance(name, str):
        raise AthenaError("name a recipe: `athena run NAME`. `athena list recipe` shows what there is.")
    seeds = _seeds(options, values)
    device = str(find_device(options.device or values.get("device", "auto")))
    recipe = resolve(recipe_class(name), arguments, recipe_fields(values), name=name, source=source)
    config = {"recipe": name, "device": device, **to_values(recipe)}
    for tracker in options.tracker:
        load("tracker", tracker)  # before anything is made
    folder = _new_folder(options.out or Path("runs"), name)
    runs = []
    for seed in seeds:
        place = folder if len(seeds) == 1 else folder / f"seed-{seed}"
        runs.append(_run(place, {**config, "seed": seed}, options, folder, console))
    for run in runs:  # all folders first: a resume finds the seeds that were not begun
        run.prepare()
    _execute([(recipe, run) for run in runs], folder, console)
    if len(runs) > 1:
        _show(console, {"all seeds": folder, "compare": f"athena report {shlex.quote(str(folder))}"})


def _resume(name: str | None, arguments: list[str], options: argparse.Namespace, console: Console) -> None:
    for option, given in (
        (name, name),
        ("--config", options.config),
        ("--out", options.out),
        ("--seeds", options.seeds),
    ):
        if given is not None:
            raise AthenaError(f"`--resume` takes all that from the folder; leave out `{option}`.")
    pairs = []
    for folder in _run_folders(options.resume):
        recipe, values = read_recipe(folder, arguments)
        (seed,) = _seeds(options, values)
        device = options.device or values["device"]
        config = {"recipe": values["recipe"], "device": device, **to_values(recipe), "seed": seed}
        run = _run(folder, config, options, options.resume, console)
        run.prepare()
        if _is_complete(folder):
            console.print(f"{folder} is complete already", highlight=False, markup=False, soft_wrap=True)
        else:
            newest = checkpoints(folder)[-1:]
            where = newest[0].name if newest else "the beginning: there is no checkpoint"
            console.print(f"{folder} goes on from {where}", highlight=False, markup=False, soft_wrap=True)
            pairs.append((recipe, run))
    _execute(pairs, options.resume, console)


def _execute(pairs: Sequence[tuple[Recipe, Run]], folder: Path, console: Console) -> None:
    """Do the runs in turn; one that fails or is interrupted ends them all."""
    try:
        for recipe, run in pairs:
            _execute_one(copy.deepcopy(recipe), run, console)
            if run.signal is not None:  # it came too late to stop this run
                raise KeyboardInterrupt(run.signal)
    except AthenaError:
        first = pairs[0][1]
        first.discard_unused()
        begun = first.dir.exists()
        for _, run in pairs:
            if begun:
                run.prepare()  # a resume finds all seeds, also one that left no trace
            else:
                run.discard_unused()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    except Interrupted:
        raise
    except KeyboardInterrupt as error:  # between two runs
        number = error.args[0] if error.args else signal.SIGINT
        raise Interrupted(number, f"interrupted; go on with: {resume_command(folder)}") from error


def _execute_one(recipe: Recipe, run: Run, console: Console) -> None:
    with run:
        _show(console, {"run": f"{run.dir} ({run.config['recipe']}, seed {run.seed}, {run.device})"})
        metrics = recipe.run(run)
        run.finish(metrics)
    again = f"athena run --config {shlex.quote(str(run.dir / 'config.toml'))}"
    figures = sorted((run.dir / "figures").glob("*.png"))
    _show(
        console,
        {
            **{name: f"{value:.4f}" for name, value in metrics.items()},
            "run": run.dir,
            **{f"figure {n}" if len(figures) > 1 else "figure": path for n, path in enumerate(figures, 1)},
            "metrics": run.dir / "metrics.jsonl",
            "again": again,
            "options": f"athena run {run.config['recipe']} --help",
            "several seeds": f"{again} --seeds 0:3, then athena report FOLDER",
        },
    )


def _run(
    folder: Path, config: Mapping[str, Any], options: argparse.Namespace, group: Path, console: Console
) -> Run:
    return Run(
        folder,
        config=config,
        seed=config["seed"],
        device=config["device"],
        trackers=options.tracker,
        checkpoint_seconds=options.checkpoint_seconds,
        group=group,
        console=console,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog="athena run",
        usage="athena run NAME [options of a run] [options of the recipe]",
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("options of a run").add_argument
    add("--config", type=_path, metavar="FILE.toml", help="options as TOML; the command line wins over it")
    add("--seed", type=int, help="seed of every generator (default: 0)")
    add("--seeds", metavar="A:B", help="one run for each seed: 0:10, or 0,3,5")
    add("--device", type=_text, help="auto, or a device type such as cpu or cuda:1 (default: auto)")
    add("--out", type=_path, metavar="FOLDER", help="where the run's folder is made (default: runs)")
    add("--tracker", action="append", default=[], metavar="NAME", help="also send metrics there; repeatable")
    add("--checkpoint-seconds", type=float, default=60.0, metavar="S", help="time between two (default: 60)")
    add("--resume", type=_path, metavar="FOLDER", help="go on with the run, or the seeds, in a folder")
    add("--help", "-h", action="store_true", help="show this, and the options of the recipe NAME")
    return parser


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise AthenaError(message)


def _text(value: str) -> str:
    if not value:  # an unset variable of a shell, as a rule
        raise argparse.ArgumentTypeError("got an empty value")
    return value


def _path(value: str) -> Path:
    return Path(_text(value))


def _name_first(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def _seeds(options: argparse.Namespace, values: Mapping[str, Any]) -> list[int]:
    if options.seeds is None:
        seed = values.get("seed", 0) if options.seed is None else options.seed
        if type(seed) is not int or not 0 <= seed < SEEDS:
            raise AthenaError(f"`seed` must be a whole number from 0 to {SEEDS - 1}; got {seed!r}.")
        return [seed]
    if options.seed is not None:
        raise AthenaError("`--seed` and `--seeds` exclude each other; give one.")
    try:
        first, colon, end = options.seeds.partition(":")
        if colon:
            seeds = range(int(first), int(end))[: MOST_SEEDS + 1]  # `len` takes no range of 2^63
        else:
            seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        seeds = []
    if (
        not 0 < len(seeds) <= MOST_SEEDS
        or len(set(seeds)) < len(seeds)
        or min(seeds) < 0
        or max(seeds) >= SEEDS
    ):
        raise AthenaError(
            f"`--seeds` must be a range such as 0:10 or a list such as 0,3,5, of 1 to {MOST_SEEDS} different "
            f"seeds from 0 to {SEEDS - 1}; got {options.seeds!r}."
        )
    return list(seeds)


def _new_folder(out: Path, name: str) -> Path:
    """An empty folder, made here, so that processes that start in the same second get one each."""
    stem = f"{name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, count = out / stem, 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                count += 1
                folder = out / f"{stem}-{count}"
    except OSError as error:
        raise AthenaError(f"cannot make the run's folder {folder}: {error.strerror}.") from error


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "config.toml").exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob("seed-*/config.toml"))
    if not found:
        raise AthenaError(f"{folder} holds no run: there is no config.toml in it.")
    return found


def _is_complete(folder: Path) -> bool:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or damaged: the checkpoint decides
        return False
    return isinstance(summary, dict) and summary.get("status") == "complete"


def _show(console: Console, rows: Mapping[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for key, value in rows.items():
        console.print(f"{key:<{width}}{value}", highlight=False, markup=False, soft_wrap=True)
