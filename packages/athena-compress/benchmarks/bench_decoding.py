"""Greedy decoding of a Llama of 31 M parameters in int8 beside the same in float32, eager and compiled.

One row, a prompt of 64 tokens, 128 new ones. ``float32`` runs through `torch.nn.functional.linear`, as it was
built. ``agree`` is the share of next tokens that are float32's own, given the same text before; weights are
random, so that many are near ties. ``disk`` is the size on disk over float32's.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress import quantize, save
from athena_core.testing.bench import medians, parser, row, run, seconds

NEW = 128


def llama() -> nn.Module:
    from athena_nn import Decoder, RotaryPositions

    return Decoder(
        8000,
        512,
        num_layers=8,
        num_heads=8,
        num_kv_heads=4,
        ff_dim=1376,
        max_length=256,
        positions=RotaryPositions(64),
        tie_embeddings=False,
    ).eval()


def decode(model: nn.Module, prompt: Tensor) -> Tensor:
    from athena_nn import generate

    (new,) = generate(model, [prompt], max_new_tokens=NEW, temperature=0.0)
    return torch.cat([prompt, new])


def compiled(model: Any) -> nn.Module:
    made = copy.deepcopy(model)
    made.hidden = torch.compile(made.hidden, fullgraph=True)
    return made


def bytes_on_disk(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        return sum(path.stat().st_size for path in Path(folder).iterdir())


@torch.no_grad()
def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model, prompt = llama(), torch.randint(8000, (64,))
    small = quantize(model)
    made = {
        "float32": model,
        "float32, compiled": compiled(model),
        "int8": small,
        "int8, compiled": compiled(small),
    }
    text = decode(model, prompt)[None]
    expected = model(text)[0, 63:-1].argmax(-1)
    agree = (small(text)[0, 63:-1].argmax(-1) == expected).float().mean().item()
    same = [
        torch.equal(decode(made[name], prompt), decode(small, prompt)) for name in ("int8", "int8, compiled")
    ]
    disk = bytes_on_disk(small) / bytes_on_disk(model)
    each = medians(repeats, *(partial(seconds, partial(decode, one, prompt)) for one in made.values()))
    took = {name: 1e3 * time / NEW for name, time in zip(made, each, strict=True)}
    for name, alike in zip(("int8", "int8, compiled"), same, strict=True):
        yield row(
            name,
            ours=took[name],
            peers={other: took[other] for other in ("float32", "float32, compiled")},
            unit="ms a token",
            over_float32=took["float32"] / took[name],
            agree=agree,
            tokens_as_eager=alike,
            disk=disk,
        )


if __name__ == "__main__":
    run(parser(__doc__, repeats=9), rows)
