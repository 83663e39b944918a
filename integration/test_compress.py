"""The recipe `compress` on a saved run of `lm`, and athena-compress on athena-nn's models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from athena_compress import CodedEmbedding, Int8Linear, load, quantize, smooth
from athena_nn import Decoder, RotaryPositions, generate

SMALL = (
    "--width",
    "32",
    "--layers",
    "2",
    "--heads",
    "4",
    "--context",
    "32",
    "--batch",
    "4",
    "--heldout",
    "300",
)


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    positions = RotaryPositions(16)
    return Decoder(
        64, 64, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=96, max_length=48, positions=positions
    ).eval()


def compressed(athena: Callable, tmp_path: Path, *options: object) -> tuple[Path, dict[str, float]]:
    """Compress the one run that there is; its dense model is what that evaluated. The folder, and metrics."""
    (folder,) = (tmp_path / "runs").iterdir()
    done = athena("run", "compress", "--model", folder, *options, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("compress-*")
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    lm = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics["dense_heldout_bits_per_byte"] == pytest.approx(lm["heldout_bits_per_byte"], rel=1e-6)
    return run, metrics


@pytest.mark.slow
def test_a_saved_language_model_is_compressed(athena: Callable, text: Path, tmp_path: Path) -> None:
    trained = athena(
        "run", "lm", "--steps", 6, "--data", text, *SMALL, "--sample_length", 4, "--device", "cpu"
    )
    assert trained.returncode == 0, trained.stderr
    steps = ("--prune_steps", 4, "--distil_steps", 3)
    run, metrics = compressed(athena, tmp_path, *steps, "--scheme", "int8-dynamic")
    names = [one["stage"] for one in json.loads((run / "stages.json").read_text())]
    assert names == ["dense", "pruned", "distilled", "int8-dynamic"]
    assert metrics["pruned_bytes"] < 0.75 * metrics["dense_bytes"]
    whole, pruned = (load(run / "stages" / name) for name in ("dense", "pruned"))
    assert pruned.blocks[0].attention.num_heads == whole.blocks[0].attention.num_heads // 2
    assert pruned.blocks[0].feed_forward.down.in_features < whole.blocks[0].feed_forward.down.in_features


@pytest.mark.slow
def test_of_a_saved_run_the_weights_that_it_evaluated_are_compressed(
    athena: Callable, text: Path, tmp_path: Path
) -> None:
    options = ("--steps", 6, "--data", text, *SMALL, "--sample_length", 4, "--device", "cpu")
    trained = athena("run", "lm", *options, "--optimizer", "schedule-free-adamw", "--optimizer.lr", 0.01)
    assert trained.returncode == 0, trained.stderr
    compressed(athena, tmp_path, "--prune_steps", 0, "--distil_steps", 0, "--scheme", "null")


def test_a_quantized_decoder_generates_with_its_cache(decoder: Decoder) -> None:
    small = quantize(decoder)
    assert isinstance(small.head, Int8Linear)
    assert isinstance(small.embedding, CodedEmbedding)
    assert small.head.weight_q is small.embedding.weight_q
    prompt = torch.arange(12)
    (new,) = generate(small, [prompt], max_new_tokens=16)
    tokens = torch.cat([prompt, new])[None]
    with torch.no_grad():
        logits = small(tokens)
        error = (logits - decoder(tokens)).norm() / decoder(tokens).norm()
    assert torch.equal(logits[0, 11:-1].argmax(-1), new)
    assert error < 0.05


def test_a_decoder_is_smoothed_without_a_change(decoder: Decoder) -> None:
    tokens = torch.randint(64, (4, 20))
    made = smooth(decoder, [tokens])
    with torch.no_grad():
        torch.testing.assert_close(made(tokens), decoder(tokens), rtol=1e-4, atol=1e-4)
    changed = made.blocks[0].attention.qkv.weight - decoder.blocks[0].attention.qkv.weight
    assert changed.abs().max() > 1e-3
