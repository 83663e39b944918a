"""A training step of `DecoderLM` against `nn.TransformerEncoder` of equal shape and parameters.

    python bench_decoder.py [--json FILE] [--threads N] [--repeats N]

Width 256, 6 layers, 8 heads, vocabulary 8,000, batch 8 x 256, torch's fused AdamW for both, in
float32 and under bfloat16 autocast. The two take turns in one process on the same tokens. Ours has
RMS norms, rotary positions and a gated feed-forward layer of 2/3 the width; the peer layer norms,
learned positions and GELU. The limit is that of the step's matrix products alone, timed here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_nn import DecoderLM, RotaryPositions

WORDS, WIDTH, LAYERS, HEADS, FF, BATCH, TIME = 8000, 256, 6, 8, 1024, 8, 256


class Encoder(nn.Module):
    """torch's encoder made into a decoder by its causal mask; tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(TIME, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FF, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TIME))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight
        return F.linear(self.encoder(x, mask=self.mask, is_causal=True), self.embedding.weight)


def decoder() -> DecoderLM:
    return DecoderLM(
        vocabulary=WORDS,
        embed_dim=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        ff_dim=2 * FF // 3,
        max_length=TIME,
        positions=RotaryPositions(WIDTH // HEADS),
    )


def trainer(model: nn.Module, tokens: Tensor, dtype: torch.dtype) -> Callable[[], float]:
    """One step of training ``model`` on ``tokens``; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def products(model: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """The matrix products of one step: each weight forward, and backward to inputs and weight."""
    rows = BATCH * TIME
    matrices = [p for p in model.parameters() if p.ndim == 2 and p.shape[0] != TIME]
    pairs = [(torch.randn(rows, m.shape[1], dtype=dtype), m.detach().to(dtype)) for m in matrices]

    def multiply() -> None:
        for x, weight in pairs:
            y = x @ weight.T
            torch.mm(y, weight)
            torch.mm(y.T, x)

    return multiply


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    tokens = torch.randint(WORDS, (BATCH, TIME + 1))
    models = decoder(), Encoder()
    ours, theirs = (trainer(model, tokens, dtype) for model in models)
    multiply = products(models[0], dtype)
    first = ours(), theirs()
    multiply()
    times = [(seconds(ours), seconds(theirs), seconds(multiply)) for _ in range(repeats)]
    mine, other, limit = (statistics.median(column) for column in zip(*times, strict=True))
    if not (ours() < first[0] and theirs() < first[1]):
        raise SystemExit("a model does not learn the repeated batch")
    return {
        "case": f"training step, {str(dtype).removeprefix('torch.')}",
        "parameters": [sum(p.numel() for p in model.parameters()) for model in models],
        "ours_ms": 1e3 * mine,
        "peers": {"nn.TransformerEncoder": 1e3 * other},
        "ratio": other / mine,
        "limit_ms": 1e3 * limit,
        "share_of_limit": limit / mine,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [compare(dtype, options.repeats) for dtype in (torch.float32, torch.bfloat16)]
    print(
        f"{'case':<24} {'ours ms':>8} {'torch ms':>8} {'ratio':>6} {'limit ms':>8} {'share':>6}  parameters"
    )
    for row in rows:
        peer = row["peers"]["nn.TransformerEncoder"]
        print(
            f"{row['case']:<24} {row['ours_ms']:8.0f} {peer:8.0f} {row['ratio']:6.2f} "
            f"{row['limit_ms']:8.0f} {row['share_of_limit']:6.2f}  {row['parameters']}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
