"""What the documentation shows, runs: the Python blocks of every page, in order, and the one-file example."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = DOCS / "api", DOCS / "_build"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {
    str(path.relative_to(ROOT)): blocks
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if not any(path.is_relative_to(folder) for folder in GENERATED)
    and (blocks := BLOCK.findall(path.read_text(encoding="utf-8")))
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are so small here that a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_tutorial_is_among_them() -> None:
    assert len(PAGES["docs/tutorials/transformer.md"]) > 5


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    name = "page_" + re.sub(r"\W", "_", page)
    exec(compile("\n".join(PAGES[page]), page, "exec", dont_inherit=True), {"__name__": name})


def test_the_one_file_example_trains_and_then_has_nothing_left_to_do(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("copy_task", ROOT / "examples" / "copy_task.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.train(tmp_path / "run", steps=5)
    before = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in before.splitlines()] == [1, 2, 3, 4, 5]
    script.train(tmp_path / "run", steps=5)
    assert (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8") == before
