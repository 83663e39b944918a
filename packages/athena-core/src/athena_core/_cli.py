"""The command ``athena``. Each subcommand imports what it needs: listing imports no torch."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from athena_core._errors import AthenaError, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code: 0, or 2 with one line about what was wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # text of all kinds, on terminals of all kinds
    try:
        if arguments[:1] == ["run"]:  # its options are the recipe's: it parses them itself
            return _run(arguments[1:])
        options = _parser().parse_args(arguments)
        return options.command(options) or 0
    except AthenaError as error:
        return _complain(str(error), 2)
    except BrokenPipeError:  # `athena list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush to
        return 0
    except KeyboardInterrupt as error:
        return _complain("interrupted", 128 + (error.args or (signal.SIGINT,))[0])
    except Exception as error:
        if message := _from_outside(error):
            return _complain(message, 2)
        raise


def _from_outside(error: Exception) -> str:
    """What to say of an error that is no defect of ours: a failed plugin's own, or the system's."""
    from athena_core._host import default_host
    from athena_core._target import describe

    for plugin in default_host().plugins():
        if plugin.cause is error:
            return f"plugin {plugin.distribution} {plugin.version} failed: {describe(error)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    return ""


def _complain(message: str, code: int) -> int:
    print(f"athena: {message}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Errors as one line, with the nearest subcommand."""

    def error(self, message: str) -> NoReturn:
        raise AthenaError(f"{message}. `{self.prog} --help` shows what there is.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise AthenaError(f"unknown command `{value}`. {nearest(str(value), action.choices)}")


class _Version(argparse.Action):
    """Look the version up only when it is asked for: listing pays for one metadata scan and no more."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"athena-core {version('athena-core')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="athena", description="Find, run and compare components for PyTorch research.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the core's version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, function: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").strip()
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(command=function)
        return made

    listing = command("list", _list)
    listing.add_argument("kind", nargs="?", help="only this kind")
    listing.add_argument("--json", action="store_true", help="print one JSON list")
    info = command("info", _info)
    info.add_argument("component", metavar="KIND/NAME", help="or KIND/DISTRIBUTION/NAME")
    info.add_argument("--plot", action="store_true", help="draw it, where its kind can be drawn")
    info.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where the picture goes")
    plugins = command("plugins", _plugins)
    plugins.add_argument("action", nargs="?", choices=["list", "disable", "enable"], default="list")
    plugins.add_argument("name", nargs="?", help="the distribution to disable or enable")
    listed = command("kernels", _kernels)
    listed.add_argument(
        "--run", action="store_true", help="first run each whose device is here, to see whether it compiles"
    )
    doctor = command("doctor", _doctor)
    doctor.add_argument("--model", metavar="MODULE:FACTORY", help="print the placement plan of this model")
    commands.add_parser("run", help="Run a recipe: athena run NAME [options]; athena run --help.")
    report = command("report", _report)
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or folders of those"
    )
    report.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER", help="for the curves")
    new = command("new", _new)
    new.add_argument(
        "folder", type=Path, metavar="DIR", help="the package's folder; its name is the package's"
    )
    return parser


def _list(options: argparse.Namespace) -> None:
    """List the components that the installed packages offer."""
    from athena_core._host import default_host

    host = default_host()
    offers = host.offers(options.kind)
    if options.json:
        rows = [
            {
                "kind": o.component.kind,
                "name": o.component.name,
                "summary": o.component.summary,
                "paper": o.component.paper,
                "distribution": o.distribution,
                "version": o.version,
            }
            for o in offers
        ]
        print(json.dumps(rows, indent=1))
        return
    _table([(f"{o.component.kind}/{o.component.name}", o.component.summary, o.distribution) for o in offers])
    if broken := [p.distribution for p in host.plugins() if p.state in ("failed", "incompatible")]:
        print(f"not loaded: {', '.join(broken)}; `athena plugins` says why", file=sys.stderr)


def _info(options: argparse.Namespace) -> None:
    """Show a component: source, paper, options; or draw it."""
    from athena_core import _info

    kind, slash, name = options.component.partition("/")
    if not slash or not name:
        raise AthenaError(
            f"`athena info` takes KIND/NAME, such as optimizer/adamw; got `{options.component}`."
        )
    if options.plot:
        print(_info.plot(kind, name, options.out))
    else:
        print(_info.describe(kind, name))


def _plugins(options: argparse.Namespace) -> None:
    """Show each plugin and its state, or switch one off or on."""
    from athena_core import _settings
    from athena_core._host import default_host

    if options.action == "list":
        rows = [
            (f"{p.distribution} {p.version}", p.entry_point, p.state, p.reason)
            for p in default_host().plugins()
        ]
        _table(rows)
    elif options.name is None:
        raise AthenaError(f"`athena plugins {options.action}` takes the name of a distribution.")
    elif options.action == "disable":
        _settings.disable(options.name)
    else:
        _settings.enable(options.name)


def _kernels(options: argparse.Namespace) -> None:
    """List each op and device: kernel or reference, and why."""
    from athena_core._host import default_host
    from athena_core._kernels import kernels

    host = default_host()
    for offer in host.offers():  # an op exists once its module is imported
        with contextlib.suppress(Exception):  # one that cannot be imported brings no op
            host.load(offer.component.kind, f"{offer.distribution}/{offer.component.name}")
    if options.run:
        from athena_core._try_kernels import try_kernels

        try_kernels()
    _table([(row.op, row.device, row.runs, row.distribution, row.why) for row in kernels()])


def _doctor(options: argparse.Namespace) -> int:
    """Check Python, torch, devices and plugins; with --model, plan where a model fits."""
    from athena_core._doctor import report

    lines, status = report(options.model)
    print("\n".join(lines))
    return status


def _report(options: argparse.Namespace) -> None:
    """Compare runs: a table of final metrics with intervals, and learning curves."""
    from athena_core._report import report

    print(report(options.runs, options.out))


def _new(options: argparse.Namespace) -> None:
    """Make a package that joins in: a component, its tests, its metadata."""
    from athena_core._scaffold import make

    print(make(options.folder))


def _run(arguments: list[str]) -> int:
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    try:
        from athena_core._launch import launch
        from athena_core._run import Interrupted

        for number in before:  # not before: an exception inside torch's import is lost, or ends the process
            signal.signal(number, stop)
        if noted:
            raise KeyboardInterrupt(noted[0])
        try:
            launch(arguments)
        except Interrupted as interrupted:
            return _complain(str(interrupted), 128 + interrupted.signal)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        print("none")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
