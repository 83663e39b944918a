"""The linear layers of one decoded token, prepared for decoding, against `nn.Linear`.

    python bench_decoding_linear.py [--repeats 11] [--json FILE] [--threads 2]

The 33 layers of a Llama of width 512 (8 blocks of query-key-value 512 to 1,024, out 512 to 512, gate and
up 512 to 2,752, down 1,376 to 512; head 512 to 8,000; 31 M weights, each distinct), inputs in float32, for
1 and 8 rows (decoding) and 64 and 256 (a prompt). The bfloat16 peer's inputs are bfloat16 already. All
take turns in one process. The limit at few rows is reading as many bytes, timed as the sum of a float32
tensor of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_nn import prepare_for_decoding

BLOCK = ((512, 1024), (512, 512), (512, 2752), (1376, 512))
SHAPES = (*BLOCK * 8, (512, 8000))
WEIGHTS = sum(wide * out for wide, out in SHAPES)
TOLERANCE = {None: 1e-5, torch.bfloat16: 0.01, torch.int8: 0.02}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(wide, out, bias=False) for wide, out in SHAPES)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Seconds a call, of five in a row after two more: decoding, a model finds its weights in the cache."""

    def measure() -> float:
        for _ in range(2):
            function()
        return seconds(lambda: [function() for _ in range(5)]) / 5

    return measure


@torch.inference_mode()
def compare(rows: int, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = Layers().eval()
    ours = {dtype: prepare_for_decoding(model, dtype=dtype) for dtype in TOLERANCE}
    by_width = {wide: torch.randn(rows, 1, wide) for wide in (512, 1376)}
    inputs = [by_width[wide] for wide, _ in SHAPES]
    narrow = [x.bfloat16() for x in inputs]
    expected = model(inputs)
    for dtype, prepared in ours.items():
        for y, exact in zip(prepared(inputs), expected, strict=True):
            if not (y - exact).norm() <= TOLERANCE[dtype] * exact.norm():
                raise SystemExit(f"{dtype}: outputs differ by more than {TOLERANCE[dtype]}")
    memory = torch.randn(WEIGHTS)
    narrow_model = Layers().bfloat16().eval()
    plain, plain_narrow, *others = medians(
        repeats,
        timed(partial(model, inputs)),
        timed(partial(narrow_model, narrow)),
        *(timed(partial(prepared, inputs)) for prepared in ours.values()),
        *(timed(memory[: WEIGHTS * size // 4].sum) for size in (4, 2, 1)),
    )
    mine, limits = others[:3], others[3:]
    made = []
    for dtype, size, time, limit in zip(ours, (4, 2, 1), mine, limits, strict=True):
        peers = {"nn.Linear": 1e3 * plain}
        if dtype == torch.bfloat16:
            peers["nn.Linear, all bfloat16"] = 1e3 * plain_narrow
        few = {"limit": 1e3 * limit, "GB/s": WEIGHTS * size / time / 1e9} if rows <= 8 else {}
        name = str(dtype or torch.float32).removeprefix("torch.")
        made.append(row(f"{rows} rows, {name} weights", ours=1e3 * time, peers=peers, unit="ms", **few))
    return made


def rows(*, repeats: int) -> list[dict[str, Any]]:
    return [line for count in (1, 8, 64, 256) for line in compare(count, repeats)]


if __name__ == "__main__":
    run(parser(__doc__, repeats=11), rows)
