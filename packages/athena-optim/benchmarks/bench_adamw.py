"""AdamW's step against torch's fused AdamW: 29.3 M parameters in 97 tensors, then 2,000 small ones.

    python bench_adamw.py [--repeats 41] [--json FILE] [--threads 2]

Both optimizers step in turn in one process, on the same gradients; outputs are compared first. The
limit is memory traffic: 28 bytes a parameter a step (read g, theta, m, v; write theta, m, v), at the
bandwidth that adding one large tensor to another in place reaches here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from athena_core.testing.bench import medians, parser, report, row, seconds
from athena_optim import AdamW

BYTES_PER_PARAMETER = 28


def decoder_shapes(
    width: int = 512, layers: int = 8, words: int = 8000, ff: int = 1376
) -> list[tuple[int, ...]]:
    """Embedding, final norm and head tensors, and 12 a layer of a decoder: 97 tensors, near 29.3 M."""
    layer = [(width, width)] * 4 + [(ff, width)] * 3 + [(width,)] * 5
    return [(words, width), *layer * layers]


def bandwidth() -> float:
    """Bytes a second read and written by adding 256 MB to another 256 MB in place, as an optimizer does."""
    source, target = torch.ones(2**26), torch.ones(2**26)
    return 3 * source.nbytes / min(seconds(lambda: target.add_(source)) for _ in range(7))


def compare(
    case: str, shapes: list[tuple[int, ...]], *, repeats: int, max_norm: float | None, speed: float
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([nn.Parameter(v.clone()) for v in values] for _ in range(2))
    for a, b, value in zip(ours, theirs, values, strict=True):
        a.grad, b.grad = value.clone(), value.clone()
    optimizer, peer = AdamW(ours, max_norm=max_norm), torch.optim.AdamW(theirs, fused=True)

    def peer_step() -> None:
        if max_norm is not None:
            nn.utils.clip_grad_norm_(theirs, max_norm)
        peer.step()

    optimizer.step()
    peer_step()
    if not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
        raise SystemExit(f"{case}: outputs differ from torch's")
    mine, other = medians(repeats, partial(seconds, optimizer.step), partial(seconds, peer_step))
    count = sum(v.numel() for v in values)
    return row(
        f"{case}, {count / 1e6:.1f} M in {len(shapes)} tensors",
        ours=1e3 * mine,
        peers={"torch fused": 1e3 * other},
        limit=1e3 * count * BYTES_PER_PARAMETER / speed,
        unit="ms",
    )


def main() -> None:
    arguments = parser(__doc__, repeats=41)
    arguments.add_argument("--threads", type=int, default=2, metavar="N")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    cases = [
        ("step", decoder_shapes(), None),
        ("clip and step", decoder_shapes(), 1e9),
        ("step", [(1000,)] * 2000, None),
    ]
    speed = bandwidth()
    rows = [
        compare(case, shapes, repeats=options.repeats, max_norm=max_norm, speed=speed)
        for case, shapes, max_norm in cases
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
