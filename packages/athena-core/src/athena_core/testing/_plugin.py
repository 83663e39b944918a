"""The checks that every installed plugin must pass, and the one line that makes them tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

from athena_core import _discovery
from athena_core._component import Component, Kind
from athena_core._errors import AthenaError, nearest
from athena_core._host import Offer, PluginHost, default_host
from athena_core._target import resolve, unmet_requirements
from athena_core.testing._check import Check

HEAVY = ("torch", "numpy", "triton")


def check_plugin(distribution: str) -> Iterator[Check]:
    """Yield the checks that an installed distribution must pass, each with its name.

    They cover the metadata, the purity of its import, every target it names, and for each
    component what its kind asks: built on the CPU, reproducible from a seed, its state saved and
    restored, and the kind's own laws. Kernels are compared with their op's reference.

    Raises AthenaError if no such plugin is installed.

    >>> [check.name for check in check_plugin("athena-core")][:2]
    ['metadata', 'import purity']
    """
    installed = _discovery.scan()
    found = [f for f in installed if f.distribution == _discovery.normalise(distribution)]
    if not found:
        hint = nearest(distribution, [f.distribution for f in installed])
        raise AthenaError(f"no installed distribution `{distribution}` has an Athena plugin. {hint}")
    yield Check("metadata", partial(_check_metadata, distribution))
    for entry in found:
        yield Check("import purity", partial(_check_purity, entry.value.partition(":")[0]))
    host = default_host()
    yield Check("loads", partial(_check_loads, host, distribution))
    for kind in host.kinds():
        if host.owner(kind.name) == _discovery.normalise(distribution):
            yield Check(f"kind {kind.name}: targets resolve", partial(_check_kind, kind))
    for offer in host.offers():
        if offer.distribution == _discovery.normalise(distribution):
            yield from _component_checks(host, offer)
    for offer in host.kernels():
        if offer.distribution == _discovery.normalise(distribution):
            from athena_core.testing._kernels import kernel_checks

            yield from kernel_checks(offer.kernel)


def conformance(
    distribution: str, *, expected_failures: Mapping[str, str] | None = None
) -> Callable[[Check], None]:
    """Make a test function that runs every check of `check_plugin`, one test each.

    Args:
        distribution: the installed package.
        expected_failures: a reason for each check, by name, that is known to fail. They are
            strict: one that passes fails the test, and so does a name that no check has.

    One line in a test file:

    >>> test_conformance = conformance("athena-core")
    """
    import pytest

    expected = dict(expected_failures or {})
    parameters = []
    for check in check_plugin(distribution):
        reason = expected.pop(check.name, None)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    if expected:
        raise ValueError(f"`expected_failures` names checks that do not exist: {sorted(expected)}.")

    @pytest.mark.parametrize("check", parameters)
    def test_conformance(check: Check) -> None:
        check()

    return test_conformance


def _check_metadata(distribution: str) -> None:
    from packaging.requirements import Requirement

    data = metadata.metadata(distribution)
    requirements = [Requirement(text) for text in data.get_all("Requires-Dist", [])]
    core = [r for r in requirements if _discovery.normalise(r.name) == _discovery.CORE]
    if _discovery.normalise(distribution) != _discovery.CORE:
        assert core, f"{distribution} does not require {_discovery.CORE}"
        operators = {s.operator for s in core[0].specifier}
        assert operators & {">", ">=", "~=", "=="}, f"`{core[0]}` needs a lower bound"
        assert operators & {"<", "<=", "~=", "=="}, f"`{core[0]}` needs an upper bound"
    assert data["Summary"], f"{distribution} has no summary"


def _check_purity(module: str) -> None:
    """Importing the plugin module, in a fresh interpreter, brings in nothing heavy."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"importing {module} imports {done.stdout.strip()}"


def _check_loads(host: PluginHost, distribution: str) -> None:
    name = _discovery.normalise(distribution)
    states = {p.entry_point: (p.state, p.reason) for p in host.plugins() if p.distribution == name}
    assert states, f"{distribution} offers no entry point in the group `athena`"
    assert all(state == "active" for state, _ in states.values()), states


def _check_kind(kind: Kind) -> None:
    for target in filter(None, (kind.interface, kind.example, kind.checks, kind.plot)):
        resolve(target)


def _component_checks(host: PluginHost, offer: Offer) -> Iterator[Check]:
    component = offer.component
    label = f"{component.kind}/{component.name}"
    load = partial(host.load, component.kind, f"{offer.distribution}/{component.name}")
    if unmet_requirements(component.requires):
        yield Check(f"{label}: says what to install", partial(_check_refusal, component, load))
        return
    yield Check(f"{label}: target resolves", load)
    yield Check(f"{label}: kind is declared", partial(host.kind, component.kind))
    if component.kind not in {kind.name for kind in host.kinds()}:
        return  # the check above says so
    kind = host.kind(component.kind)
    if kind.example:
        build = partial(_build, kind, load)
        yield Check(f"{label}: builds with the interface", partial(_check_interface, kind, build))
        if _has_state(build):
            yield Check(f"{label}: reproducible from a seed", partial(_check_reproducible, build))
            yield Check(f"{label}: state round trip", partial(_check_state, build))
    if kind.checks:
        try:
            target = load()
        except AthenaError:
            return  # the check above says so
        for check in resolve(kind.checks)(component, target):
            yield Check(f"{label}: {check.name}", check.run)


def _check_refusal(component: Component, load: Callable[[], Any]) -> None:
    try:
        load()
        message = "it loads"
    except AthenaError as error:
        message = str(error)
    assert "pip install" in message, f"{component.requires} are not met: {message}"


def _build(kind: Kind, load: Callable[[], Any]) -> Any:
    import torch

    from athena_core._rng import seed_all

    seed_all(0, torch.device("cpu"))
    return resolve(kind.example)(load())


def _has_state(build: Callable[[], Any]) -> bool:
    try:
        return hasattr(build(), "state_dict")
    except Exception:  # noqa: BLE001  the check of the interface shows it
        return False


def _check_interface(kind: Kind, build: Callable[[], Any]) -> None:
    interface = resolve(kind.interface)
    built = build()
    if isinstance(interface, type):
        assert isinstance(built, interface), f"{built!r} is not a {kind.interface}"
    else:  # a callable type alias or a generic: calling it is all that it asks
        assert callable(built), f"{built!r} is not callable"


def _check_reproducible(build: Callable[[], Any]) -> None:
    _assert_equal(build().state_dict(), build().state_dict())


def _check_state(build: Callable[[], Any]) -> None:
    """The state goes through a checkpoint file and back, and is the same."""
    import tempfile
    from pathlib import Path

    from athena_core._checkpoint import load_checkpoint, save_checkpoint

    one = build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        save_checkpoint(path, one.state_dict())
        other = build()
        other.load_state_dict(load_checkpoint(path))
    _assert_equal(one.state_dict(), other.state_dict())


def _assert_equal(one: Any, other: Any) -> None:
    """Fail unless two states are equal; of what they nest, torch compares tensors and numbers alone."""
    import torch

    if isinstance(one, Mapping) and isinstance(other, Mapping):
        assert one.keys() == other.keys(), f"keys differ: {sorted(one.keys() ^ other.keys(), key=str)}"
        for key, value in one.items():
            _assert_equal(value, other[key])
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), f"lengths differ: {len(one)} and {len(other)}"
        for ours, theirs in zip(one, other, strict=True):
            _assert_equal(ours, theirs)
    elif isinstance(one, str) and isinstance(other, str):
        assert one == other
    else:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
