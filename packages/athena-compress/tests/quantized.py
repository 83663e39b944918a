"""Quantized models for the tests of saving, exporting and compiling."""

from __future__ import annotations

from typing import Any

import torch
import user_models
from torch import Tensor, nn

from athena_compress import calibrate, quantize

SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("int8-static", {}),
    "static-symmetric": ("int8-static", {"symmetric": True, "per_channel": False}),
    "dynamic": ("int8-dynamic", {}),
    "weight-only": ("int8-weight-only", {}),
    "weight-only-asymmetric": ("int8-weight-only", {"symmetric": False}),
    "four-bits": ("int4-weight-only", {"group_size": 2}),
}


def quantized(model: nn.Module, scheme: str, x: Tensor) -> nn.Module:
    """Quantized by the scheme of this name; layers that its groups do not divide stay float."""
    name, options = SCHEMES[scheme]
    if scheme == "four-bits":
        odd = [key for key, one in model.named_modules() if _width(one) % 2]
        return quantize(model, name, skip=odd, **options)
    ready = calibrate(model, [x, x]) if name == "int8-static" else model
    return quantize(ready, name, **options)


def every_layer(scheme: str) -> tuple[nn.Module, Tensor]:
    tokens = torch.randint(11, (4, 6))
    return quantized(user_models.EveryLayer(), scheme, tokens), tokens


def _width(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return weight.shape[-1] if isinstance(weight, Tensor) and weight.ndim > 1 else 0
