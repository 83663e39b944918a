"""The core obeys the laws that it asks of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_distributions import HEAD, plugin_source, write_distribution

from athena_core import AthenaError
from athena_core.testing import check_plugin, conformance

BROKEN = 'Component("tracker", "broken", "absent:Tracker", "Has no target")'
SOUND = 'Component("tracker", "sound", "athena_core._tracker:JsonLines", "Works")'

test_conformance = conformance("athena-core")


def test_a_plugin_that_is_not_installed_is_one_line(installed: Path) -> None:
    write_distribution(installed, "parts", plugin_source("part/a"))
    with pytest.raises(AthenaError, match=r"`prats` has an Athena plugin\. Did you mean `parts`\?"):
        conformance("prats")


def test_a_plugin_may_be_an_attribute_of_a_module(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"{HEAD}\nclass Plugin:\n    @hookimpl\n    def athena_components(self):\n        return []\n"
    entry_points = "[athena]\nmain = parts_plugin:plugin\n"
    write_distribution(installed, "parts", f"{source}\nplugin = Plugin()\n", entry_points=entry_points)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    checks = {check.name: check for check in check_plugin("parts")}
    checks["import purity"]()
    checks["loads"]()


def test_a_component_is_checked_though_another_package_offers_one_of_its_name(installed: Path) -> None:
    source = f"{HEAD}\n@hookimpl\ndef athena_components():\n    return [{BROKEN}, {SOUND}]\n"
    write_distribution(installed, "trackers", source)
    write_distribution(installed, "others", source)
    checks = {check.name: check for check in check_plugin("trackers")}
    with pytest.raises(AthenaError, match="cannot import `absent:Tracker`"):
        checks["tracker/broken: target resolves"]()
    checks["tracker/sound: target resolves"]()
    checks["tracker/sound: builds with the interface"]()
    checks["tracker/sound: takes metrics, and again after a resume"]()


@pytest.mark.parametrize(
    ("requirement", "lacks"),
    [
        ("athena-core>=0.1,<0.2", ""),
        ("athena-core~=0.1", ""),
        ("athena-core==0.1.*", ""),
        ("athena-core<0.2", "a lower bound"),
        ("athena-core>=0.1", "an upper bound"),
        ("athena-core!=0.1.1", "a lower bound"),
        ("numpy", "does not require athena-core"),
    ],
)
def test_the_core_is_required_within_bounds(installed: Path, requirement: str, lacks: str) -> None:
    write_distribution(installed, "parts", plugin_source("part/a"), requires=[requirement])
    headers = installed / "parts-1.0.dist-info" / "METADATA"
    headers.write_text(f"Summary: Parts\n{headers.read_text()}")
    (metadata,) = (check for check in check_plugin("parts") if check.name == "metadata")
    if lacks:
        with pytest.raises(AssertionError, match=lacks):
            metadata()
    else:
        metadata()
