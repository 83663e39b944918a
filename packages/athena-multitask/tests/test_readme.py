"""What the README and the docstrings show, runs, and every public name has an example."""

from __future__ import annotations

from pathlib import Path

import pytest

from athena_core.testing import Check, documentation

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("check", documentation("athena_multitask", README), ids=lambda check: check.name)
def test_documentation(check: Check) -> None:
    check()
