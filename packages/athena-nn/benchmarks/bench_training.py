"""A training step of `Decoder` against peers of equal architecture, parameters and weights.

    python bench_training.py [--repeats 7] [--json FILE] [--threads 2]

Width 256, 6 layers, 8 heads, vocabulary 8,000, embeddings not tied, batch 8 x 256, torch's fused AdamW
for all, in float32 and under bfloat16 autocast. Two architectures: layer norms, learned positions and GELU
(`nn.TransformerEncoder`, with copied weights; x-transformers, with its own and biases in its feed-forward
layers), and RMS norms, rotary positions and SwiGLU (transformers' Llama, with copied weights). All take turns
in one process on the same tokens, each with the loss its users take: ours never holds all logits. The limit
is that of the step's matrix products alone, timed here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from x_transformers import Decoder as XDecoder
from x_transformers import TransformerWrapper

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_nn import Decoder, LayerNorm, LearnedPositions, from_pretrained

WORDS, WIDTH, LAYERS, HEADS, FF, BATCH, TIME = 8000, 256, 6, 8, 1024, 8, 256
Loss = Callable[[Tensor, Tensor], Tensor]


class Encoder(nn.Module):
    """torch's encoder made into a decoder by its causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(TIME, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FF, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        )
        norm = nn.LayerNorm(WIDTH, bias=False)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TIME))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight
        return self.head(self.encoder(x, mask=self.mask, is_causal=True))


def like_torch(peer: Encoder) -> Decoder:
    """Ours of the same architecture, with the peer's weights."""
    model = Decoder(
        WORDS,
        WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        ff_dim=FF,
        activation="gelu",
        norm=partial(LayerNorm, bias=False),
        positions=LearnedPositions(TIME, WIDTH),
        tie_embeddings=False,
    )
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj": "attention.out",
        "linear1": "feed_forward.up",
        "linear2": "feed_forward.down",
        "norm1": "attention_norm",
        "norm2": "feed_forward_norm",
        "encoder.layers": "blocks",
        "encoder.norm": "norm",
        "head": "head",
    }
    state = {}
    for name, value in peer.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    del state["mask"]
    model.load_state_dict(
        state | {"positions.weight": state["positions.weight"], "embedding.weight": state["embedding.weight"]}
    )
    return model


def like_llama(peer: LlamaForCausalLM) -> Decoder:
    """Ours with the weights of the peer, by way of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        return from_pretrained(folder)


def plain(model: nn.Module) -> Loss:
    return lambda tokens, targets: F.cross_entropy(model(tokens).float().flatten(0, 1), targets.flatten())


def llama(model: LlamaForCausalLM) -> Loss:
    return lambda tokens, targets: model(tokens, labels=targets, shift_labels=targets).loss


def trainer(model: nn.Module, loss: Loss, batch: Tensor, dtype: torch.dtype) -> Callable[[], float]:
    """One step of training on ``batch``; returns the loss before it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = loss(inputs, targets)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def products(model: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """The matrix products of one step: each weight forward, and backward to inputs and weight."""
    rows = BATCH * TIME
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pairs = [
        (torch.randn(rows, layer.in_features, dtype=dtype), layer.weight.detach().to(dtype))
        for layer in layers
    ]

    def multiply() -> None:
        for x, weight in pairs:
            y = x @ weight.T
            torch.mm(y, weight)
            torch.mm(y.T, x)

    return multiply


def compare(
    case: str,
    ours: Decoder,
    peers: dict[str, tuple[nn.Module, Loss]],
    *,
    copied: str,
    dtype: torch.dtype,
    repeats: int,
) -> dict[str, Any]:
    torch.manual_seed(0)
    batch = torch.randint(WORDS, (BATCH, TIME + 1))
    steps = [trainer(ours, ours.loss, batch, dtype)]
    steps += [trainer(model, loss, batch, dtype) for model, loss in peers.values()]
    multiply = products(ours, dtype)
    first = dict(zip(["ours", *peers], (step() for step in steps), strict=True))
    off = abs(first["ours"] - first[copied])
    if off > (1e-5 if dtype == torch.float32 else 1e-2):
        raise SystemExit(f"{case}: the losses of ours and {copied} differ by {off}")
    multiply()
    mine, *others, limit = medians(repeats, *(partial(seconds, step) for step in (*steps, multiply)))
    if not all(step() < before for step, before in zip(steps, first.values(), strict=True)):
        raise SystemExit("a model does not learn the repeated batch")
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, *(m for m, _ in peers.values()))]
    return row(
        f"training step, {case}, {str(dtype).removeprefix('torch.')}",
        ours=1e3 * mine,
        peers={name: 1e3 * other for name, other in zip(peers, others, strict=True)},
        limit=1e3 * limit,
        unit="ms",
        parameters=sizes,
    )


def gpt(dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = Encoder()
    theirs = TransformerWrapper(
        num_tokens=WORDS,
        max_seq_len=TIME,
        attn_layers=XDecoder(
            dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=True
        ),
    )
    peers = {"nn.TransformerEncoder": (encoder, plain(encoder)), "x-transformers": (theirs, plain(theirs))}
    ours = like_torch(encoder)
    return compare(
        "layer norm, GELU", ours, peers, copied="nn.TransformerEncoder", dtype=dtype, repeats=repeats
    )


def gated(dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=FF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=TIME,
        attn_implementation="sdpa",
        use_cache=False,
    )
    peer = LlamaForCausalLM(config)
    return compare(
        "RMS norm, SwiGLU, rotary",
        like_llama(peer),
        {"transformers": (peer, llama(peer))},
        copied="transformers",
        dtype=dtype,
        repeats=repeats,
    )


def rows(*, repeats: int) -> list[dict[str, Any]]:
    return [case(dtype, repeats) for case in (gpt, gated) for dtype in (torch.float32, torch.bfloat16)]


if __name__ == "__main__":
    run(parser(__doc__, repeats=7), rows)
