"""What `athena doctor` reports: Python, torch, switches, plugins, devices, and where a model fits."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athena_core import _discovery, _settings
from athena_core._discovery import CORE, Found
from athena_core._errors import AthenaError
from athena_core._host import PluginHost, default_host
from athena_core._target import describe, resolve, unmet_requirements

if TYPE_CHECKING:
    from athena_core._device import DeviceBackend, DeviceCaps

_SWITCHES = ("ATHENA_CONFIG_DIR", "ATHENA_DEVICE", "ATHENA_DISABLE", "ATHENA_NO_PLUGINS", "ATHENA_STRICT")
_ROWS = 4096  # batch times positions that a model's plan assumes
_SAID, _DONE = "athena-probe: ", "athena-probe-done"
_PROBE = "import sys; from athena_core._doctor import probe; probe(*sys.argv[1:])"


def report(model_target: str | None = None, *, timeout: float = 120) -> tuple[list[str], int]:
    """Lines to print, those to act upon beginning with ``!``, and the exit status: 1 if there is one.

    Each plugin is first tried in a process of its own, for ``timeout`` seconds at most, and left out
    of this one if that process died. ``model_target`` is ``"module:factory"``; the factory is called
    with no arguments, on the meta device where it can be.

    Raises AthenaError if there is no such factory, or it raises.
    """
    factory = None if model_target is None else _factory(model_target)
    before = dict(os.environ)
    try:
        lines = [*_python(), *_switches(), *_plugins(timeout), *_clashes(), *_devices()]
        if factory is not None:
            lines += _model(factory, str(model_target))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return lines, int(any(line.startswith("!") for line in lines))


def _python() -> Iterator[str]:
    yield f"python {platform.python_version()}, {platform.platform()}"
    try:
        import torch
    except Exception as error:  # noqa: BLE001  a broken build raises OSError, ImportError and worse
        yield f"! torch cannot be imported: {describe(error)}. Mend: pip install --force-reinstall torch"
        return
    built = [f"{name} {v}" for name in ("cuda", "hip", "xpu") if (v := getattr(torch.version, name, None))]
    yield f"torch {torch.__version__}, built for {', '.join(built) or 'cpu'}"
    yield f"threads: {torch.get_num_threads()} in an op, {torch.get_num_interop_threads()} across ops"


def _switches() -> Iterator[str]:
    for name, value in sorted(os.environ.items()):
        if name.startswith("ATHENA_"):
            meant = [] if name in _SWITCHES else get_close_matches(name, _SWITCHES, n=1)
            yield f"! {name} is no switch; is {meant[0]} meant?" if meant else f"switch {name}={value}"


def _plugins(timeout: float) -> Iterator[str]:
    try:
        switched_off = set() if _settings.only_core() else _settings.disabled()
    except AthenaError as error:
        yield f"! {error}"
        os.environ["ATHENA_NO_PLUGINS"] = "1"  # nothing tells which to leave out
        return
    found = [one for one in _discovery.scan() if _is_tried(one, switched_off)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        trials = dict(zip(found, pool.map(lambda one: _try(one, timeout), found), strict=True))
    dead = {one.distribution for one, trial in trials.items() if trial.fate}
    os.environ["ATHENA_DISABLE"] = ",".join(sorted(switched_off | dead - {CORE}))
    os.environ.pop("ATHENA_STRICT", None)  # it would end the report at the first plugin that raises
    for one, trial in trials.items():
        named = f"! plugin {one.distribution} {one.version}, entry point {one.entry_point} = {one.value}"
        if trial.fate:
            yield f"{named}: {trial.fate}. Keep it off: athena plugins disable {one.distribution}"
        yield from (f"{named}: {problem}" for problem in trial.problems)
    told = {one.distribution for one, trial in trials.items() if trial.fate or trial.problems}
    for status in default_host().plugins():
        if status.distribution not in told:
            mark = "! " if status.state in ("failed", "incompatible") else ""
            reason = f": {status.reason}" if status.reason else ""
            yield f"{mark}plugin {status.distribution} {status.version} {status.state}{reason}"


def _clashes() -> Iterator[str]:
    """Components that a bare name cannot tell apart, and those of a kind that nobody declares."""
    host = default_host()
    declared = {kind.name for kind in host.kinds()}
    offering: dict[str, list[str]] = {}
    for offer in host.offers():
        label = f"{offer.component.kind}/{offer.component.name}"
        offering.setdefault(label, []).append(offer.distribution)
        if offer.component.kind not in declared:
            yield f"! {label} of {offer.distribution}: no installed package declares the kind"
    for label, distributions in offering.items():
        if len(distributions) > 1:
            yield f"! {label} is offered by {' and '.join(distributions)}: disable one, or name it in full"


def _is_tried(one: Found, switched_off: set[str]) -> bool:
    if one.distribution == CORE:
        return True
    core = next((other.version for other in _discovery.scan() if other.distribution == CORE), "0")
    off = _settings.only_core() or one.distribution in switched_off
    return not off and not _discovery.unmet(one.requires_core, core)


@dataclass(frozen=True)
class _Trial:
    """``fate``: how the process ended, if not by itself; ``problems``: what it reported."""

    fate: str
    problems: list[str]


def _try(one: Found, timeout: float) -> _Trial:
    arguments = [one.distribution, one.version, one.entry_point, one.value]
    environment = {key: value for key, value in os.environ.items() if key != "ATHENA_STRICT"}
    command = [sys.executable, "-c", _PROBE, *arguments]
    try:
        ended = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return _Trial(f"did not load within {timeout:g} s", [])
    lines = ended.stdout.splitlines()
    problems = [line.removeprefix(_SAID) for line in lines if line.startswith(_SAID)]
    if _DONE in lines:
        return _Trial("", problems)
    code = ended.returncode
    try:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    return _Trial(f"ended its process with {how}", problems)


def probe(distribution: str, version: str, entry_point: str, value: str) -> None:
    """In a process of its own: import all that a plugin offers, print what fails, then that it lives."""
    host = PluginHost(discover=False)

    def attempt(action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except BaseException as error:  # noqa: BLE001  SystemExit too: whatever it is, it is reported
            print(f"{_SAID}{describe(error)}", flush=True)
            return None

    attempt(lambda: host.register(resolve(value), distribution, version, entry_point))
    if heavy := [name for name in ("torch", "numpy") if name in sys.modules]:
        print(f"{_SAID}imports {' and '.join(heavy)} when it is found; import inside functions", flush=True)
    for component in host.components():
        if not unmet_requirements(component.requires):
            target = attempt(host.load, component.kind, component.name)
            if component.kind == "device" and target is not None:
                attempt(lambda create=target: create().available())
    print(_DONE, flush=True)


def _devices() -> Iterator[str]:
    for component in default_host().components("device"):
        try:
            own: DeviceBackend = default_host().create("device", component.name)
            count = own.count() if own.available() else 0
            yield f"device {component.name}: {count or 'none'} here"
            yield from (f"  {own.device(i)}: {_facts(own.caps(i), own.memory(i))}" for i in range(count))
            yield from (f"  {note}" for note in own.notes())
            yield from (f"! device {component.name}: {problem}" for problem in own.diagnose())
        except Exception as error:  # noqa: BLE001  a stranger's backend, or a driver's own error
            yield f"! device {component.name}: {describe(error)}"
    try:
        from athena_core._device import device

        yield f"device auto: {device()}"
    except Exception as error:  # noqa: BLE001  torch's import may be what fails
        yield f"! device auto: {error}"


def _facts(caps: DeviceCaps, memory: tuple[int, int] | None) -> str:
    """Capabilities in words; those of a plugin's subclass too."""
    from athena_core._placement import size_text

    facts = [] if memory is None else [f"free {size_text(memory[0])}"]
    for field in fields(caps):
        value = getattr(caps, field.name)
        if field.name in ("total", "max_alloc") and value is not None:
            value = size_text(value)
        facts.append(f"{field.name} {value if value not in (None, '') else 'unknown'}")
    return ", ".join(facts)


def _factory(target: str) -> Callable[[], Any]:
    """The model's factory, from the working folder too."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = resolve(target)
    except Exception as error:
        raise AthenaError(f"--model `{target}`: {describe(error)}. It must be MODULE:FACTORY.") from error
    finally:
        sys.path.pop(0)
    if ":" not in target or not callable(found):
        raise AthenaError(f"--model `{target}` must be MODULE:FACTORY, a function without arguments.")
    return found


def _model(factory: Callable[[], Any], target: str) -> Iterator[str]:
    """The plan over all devices of the chosen type, for training and for inference."""
    import torch

    from athena_core._device import backend, device
    from athena_core._place import rooms, tensor_sizes
    from athena_core._placement import PlacementError, plan

    try:
        with torch.device("meta"):
            model = factory()
    except Exception:  # noqa: BLE001  not every model can be made without its numbers
        try:
            model = factory()
        except Exception as error:
            raise AthenaError(f"--model `{target}` fails when called: {describe(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise AthenaError(f"--model `{target}` must return a torch.nn.Module; got {type(model).__name__}.")
    own = backend(device())
    here = rooms([own.device(index) for index in range(own.count())])
    for training in (True, False):
        doing = "training with 8 bytes of optimizer state an element" if training else "inference"
        yield f"model {target}, {doing}, {_ROWS} rows (batch x positions) a step:"
        try:
            yield from str(plan(tensor_sizes(model), here, training=training, rows=_ROWS)).splitlines()
        except PlacementError as error:
            yield f"! {error}"
