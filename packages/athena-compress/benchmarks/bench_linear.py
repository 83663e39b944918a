"""Int8 linear layers beside float32, torch.ao and torchao, and the static beside the dynamic ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from athena_compress import calibrate, quantize
from athena_core.testing.bench import medians, parser, row, run, seconds

SHAPES = ((1, 1024, 4096), (1, 4096, 1024), (16, 1024, 4096), (256, 1024, 4096), (2048, 512, 2048))


def repeated(layer: nn.Module, x: torch.Tensor, times: int) -> float:
    return seconds(lambda: [layer(x) for _ in range(times)]) / times


def torch_ao(linear: nn.Linear) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear})


def torchao(linear: nn.Linear) -> nn.Module:
    from copy import deepcopy

    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = nn.Sequential(deepcopy(linear))
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


@torch.inference_mode()
def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    warnings.simplefilter("ignore")  # torch.ao says that it is deprecated
    for count, terms, outputs in SHAPES:
        linear, x = nn.Linear(terms, outputs), torch.randn(count, terms)
        static = quantize(calibrate(linear, [x], observer="min-max"), "int8-static")
        made = {
            "dynamic": quantize(linear),
            "static": static,
            "float32": linear,
            "torch.ao": torch_ao(linear),
            "torchao": torchao(linear),
        }
        expected = linear(x)
        for name, layer in made.items():
            error = (layer(x) - expected).norm() / expected.norm()
            if not error < 0.03:
                raise SystemExit(f"{name} is off by {error:.3f} of the norm")
        times = max(1, int(0.02 / max(repeated(made["dynamic"], x, 3), 1e-6)))
        each = medians(repeats, *(partial(repeated, layer, x, times) for layer in made.values()))
        took = {name: 1e6 * time for name, time in zip(made, each, strict=True)}
        case = f"({count}, {terms}) x ({terms}, {outputs})"
        peers = {name: took[name] for name in ("torch.ao", "torchao")}
        yield row(
            f"dynamic {case}",
            ours=took["dynamic"],
            peers=peers,
            unit="us",
            float32=took["float32"],
            speedup=took["float32"] / took["dynamic"],
            over_torchao=took["torchao"] / took["dynamic"],
        )
        yield row(
            f"static {case}",
            ours=took["static"],
            peers={"dynamic": took["dynamic"]},
            unit="us",
            float32=took["float32"],
            speedup=took["float32"] / took["static"],
        )


if __name__ == "__main__":
    run(parser(__doc__, repeats=21), rows)
