"""A training step of `DecoderLM` against `nn.TransformerEncoder` of equal shape and parameters.

    python bench_decoder.py [--repeats 9] [--json FILE] [--threads 2]

Width 256, 6 layers, 8 heads, vocabulary 8,000, batch 8 x 256, torch's fused AdamW for both, in
float32 and under bfloat16 autocast. The two take turns in one process on the same tokens. Ours has
RMS norms, rotary positions and a gated feed-forward layer of 2/3 the width; the peer layer norms,
learned positions and GELU. The limit is that of the step's matrix products alone, timed here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core.testing.bench import medians, parser, report, row, seconds
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


def compare(dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    tokens = torch.randint(WORDS, (BATCH, TIME + 1))
    models = decoder(), Encoder()
    ours, theirs = (trainer(model, tokens, dtype) for model in models)
    multiply = products(models[0], dtype)
    first = ours(), theirs()
    multiply()
    mine, other, limit = medians(repeats, *(partial(seconds, step) for step in (ours, theirs, multiply)))
    if not (ours() < first[0] and theirs() < first[1]):
        raise SystemExit("a model does not learn the repeated batch")
    return row(
        f"training step, {str(dtype).removeprefix('torch.')}",
        ours=1e3 * mine,
        peers={"nn.TransformerEncoder": 1e3 * other},
        limit=1e3 * limit,
        unit="ms",
        parameters=[sum(p.numel() for p in model.parameters()) for model in models],
    )


def main() -> None:
    arguments = parser(__doc__, repeats=9)
    arguments.add_argument("--threads", type=int, default=2, metavar="N")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    rows = [compare(dtype, options.repeats) for dtype in (torch.float32, torch.bfloat16)]
    report(rows, options.json)


if __name__ == "__main__":
    main()
