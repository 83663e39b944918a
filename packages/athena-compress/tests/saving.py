"""What the tests of saving share: comparing models with what another process loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from athena_compress import load, save

_SCRIPT = """
import json, sys
tests, threads, folders, trust = json.loads(sys.argv[1])
sys.path.insert(0, tests)
import torch
from safetensors.torch import load_file
from athena_compress import load

torch.set_num_threads(threads)
for folder in folders:
    pair = load_file(f"{folder}/pair")
    with torch.no_grad():
        found = load(f"{folder}/model", trust=trust)(pair["x"])
    found = getattr(found, "logits", found)
    assert found.dtype == pair["y"].dtype, folder
    assert torch.equal(found, pair["y"]), (folder, (found - pair["y"]).abs().max())
"""


def check_round_trip(model: nn.Module, x: Tensor, folder: Path, trust: tuple[str, ...] = ()) -> Any:
    """Save, then compare outputs bit for bit here and in a process that knows nothing of the model."""
    return check_round_trips({"one": (model, x)}, folder, trust)["one"]


@torch.no_grad()
def check_round_trips(
    cases: dict[str, tuple[nn.Module, Tensor]], folder: Path, trust: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`check_round_trip` of several models with one process for all."""
    found: dict[str, Any] = {}
    for name, (model, x) in cases.items():
        y = model.eval()(x)
        save(model, folder / name / "model")
        found[name] = load(folder / name / "model", trust=trust)
        again = found[name](x)
        y, again = getattr(y, "logits", y), getattr(again, "logits", again)
        assert torch.equal(again, y), name
        save_file({"x": x.contiguous(), "y": y.contiguous()}, folder / name / "pair")
    folders = [str(folder / name) for name in cases]
    given = json.dumps([str(Path(__file__).parent), torch.get_num_threads(), folders, trust])
    done = subprocess.run([sys.executable, "-c", _SCRIPT, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return found
