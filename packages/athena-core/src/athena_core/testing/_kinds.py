"""What the core's own kinds ask of their components: devices, trackers, recipes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from athena_core import _toml
from athena_core._component import Component
from athena_core._config import resolve, to_values
from athena_core._device import DeviceBackend
from athena_core._recipe import Recipe
from athena_core._run import Interrupted
from athena_core._tracker import Tracker
from athena_core.testing._check import Check
from athena_core.testing._cut_run import CutRun


def build_device(target: type[DeviceBackend]) -> DeviceBackend:
    return target()


def build_tracker(target: Callable[[Path], Tracker]) -> Tracker:
    tracker = target(Path(tempfile.mkdtemp()))
    tracker.close()
    return tracker


def build_recipe(target: type[Recipe]) -> Recipe:
    return target.example()


def device_checks(component: Component, target: type[DeviceBackend]) -> Iterator[Check]:
    """A device says what it is, and what is there can be asked about."""

    def type_is_its_name() -> None:
        assert target().type == component.name, f"{target().type!r} is found as {component.name!r}"

    def answers() -> None:
        backend = target()
        assert backend.available() == (backend.count() > 0)
        for index in range(backend.count()):
            backend.caps(index)
            memory = backend.memory(index)
            assert memory is None or 0 <= memory[0] <= memory[1], memory

    yield Check("its type is its name", type_is_its_name)
    yield Check("answers for what is there", answers)


def tracker_checks(component: Component, target: Callable[[Path], Tracker]) -> Iterator[Check]:  # noqa: ARG001
    """A tracker takes metrics, and a step again after a resume."""

    def takes_metrics() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for steps in ((1, 2), (2, 3)):  # resumed: step 2 comes again
                tracker = target(Path(folder))
                for step in steps:
                    tracker.log(step, {"loss": 1.0 / step, "accuracy": float("nan")})
                tracker.close()

    yield Check("takes metrics, and again after a resume", takes_metrics)


def recipe_checks(component: Component, target: type[Recipe]) -> Iterator[Check]:
    """A recipe's options go through TOML; its runs repeat, and resume where they were cut."""

    def options_through_toml() -> None:
        values = to_values(resolve(target, [], {}, name=component.name, source=""))
        read = _toml.loads(_toml.dumps(values))
        assert read == values
        again = resolve(target, [], read, name=component.name, source="TOML")
        assert to_values(again) == values

    def repeats() -> None:
        assert _metrics(target) == _metrics(target), "two runs with one seed differ"

    def resumes() -> None:
        assert target.example().steps >= 2, "the example has too few steps to be cut"
        assert _metrics(target, cut=target.example().steps // 2) == _metrics(target), (
            "the resumed run differs"
        )

    yield Check("its options go through TOML", options_through_toml)
    yield Check("two runs with one seed are equal", repeats)
    yield Check("a resumed run equals an uninterrupted one", resumes)


def _metrics(target: type[Recipe], cut: int = 0) -> list[dict[str, Any]]:
    """Every logged line of a short run on the CPU, and its final metrics."""
    recipe = target.example()
    with tempfile.TemporaryDirectory() as folder:
        final: dict[str, float] = {}
        for pause in (cut, 0) if cut else (0,):
            run = CutRun(Path(folder) / "run", cut=pause, device="cpu", console=Console(quiet=True))
            try:
                with run:
                    final = dict(recipe.run(run))
            except Interrupted:
                if not pause:  # not ours: somebody stops the tests
                    raise
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [*map(json.loads, lines), final]
