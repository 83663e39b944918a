"""A compiled graph with an op of ours is cached for one body of it alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest
import torch

from athena_core._compile_cache import tag_compile_cache

PACKAGE = """
from athena_core import op
scale = op("{name}::scale(Tensor x) -> Tensor", reference=lambda x: x * {factor})
"""
PROGRAM = """
import torch
from {name} import scale
print(torch.compile(lambda x: scale(x) + 1, fullgraph=True)(torch.ones(3)).tolist())
"""
NOTEBOOK = """
import torch
from athena_core import op
FACTOR = {factor}
scale = op("notebook::scale(Tensor x) -> Tensor", reference=lambda x: x * FACTOR)
print(torch.compile(lambda x: scale(x) + 1, fullgraph=True)(torch.ones(3)).tolist())
"""


@pytest.fixture(autouse=True)
def _tag() -> Iterator[None]:
    with torch.compiler.config.patch(cache_key_tag="mine"):
        yield


def test_tag_names_the_package_once_and_keeps_the_users() -> None:
    tag_compile_cache(tag_compile_cache)
    first = torch.compiler.config.cache_key_tag
    tag_compile_cache(tag_compile_cache)
    assert torch.compiler.config.cache_key_tag == first
    user, ours = first.split()
    assert user == "mine"
    assert ours.startswith("athena_core=")


def test_function_without_a_file_is_not_served_from_the_cache() -> None:
    body = FunctionType((lambda x: x * 2).__code__, {"__name__": "nowhere"})
    for _ in range(2):
        tag_compile_cache(body)
    assert len(set(torch.compiler.config.cache_key_tag.split())) == 3


def test_edited_notebook_is_not_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    for factor in (2, 5):
        command = [sys.executable, "-W", "ignore", "-c", NOTEBOOK.format(factor=factor)]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str([factor + 1.0] * 3)


def test_program_may_come_through_a_pipe() -> None:
    program = PACKAGE.format(name="piped", factor=3) + "import torch\nprint(scale(torch.ones(2)).tolist())\n"
    ran = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("[3.0, 3.0]", "")


@pytest.mark.parametrize("layout", ["package", "module"])
def test_edited_reference_is_not_served_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    name = f"edited_{layout}"
    file = tmp_path / name / "__init__.py" if layout == "package" else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    for factor in (2, 5):
        file.write_text(PACKAGE.format(name=name, factor=factor))
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(name=name)]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str([factor + 1.0] * 3)
