"""Lateral connections of progressive networks: from a layer's inputs in earlier columns to its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_POINTWISE: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
Shapes = tuple[Sequence[int], Sequence[int]]  # of what a layer takes and gives


class LinearLateral(nn.Module):
    r"""The sum of linear maps, one from each earlier column.

    .. math:: \sum_{j<k} U_i^{(k:j)} h_{i-1}^{(j)}

    Each :math:`U` is as the layer it stands beside: a Linear, or a convolution of its kernel and stride.

    Args:
        layer: to whose output it is added.
        columns: how many come before.
        shapes: of what the layer takes and gives, if it is neither a Linear nor a convolution.

    Shape: ``columns`` tensors that the layer takes -> one that it gives.

    Source: Rusu et al. 2016, Progressive neural networks, arXiv:1606.04671, equation 1. Departs from it: no.

    >>> LinearLateral(nn.Linear(4, 3), columns=2)([torch.ones(5, 4), torch.ones(5, 4)]).shape
    torch.Size([5, 3])
    """

    def __init__(self, layer: nn.Module, *, columns: int, shapes: Shapes | None = None) -> None:
        super().__init__()
        width = input_width(layer, shapes)
        self.maps = nn.ModuleList(beside(layer, width, shapes) for _ in range(columns))

    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        total = self.maps[0](earlier[0])
        for lateral, hidden in zip(list(self.maps)[1:], earlier[1:], strict=True):
            total = total + lateral(hidden)
        return total


class AdapterLateral(nn.Module):
    r"""All earlier columns scaled, projected to the width of one, and passed through a nonlinearity.

    .. math:: U_i^{(k)}\, \sigma\!\big(V_i^{(k)} [\alpha^{(1)} h_{i-1}^{(1)}; \dots;
        \alpha^{(k-1)} h_{i-1}^{(k-1)}]\big)

    :math:`V` is a Linear, or for images a convolution with kernel 1; :math:`U` as in `LinearLateral`.

    Args:
        layer, columns, shapes: see `LinearLateral`.
        activation: makes the nonlinearity.

    Shape: ``columns`` tensors that the layer takes -> one that it gives.

    Source: Rusu et al. 2016, arXiv:1606.04671, equation 2. Departs from it: the paper asks for small random
    scales at first; these are uniform in [0, 0.1].

    >>> AdapterLateral(nn.Conv2d(4, 3, 3), columns=2)([torch.ones(5, 4, 6, 6), torch.ones(5, 4, 6, 6)]).shape
    torch.Size([5, 3, 4, 4])
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        columns: int,
        shapes: Shapes | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        width = input_width(layer, shapes)
        spatial = next((n for kind, n in CONVOLUTIONS.items() if isinstance(layer, kind)), 0)
        if not spatial and shapes is not None and not isinstance(layer, nn.Linear):
            spatial = len(shapes[0]) - 2 if _axis(shapes[0]) == 1 else 0
        self.axis = 1 if spatial else -1
        self.scales = nn.Parameter(0.1 * torch.rand(columns))
        wide = width * columns
        self.project = _POINTWISE[spatial](wide, width, 1) if spatial else nn.Linear(wide, width)
        self.activation = activation()
        self.map = beside(layer, width, shapes)

    def forward(self, earlier: Sequence[Tensor]) -> Tensor:
        scaled = [scale * hidden for scale, hidden in zip(self.scales.unbind(), earlier, strict=True)]
        return self.map(self.activation(self.project(torch.cat(scaled, self.axis))))


def input_width(layer: nn.Module, shapes: Shapes | None) -> int:
    """Channels or features that a layer takes.

    >>> input_width(nn.Conv1d(4, 8, 3), None), input_width(nn.Identity(), ((2, 7, 5), (2, 7, 5)))
    (4, 5)
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, tuple(CONVOLUTIONS)):
        return layer.in_channels  # pyright: ignore[reportReturnType]
    assert shapes is not None  # the network asks for an example
    return shapes[0][_axis(shapes[0])]


def beside(layer: nn.Module, width: int, shapes: Shapes | None) -> nn.Module:
    """A linear map, without bias, of the layer's geometry, from so many features.

    For a layer of another kind it acts on each position: on the last axis of ``(B, C)`` and ``(B, T, C)``, on
    the channels of ``(B, C, H, W)``, there with a stride where the layer makes the image smaller.

    Raises ValueError if no such map gives the layer's shape.

    >>> beside(nn.Linear(4, 3), 2, None)
    Linear(in_features=2, out_features=3, bias=False)
    """
    if isinstance(layer, nn.Linear):
        return nn.Linear(width, layer.out_features, bias=False)
    for kind in CONVOLUTIONS:
        if isinstance(layer, kind):
            options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
            return kind(
                width, layer.out_channels, layer.kernel_size, bias=False,
                padding_mode=layer.padding_mode, **options,
            )  # fmt: skip
    assert shapes is not None
    taken, given = shapes
    axis = _axis(taken)
    if len(taken) == len(given) and axis == -1 and taken[:-1] == given[:-1]:
        return nn.Linear(width, given[-1], bias=False)
    if len(taken) == len(given) and axis == 1:
        strides = tuple(-(-before // after) for before, after in zip(taken[2:], given[2:], strict=True))
        if all((t - 1) // s + 1 == g for t, s, g in zip(taken[2:], strides, given[2:], strict=True)):
            return _POINTWISE[len(strides)](width, given[1], 1, stride=strides, bias=False)
    raise ValueError(
        f"a stage must keep the axes of what it takes for a lateral to stand beside it; got {tuple(taken)} "
        f"in and {tuple(given)} out, for a {type(layer).__name__}. Split it with `stages=`."
    )


def _axis(shape: Sequence[int]) -> int:
    return 1 if len(shape) > 3 else -1
