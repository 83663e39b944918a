"""Every package obeys the laws, with the others beside it."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from athena_core.testing import Check, check_plugin

PACKAGES = sorted({point.dist.name for point in entry_points(group="athena")})


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}: {check.name}") for name in PACKAGES for check in check_plugin(name)],
)
def test_conformance(check: Check) -> None:
    check()


def test_the_packages_of_the_main_job_are_there() -> None:
    names = ("compress", "core", "explore", "hrl", "meta", "nn", "optim", "xpu")
    assert {f"athena-{name}" for name in names} <= set(PACKAGES)
