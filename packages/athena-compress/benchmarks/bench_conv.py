"""Int8 convolutions of residual networks beside float32, in both memory formats, and torch.ao's.

    python bench_conv.py [--repeats 21] [--json FILE] [--threads 2]

Outputs are compared first. ``speedup`` is over the faster of the two float32 layers. torch.ao's layer gets
its input in int8 already, as in a model of its own, and is also timed with the conversion from and to
float32, which ours do. Inputs are channels last, but for the contiguous float32 layer; ours are timed with
contiguous ones too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress import calibrate, quantize
from athena_core.testing.bench import medians, parser, row, run, seconds

CASES = (  # batch, channels, side, kernel, outputs
    (1, 64, 56, 3, 64),
    (1, 128, 28, 3, 128),
    (8, 64, 32, 3, 64),
    (1, 256, 14, 3, 256),
    (1, 256, 56, 1, 64),
)


def repeated(layer: nn.Module, x: Tensor, times: int) -> float:
    return seconds(lambda: [layer(x) for _ in range(times)]) / times


def torch_ao(convolution: nn.Conv2d, x: Tensor) -> nn.Module:
    """torch.ao's static int8 layer between its own conversions, calibrated on the input."""
    ao = torch.ao.quantization
    model = nn.Sequential(ao.QuantStub(), convolution, ao.DeQuantStub()).eval()
    model.qconfig = ao.get_default_qconfig("onednn")
    prepared = ao.prepare(model)
    prepared(x)
    return ao.convert(prepared)


@torch.inference_mode()
def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    warnings.simplefilter("ignore")  # torch.ao says that it is deprecated
    torch.backends.quantized.engine = "onednn"
    for batch, channels, side, kernel, outputs in CASES:
        convolution = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
        plain = torch.randn(batch, channels, side, side).relu()
        x = plain.contiguous(memory_format=torch.channels_last)
        last = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2).to(memory_format=torch.channels_last)
        last.load_state_dict(convolution.state_dict())
        static = quantize(calibrate(convolution, [plain], observer="min-max"), "int8-static")
        dynamic, theirs = quantize(convolution), torch_ao(convolution, plain)
        codes = theirs[0](x)
        made: dict[str, tuple[nn.Module, Tensor]] = {
            "static": (static, x),
            "static, contiguous": (static, plain),
            "dynamic": (dynamic, x),
            "float32": (convolution, plain),
            "float32 channels last": (last, x),
            "torch.ao": (theirs, x),
            "torch.ao within int8": (theirs[1], codes),
        }
        expected = convolution(plain)
        for name, (layer, inputs) in made.items():
            y = layer(inputs)
            error = ((y.dequantize() if y.is_quantized else y) - expected).norm() / expected.norm()
            if not error < 0.03:
                raise SystemExit(f"{name} is off by {error:.3f} of the norm")
        times = max(1, int(0.02 / max(repeated(dynamic, x, 3), 1e-6)))
        each = medians(repeats, *(partial(repeated, *pair, times) for pair in made.values()))
        took = {name: 1e6 * time for name, time in zip(made, each, strict=True)}
        float32 = {name: took[name] for name in ("float32", "float32 channels last")}
        theirs_took = {name: took[name] for name in ("torch.ao", "torch.ao within int8")}
        case = f"({batch}, {channels}, {side}, {side}) {kernel}x{kernel} to {outputs}"
        for name in ("static", "dynamic"):
            others = {"static, contiguous": took["static, contiguous"]} if name == "static" else {}
            yield row(
                f"{name} {case}",
                ours=took[name],
                peers={**float32, **theirs_took},
                unit="us",
                speedup=min(float32.values()) / took[name],
                over_dynamic=took["dynamic"] / took[name],
                **others,
            )


if __name__ == "__main__":
    run(parser(__doc__, repeats=21), rows)
