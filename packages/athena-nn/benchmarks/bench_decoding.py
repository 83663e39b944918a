"""Greedy decoding against transformers' `generate`, dynamic and static cache, with the same weights.

    python bench_decoding.py [--repeats 5] [--json FILE] [--threads 2] [--new 128] [--no-compiled]

A Llama of 31.4 M parameters: width 512, 8 layers, 8 heads, 4 key-value heads, vocabulary 8,000. Batch 1 with
a prompt of 64 tokens, and batch 8 with prompts of 8 to 64. Ours decodes as loaded, and prepared in float32,
bfloat16 and 8 bits, and so compiled for batch 1; all take turns in one process. The tokens are compared
first: equal in float32; otherwise the share is reported that would be chosen alike, given the same text
before. The limit is that of reading the weights once a token, timed here; for batch 8, once a step. Last, the
memory of a decode of 2,048 tokens beside `KVCache.bytes`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_nn import Decoder, KVCache, from_pretrained, generate, prepare_for_decoding

WORDS = 8000
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "int8": torch.int8}
Rows = list[Tensor]


def peer() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def theirs(model: LlamaForCausalLM, prompts: Rows, new: int, **cache: str) -> Rows:
    """transformers' new tokens, from prompts padded on the left as it wants them."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros_like(tokens)
    for row_index, prompt in enumerate(prompts):
        tokens[row_index, longest - len(prompt) :] = prompt
        real[row_index, longest - len(prompt) :] = 1
    out = model.generate(
        tokens, attention_mask=real, max_new_tokens=new, min_new_tokens=new, do_sample=False, **cache
    )
    return list(out[:, longest:])


def same(ours: Rows, expected: Rows) -> bool:
    return all(torch.equal(mine, other) for mine, other in zip(ours, expected, strict=True))


def agreement(model: Decoder, prompts: Rows, expected: Rows) -> float:
    """Share of the expected tokens that the model would choose too, each given all before it."""
    equal = []
    for prompt, new in zip(prompts, expected, strict=True):
        with torch.no_grad():
            logits = model(torch.cat((prompt, new))[None, :-1])
        equal.append(logits[0, len(prompt) - 1 :].argmax(-1) == new)
    return torch.cat(equal).double().mean().item()


def reading(models: dict[str, Decoder]) -> Callable[[str], None]:
    """Read every weight that a token needs, once."""
    weights = {
        name: [
            t
            for key, t in (*model.named_parameters(), *model.named_buffers())
            if t.ndim == 2 and "embedding" not in key
        ]
        for name, model in models.items()
    }
    return lambda name: [weight.view(torch.float32).sum() for weight in weights[name]] and None


def graph(model: Decoder) -> Decoder:
    """The same, its passes compiled: one graph for prompts, one for single tokens."""
    model.hidden = torch.compile(model.hidden, fullgraph=True)
    return model


def compare(batch: int, new: int, repeats: int, *, compiled: bool) -> list[dict[str, Any]]:
    model = peer()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = from_pretrained(folder).eval()
    ours = {"as loaded": loaded} | {
        f"prepared, {name}": prepare_for_decoding(loaded, dtype=dtype) for name, dtype in DTYPES.items()
    }
    if compiled:
        for name, dtype in DTYPES.items():
            ours[f"prepared and compiled, {name}"] = graph(prepare_for_decoding(loaded, dtype=dtype))
    lengths = [64] if batch == 1 else torch.linspace(8, 64, batch).long().tolist()
    prompts = [torch.randint(1, WORDS, (length,)) for length in lengths]
    peers = {"dynamic cache": {}, "static cache": {"cache_implementation": "static"}}
    expected = theirs(model, prompts, new)
    for name in ("as loaded", "prepared, float32"):
        if not same(generate(ours[name], prompts, max_new_tokens=new), expected):
            raise SystemExit(f"batch {batch}, {name}: the tokens differ from transformers'")
    shares = {name: agreement(one, prompts, expected) for name, one in ours.items()}
    read = reading(ours)
    times = medians(
        repeats,
        *(partial(seconds, partial(generate, one, prompts, max_new_tokens=new)) for one in ours.values()),
        *(partial(seconds, partial(theirs, model, prompts, new, **cache)) for cache in peers.values()),
        *(partial(seconds, partial(read, name)) for name in ours),
    )
    mine, rest = times[: len(ours)], times[len(ours) :]
    others = dict(zip(peers, rest, strict=False))
    limits = rest[len(peers) :]
    return [
        row(
            f"batch {batch}, {name}",
            ours=1e3 * time / new,
            peers={f"transformers, {label}": 1e3 * other / new for label, other in others.items()},
            limit=1e3 * limit,
            unit="ms a token" if batch == 1 else "ms a step",
            agreement=shares[name],
            tokens_per_second=batch * new / time,
        )
        for (name, time, limit) in zip(ours, mine, limits, strict=True)
    ]


def memory(tokens: int = 2048, batch: int = 8) -> list[dict[str, Any]]:
    """What a decode of so many tokens adds to the process at its peak, beside the formula's bytes.

    In passes of 16 tokens, after a short decode that has made all work space. Linux only.
    """
    model, rows = from_config(), []
    sizes = {"num_layers": 8, "batch": batch, "num_kv_heads": 4, "head_dim": 64}
    prompts = torch.randint(WORDS, (batch, tokens))

    def decode(cache: KVCache, length: int) -> None:
        with torch.no_grad():
            for part in prompts[:, :length].split(16, dim=1):
                model.hidden(part, cache=cache)

    for int8 in (False, True):
        decode(model.new_cache(batch, capacity=64, int8=int8), 64)
        Path("/proc/self/clear_refs").write_text("5")  # peak resident memory starts anew
        before = resident("VmRSS")
        decode(model.new_cache(batch, capacity=tokens, int8=int8), tokens)
        added = resident("VmHWM") - before
        formula = KVCache.bytes(**sizes, slots=tokens, int8=int8)
        rows.append(
            row(
                f"decode of {batch} x {tokens:,} tokens, {'8 bits' if int8 else 'float32'}",
                ours=added / 2**20,
                peers={"formula": formula / 2**20},
                unit="MiB",
            )
        )
    return rows


def resident(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


def from_config() -> Decoder:
    with tempfile.TemporaryDirectory() as folder:
        peer().save_pretrained(folder)
        return from_pretrained(folder).eval()


def rows(*, repeats: int, new: int, compiled: bool) -> list[dict[str, Any]]:
    torch._dynamo.config.recompile_limit = 64  # torch counts the graphs of all models together
    decoded = [
        one for batch in (1, 8) for one in compare(batch, new, repeats, compiled=compiled and batch == 1)
    ]
    return [*decoded, *memory()]


if __name__ == "__main__":
    options = parser(__doc__, repeats=5)
    options.add_argument("--new", type=int, default=128, metavar="N")
    options.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    run(options, rows)
