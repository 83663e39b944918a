"""What tests of removal share: outputs, and units made zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from athena_compress import UnitGroup
from athena_compress._call import call
from athena_compress._dependency_trace import tensors


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors(call(model, inputs)))


def zero(model: nn.Module, group: UnitGroup, units: Tensor) -> None:
    """Make all that belongs to these units 0."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for one in group.slices:
            indices = torch.isin(one.units, units).nonzero()[:, 0]
            named[one.tensor_name].index_fill_(one.dim, indices, 0)


def assert_equal_outputs(one: list[Tensor], other: list[Tensor]) -> None:
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
