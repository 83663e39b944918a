"""Two gloo processes: FSDP2 with uneven shards against one process, and distributed checkpoints.

This file is also the program of the two processes, which are started once for all checks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from cases import CASES
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

from athena_core.testing import run_in_two_processes, take_part
from athena_optim import (
    AdamW,
    Lamb,
    clip_gradients,
    clip_gradients_adaptively,
    clip_gradients_by_value,
    evaluation_weights,
)

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

Make = Callable[..., Optimizer]
MAKERS: dict[str, Make] = {
    **{case.name: partial(case.make, **case.exact) for case in CASES},
    "adamw, for-loop": partial(AdamW, foreach=False, fused=False),
    "adamw, foreach": partial(AdamW, foreach=True),
    "adamw, max_norm": partial(AdamW, max_norm=0.01),
    "adamw, adaptive_clip": partial(AdamW, adaptive_clip=0.01),
    "adamw, nonfinite": partial(AdamW, nonfinite="skip"),
    "lamb, for-loop": partial(Lamb, foreach=False),
    "lamb, max_norm": partial(Lamb, max_norm=0.01, weight_decay=0.1),
    "lamb, normalize_gradients": partial(Lamb, normalize_gradients=True),
}
CLIPPINGS: dict[str, Callable[[Any], Any]] = {
    "clip_gradients": partial(clip_gradients, max_norm=0.01),
    "clip_gradients_by_value": partial(clip_gradients_by_value, max_value=0.01),
    "clip_gradients_adaptively": partial(clip_gradients_adaptively, ratio=0.01),
}
CHECKS = [
    *(f"train: {name}" for name in MAKERS),
    *(f"clip: {name}" for name in CLIPPINGS),
    # torch's list ops take no mixture, if asked for them
    *(f"mixed: {name}" for name in (*MAKERS, *CLIPPINGS) if "foreach" not in name),
    *(f"checkpoint: {case.name}" for case in CASES),
]
# Sums of a few tens of float64 numbers in another order, a few steps deep; steps divide by square roots.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def make_model(mesh: dist.DeviceMesh | None) -> nn.Module:
    """Odd sizes: of the last layer, the second process holds nothing."""
    torch.manual_seed(0)
    first, second = nn.Linear(5, 7), nn.Linear(7, 3)
    model = nn.Sequential(first, nn.LayerNorm(7), nn.Tanh(), second, nn.Linear(3, 1)).double()
    if mesh is not None:
        for layer in (first, second):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def closure_of(model: nn.Module, optimizer: Optimizer | None, step: int) -> Callable[[], Tensor]:
    """The loss of eight examples, of which a sharded model gets each process's half."""

    def closure() -> Tensor:
        x = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        if isinstance(next(model.parameters()), DTensor):
            x = x[4 * dist.get_rank() : 4 * dist.get_rank() + 4]
        (optimizer or model).zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss.detach()

    return closure


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.step(closure_of(model, optimizer, step))  # type: ignore[arg-type]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_alike(sharded: nn.Module, plain: nn.Module, what: str = "weights") -> None:
    for (name, a), b in zip(sharded.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            whole(a).detach(), whole(b).detach(), **CLOSE, msg=lambda m, n=name: f"{what} {n}: {m}"
        )


def check_train(mesh: dist.DeviceMesh, make: Make) -> None:
    """Pitfall 15: norms, means and ratios are those of the whole tensors."""
    sharded, plain = make_model(mesh), make_model(None)
    optimizers = make(sharded.parameters(), lr=0.05), make(plain.parameters(), lr=0.05)
    for step in range(4):
        train(sharded, optimizers[0], range(step, step + 1))
        train(plain, optimizers[1], range(step, step + 1))
        assert_alike(sharded, plain, f"step {step}")
    with evaluation_weights(optimizers[0]), evaluation_weights(optimizers[1]):
        assert_alike(sharded, plain, "evaluation weights")


def check_clip(mesh: dist.DeviceMesh, clip: Callable[[Any], Any]) -> None:
    norms = []
    models = make_model(mesh), make_model(None)
    for model in models:
        closure_of(model, None, 0)()
        norms.append(clip(list(model.parameters())))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(whole(a.grad), b.grad, **CLOSE)
    if norms[0] is not None:
        torch.testing.assert_close(whole(norms[0]), norms[1], **CLOSE)


def check_mixed(mesh: dist.DeviceMesh, name: str) -> None:
    """Sharded parameters beside one that every process holds whole, as FSDP2's ignored ones are."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((5, 4), (3, 4), (6,))]
    gradients = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]

    def put(tensors: list[Tensor], *, sharded: bool) -> list[Tensor]:
        count = 2 if sharded else 0
        return [distribute_tensor(t.clone(), mesh, [Shard(0)]) for t in tensors[:count]] + [
            t.clone() for t in tensors[count:]
        ]

    ends = []
    for sharded in (True, False):
        params = [nn.Parameter(one) for one in put(values, sharded=sharded)]

        def closure(params: list[nn.Parameter] = params, sharded: bool = sharded) -> Tensor:
            for param, gradient in zip(params, put(gradients, sharded=sharded), strict=True):
                param.grad = gradient
            return torch.zeros(())

        if name in CLIPPINGS:
            closure()
            CLIPPINGS[name](params)
            ends.append([whole(p.grad) for p in params])
            continue
        optimizer = MAKERS[name](params, lr=0.05)
        for _ in range(3):
            optimizer.step(closure)  # type: ignore[arg-type]
        ends.append([whole(p).detach() for p in params])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def state_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}


def resumed(mesh: dist.DeviceMesh | None, make: Make, folder: Path) -> tuple[nn.Module, Optimizer]:
    """A model and optimizer made anew, loaded from a distributed checkpoint."""
    model = make_model(mesh)
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    optimizer = make(model.parameters(), lr=0.05)
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=folder, no_dist=mesh is None)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state["optimizer"])
    return model, optimizer


def check_checkpoint(mesh: dist.DeviceMesh, make: Make, folder: Path) -> None:
    """Saved by two processes and by one, loaded by two and by one, and trained on: all alike."""
    expected = make_model(None)
    optimizer = make(expected.parameters(), lr=0.05)
    train(expected, optimizer, range(3))
    if dist.get_rank() == 0:
        dcp.save(state_of(expected, optimizer), checkpoint_id=folder / "one", no_dist=True)
    train(expected, optimizer, range(3, 6))

    sharded = make_model(mesh)
    optimizer = make(sharded.parameters(), lr=0.05)
    train(sharded, optimizer, range(3))
    dcp.save(state_of(sharded, optimizer), checkpoint_id=folder / "two")
    dist.barrier()
    for saved in ("one", "two"):
        for onto in (mesh, None):
            model, optimizer = resumed(onto, make, folder / saved)
            train(model, optimizer, range(3, 6))
            assert_alike(model, expected, f"saved by {saved}, loaded by {'one' if onto is None else 'two'}")


def run_check(check: str, _: int, folder: Path) -> None:
    kind, name = check.split(": ")
    mesh = init_device_mesh("cpu", (2,))
    if kind == "train":
        check_train(mesh, MAKERS[name])
    elif kind == "mixed":
        check_mixed(mesh, name)
    elif kind == "clip":
        check_clip(mesh, CLIPPINGS[name])
    else:
        check_checkpoint(mesh, MAKERS[name], folder / name)


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What failed in either process."""
    return run_in_two_processes(__file__, tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(failures, check):
    if check in failures:
        pytest.fail(failures[check], pytrace=False)


if __name__ == "__main__":
    take_part(CHECKS, run_check)
