"""Autocast switched off."""

from __future__ import annotations

import pytest
import torch

from athena_core import without_autocast


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_keep_their_dtype(device: str, compiled: bool) -> None:
    def square(x: torch.Tensor) -> torch.Tensor:
        with without_autocast(x.device.type):
            return x @ x

    call = torch.compile(square, fullgraph=True, backend="eager") if compiled else square
    with torch.autocast("cpu", torch.bfloat16):
        assert call(torch.ones(2, 2, device=device)).dtype == torch.float32
