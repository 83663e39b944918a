"""The schemes in which weights alone are integers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from athena_compress._grid import Grid
from athena_compress._int8_dynamic import coded_embedding
from athena_compress._observer import Observer
from athena_compress._scheme import Scheme, refuse_unknown
from athena_compress._weight_only import WeightOnlyConv, WeightOnlyLinear


class WeightOnly(Scheme):
    r"""Weights alone as integers of 2 to 8 bits; inputs and products stay floats.

    Args:
        bits: of a weight; up to 4, two weights share a byte.
        group_size: one scale for so many consecutive weights of the last axis; None: one an output channel.
        symmetric: whether 0 is the middle of the grid; otherwise each scale has a zero point.
        per_channel: without groups, one scale for each output channel rather than one for all.
        weight_observer: what chooses the range of a weight, a name of kind ``observer``.

    Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1; groups: Shen et al. 2019,
    arXiv:1909.05840, section 3.2. Departs from them: inputs stay floats.

    >>> WeightOnly(bits=4, group_size=2).quantize(nn.Linear(4, 3))
    WeightOnlyLinear(4, 3, bias=True, bits=4, symmetric=True, group_size=2)
    """

    def __init__(
        self,
        *,
        bits: int = 8,
        group_size: int | None = None,
        symmetric: bool = True,
        per_channel: bool = True,
        weight_observer: str = "min-max",
    ) -> None:
        super().__init__(per_channel=per_channel, weight_observer=weight_observer)
        self.grid = Grid(bits, symmetric=symmetric, group_size=group_size)

    def quantize(self, layer: nn.Module, inputs: Observer | None = None) -> nn.Module:  # noqa: ARG002
        refuse_unknown(layer)
        if isinstance(layer, nn.Embedding):
            return coded_embedding(self, layer, self.grid)
        codes = self.coded(layer, self.grid)
        if isinstance(layer, nn.Linear):
            return WeightOnlyLinear(layer, codes, self.grid)
        assert isinstance(layer, _ConvNd)
        return WeightOnlyConv(layer, codes, self.grid)


class Int4WeightOnly(WeightOnly):
    """Weights of 4 bits, two a byte, with a scale for each group of 64: an eighth of the memory.

    Args:
        group_size: one scale for so many consecutive weights of the last axis; None: one an output channel.
        symmetric: whether 0 is the middle of the grid; otherwise each scale has a zero point.
        weight_observer: what chooses the range of a weight, a name of kind ``observer``.

    Source: Frantar et al. 2022, arXiv:2210.17323, section 4 (groups). Departs from it: plain rounding.

    >>> Int4WeightOnly(group_size=2).quantize(nn.Linear(4, 3))
    WeightOnlyLinear(4, 3, bias=True, bits=4, symmetric=True, group_size=2)
    """

    def __init__(
        self, *, group_size: int | None = 64, symmetric: bool = True, weight_observer: str = "min-max"
    ) -> None:
        super().__init__(bits=4, group_size=group_size, symmetric=symmetric, weight_observer=weight_observer)
