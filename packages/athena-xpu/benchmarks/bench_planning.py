"""Planning for a language model of 70 billion parameters: seconds from its shapes to a printed plan.

The model is Llama's, on the meta device. The bar is one second. Making the model is measured beside, and
is no part of planning; so is measuring what a step keeps, in place of the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from athena_core import DeviceRoom, plan, tensor_sizes
from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_nn import Decoder, RotaryPositions
from athena_xpu import ARCHITECTURES, XPUCaps

GIB = 2**30
BAR = {"bar": 1.0}
A770, BIG = ARCHITECTURES["alchemist"], XPUCaps(total=80 * GIB)


def llama(words: int = 128_256) -> Decoder:
    """The shapes of Llama 3's 70 billion parameters (Grattafiori et al. 2024, arXiv:2407.21783, table 3)."""
    with torch.device("meta"):
        return Decoder(
            words,
            8192,
            num_layers=80,
            num_heads=64,
            num_kv_heads=8,
            ff_dim=28_672,
            positions=RotaryPositions(128),
            tie_embeddings=False,
        ).bfloat16()


def rooms(count: int, caps: XPUCaps) -> list[DeviceRoom]:
    """So many devices, empty."""
    return [DeviceRoom(f"xpu:{index}", caps, caps.total) for index in range(count)]


def planning(model: Decoder, devices: Sequence[DeviceRoom], **options: Any) -> str:
    """From the model to the printed plan."""
    return str(plan(tensor_sizes(model), devices, **options))


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """Inference and training, on large devices, on small ones with the limit, and with the host last."""
    model, more = llama(), llama(140_000)  # whose float32 states exceed 4 GiB, as Llama's do not
    host = DeviceRoom("cpu", XPUCaps())
    cases = {
        "inference, 2 of 80 GiB": (model, rooms(2, BIG), {"training": False}),
        "training, 16 of 80 GiB": (model, rooms(16, BIG), {"rows": 4096}),
        "inference, 12 A770": (model, rooms(12, A770), {"training": False, "rows": 4096}),
        "training, 96 A770": (model, rooms(96, A770), {"rows": 64}),
        "training, 4 A770 and the host, split": (more, [*rooms(4, A770), host], {"rows": 64}),
    }
    for name, (planned, devices, options) in cases.items():
        printed = planning(planned, devices, **options)
        assert ("split" in name) == ("split: `embedding.weight`" in printed)
        (ours,) = medians(repeats, partial(seconds, partial(planning, planned, devices, **options)))
        count = sum(parameter.numel() for parameter in planned.parameters())
        yield row(name, ours=ours, peers=BAR, unit="s", parameters=f"{count / 1e9:.1f}e9")
    (made,) = medians(max(1, repeats // 5), lambda: seconds(llama))
    yield row("making the model", ours=made, peers=BAR, unit="s")
    tokens = torch.zeros(1, 64, dtype=torch.int64, device="meta")
    (measured,) = medians(
        max(1, repeats // 5),
        lambda: seconds(lambda: tensor_sizes(model, step=lambda m: m.loss(tokens, tokens))),
    )
    peers = {"making the model": made}
    yield row("measuring a step's activations", ours=measured, peers=peers, unit="s")


if __name__ == "__main__":
    run(parser(__doc__, repeats=9), rows)
