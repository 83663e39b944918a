"""The whole recipe `lm`, its step and its generation within the limits of the A series."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from athena_core import AthenaError, Configured, Run, components, create
from athena_nn import Decoder, beam_search, generate, linear_cross_entropy
from athena_nn._recipe_lm import LM
from athena_xpu import ArcLimits

POSITIONS = [component.name for component in components("positions")]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(32, 122)) * 40)
    return path


def run_lm(folder: Path, text: Path, device: torch.device) -> dict[str, float]:
    recipe = LM.example()
    recipe.data, recipe.dtype = text, "float32"
    with Run(folder, device=device) as run:
        return dict(recipe.run(run))


def test_the_recipe_trains_evaluates_samples_and_saves(tmp_path: Path, text: Path) -> None:
    here = run_lm(tmp_path / "here", text, torch.device("cpu"))
    with ArcLimits() as limits:
        there = run_lm(tmp_path / "there", text, limits.device)
    assert limits.ops > 1000
    assert there == pytest.approx(here, rel=1e-5)


def decoder(positions: str = "rotary") -> Decoder:
    """A small one, the same each time."""
    torch.manual_seed(0)
    told = {"head_dim": 8, "num_heads": 4, "embed_dim": 32, "max_length": 24, "bidirectional": False}
    made = Configured("positions", positions).create(**told)
    return Decoder(
        50, 32, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=48, max_length=24, positions=made
    )


def trained(model: nn.Module, device: torch.device, steps: int = 3) -> dict[str, Tensor]:
    """Parameters on the host, after clipped and scheduled steps on the device."""
    tokens = torch.randint(50, (2, 17), generator=torch.Generator().manual_seed(1)).to(device)
    groups = create("param-groups", "decay-matrices", model.to(device))
    optimizer = create("optimizer", "adamw", groups, lr=1e-2, weight_decay=0.1, max_norm=1.0)
    schedule = create("schedule", "warmup-cosine", optimizer, warmup_steps=1, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        schedule.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_step_is_the_hosts_and_waits_once(positions: str) -> None:
    expected = trained(decoder(positions), torch.device("cpu"))
    with ArcLimits() as limits:
        found = trained(decoder(positions), limits.device)
        assert limits.syncs.total() == 3  # is the norm finite?
        assert "_clip.py" in next(iter(limits.syncs))
        found = {name: parameter.cpu() for name, parameter in found.items()}
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("positions", POSITIONS)
def test_generation_with_a_cache(positions: str) -> None:
    prompts = [torch.tensor([3, 4, 5]), torch.tensor([6, 7])]
    found = []
    with ArcLimits() as limits:
        for device in ("cpu", limits.device):
            model, given = decoder(positions).to(device).eval(), [one.to(device) for one in prompts]
            greedy = generate(model, given, max_new_tokens=6, temperature=0.0)
            drawn = generate(model, given, max_new_tokens=6, temperature=0.7, top_k=5, seed=3)
            beams = [beam.tokens for beam in beam_search(model, given, num_beams=3, max_new_tokens=4)[0]]
            found.append([part.tolist() for part in (*greedy, *drawn, *beams)])
        assert limits.ops > 1000
    assert found[1] == found[0]


def test_the_chunked_loss_keeps_to_shapes_larger_than_this_machine() -> None:
    """The logits of a batch over a large vocabulary are over the limit; in chunks they never are."""
    hidden = torch.empty(8 * 2048, 64, device="meta", requires_grad=True)
    weight = torch.empty(128_000, 64, device="meta", requires_grad=True)
    targets = torch.empty(8 * 2048, dtype=torch.int64, device="meta")
    with ArcLimits():
        linear_cross_entropy(hidden, weight, targets).backward()
        assert weight.grad is not None
        assert weight.grad.shape == weight.shape
        with pytest.raises(
            AthenaError, match=r"float32 \(shape \(16384, 128000\).* allocates 4,294,967,295 B"
        ):
            hidden @ weight.T
