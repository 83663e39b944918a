"""The ranges of weights and inputs during quantization-aware training, observed or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from athena_compress._fake_quantize import fake_quantize
from athena_compress._grid import SMALLEST_SCALE, Grid, choose_qparams
from athena_compress._int8_ops import INPUT_CODES
from athena_compress._lsq import lsq_fake_quantize, lsq_gradient_scale
from athena_compress._observer import Observer
from athena_compress._observer_mse import MSEObserver


class Range(nn.Module, ABC):
    """Fake-quantizes what goes through it; ``frozen`` says that its range no longer changes.

    >>> ObservedWeights(Grid(bits=2))(torch.tensor([-1.0, 0.2, 0.7]))
    tensor([-1.,  0.,  1.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for ``x`` as they are now, without gradients."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        own = [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]
        exact = {name: value.detach().clone() for name, value in own if value.is_floating_point()}
        super()._apply(fn, recurse)
        for name, value in exact.items():  # `model.bfloat16()` is not meant for scales
            moved = getattr(self, name)
            if moved.dtype != value.dtype:
                moved.data = value.to(moved.device)
        return self


class WeightRange(Range):
    """The range of a weight whose output channels come first, on the codes of ``grid``.

    >>> ObservedWeights(Grid(bits=2)).grid.bits
    2
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid


class ObservedWeights(WeightRange):
    """From the smallest to the largest weight of each channel, as they are at each step.

    >>> ObservedWeights(Grid(axis=0)).qparams(torch.tensor([[1.27, 0.0], [-2.54, 1.0]]))[0]
    tensor([0.0100, 0.0200])
    """

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, *self.qparams(x), self.grid)

    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return choose_qparams(*self.grid.extremes(x), self.grid)


class LearnedWeights(WeightRange):
    """Scales that are parameters, at first those of least squared error.

    >>> ranges = LearnedWeights(torch.randn(3, 100), Grid(bits=4, axis=0))
    >>> ranges.scale.shape, ranges.scale.requires_grad
    (torch.Size([3]), True)
    """

    zero_point: Tensor

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        super().__init__(grid)
        observer = MSEObserver(axis=grid.axis)
        observer(weight)
        scale, zero_point = observer.qparams(grid)
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: Tensor) -> Tensor:
        scale = _positive(self.scale.detach() if self.frozen else self.scale)
        factor = lsq_gradient_scale(x.numel() // max(scale.numel(), 1), self.grid)
        return lsq_fake_quantize(x, scale, self.zero_point, self.grid, gradient_scale=factor)

    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return _positive(self.scale.detach()), self.zero_point


class InputRange(Range):
    """The range of a layer's input, on the unsigned codes of 8 bits that int8 layers compute with.

    Only training moves it. Raises ValueError in evaluation before the first training step.

    Args:
        observer: what remembers the range, per tensor.
        symmetric: whether the zero point is fixed at 128.

    >>> from athena_compress import MinMaxObserver
    >>> inputs = ObservedInputs(MinMaxObserver(), symmetric=True)
    >>> inputs(torch.tensor([-1.27, 0.012, 0.5]))
    tensor([-1.2700,  0.0100,  0.5000])
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Observer, *, symmetric: bool) -> None:
        super().__init__()
        self.observer = observer
        self.chosen = Grid(signed=False, symmetric=symmetric)

    @property
    def is_known(self) -> bool:
        """Whether a training step has been seen."""
        return not self.observer.is_empty

    def qparams(self, x: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        if not self.is_known:
            raise ValueError(
                "the range of an input is learned in training, and the layer has not run in a training step. "
                "Train, or run some batches under `torch.no_grad()` in training mode, first."
            )
        whole = self.zero_point.detach().round().clamp(INPUT_CODES.low, INPUT_CODES.high)
        return _positive(self.scale.detach()), whole.to(torch.int32)


class ObservedInputs(InputRange):
    """A range that an observer follows until it is frozen; see `InputRange`."""

    def __init__(self, observer: Observer, *, symmetric: bool) -> None:
        super().__init__(observer, symmetric=symmetric)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not (self.frozen and self.is_known):
            self.observer(x)
            if self.is_known:
                self.scale, self.zero_point = self.observer.qparams(self.chosen)
        return fake_quantize(x, *self.qparams(), INPUT_CODES) if x.numel() else x


class LearnedInputs(InputRange):
    """A scale, and unless symmetric a zero point, that are parameters; see `InputRange`.

    The observer gives their first values, at the first training step.
    """

    def __init__(self, observer: Observer, *, symmetric: bool) -> None:
        super().__init__(observer, symmetric=symmetric)
        self.scale = nn.Parameter(torch.ones(()))
        if symmetric:
            self.register_buffer("zero_point", torch.full((), 128, dtype=torch.int32))
        else:
            self.zero_point = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x
        if self.training and not self.is_known:
            self.observer(x)
            with torch.no_grad():
                for own, first in zip(
                    (self.scale, self.zero_point), self.observer.qparams(self.chosen), strict=True
                ):
                    own.copy_(first)
        if self.frozen or not self.is_known:
            return fake_quantize(x, *self.qparams(), INPUT_CODES)
        factor = lsq_gradient_scale(x[0].numel() if x.ndim else 1, INPUT_CODES)
        return lsq_fake_quantize(
            x, _positive(self.scale), self.zero_point, INPUT_CODES, gradient_scale=factor
        )


def _positive(scale: Tensor) -> Tensor:
    """The scale, not below the floor; the gradient passes, so that it can rise again."""
    return scale + (scale.clamp_min(SMALLEST_SCALE) - scale).detach()
