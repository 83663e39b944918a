"""What every observer shares: values go through unchanged, and a range of them is remembered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from athena_compress._grid import Grid, choose_qparams

NO_DATA = (
    "no calibration data has been seen: `qparams` must come after at least one value, and got none. "
    "Run the model on some batches first."
)


class Observer(nn.Module, ABC):
    """Remembers the range of the values that go through it, for the scale and zero point of a grid.

    A subclass names its state in ``STATE`` and fills it in ``observe``; ``span`` then gives the range. All
    state is buffers, empty until the first values, and loading takes the shapes of what is loaded: a fresh
    observer takes any other's state. Training or not makes no difference.

    Args:
        axis: one range for each index of this axis; ``None`` for one of everything.

    Raises ValueError for values that are NaN or infinite, for another length of the axis than before, and
    where a scale is asked for before any value was seen.

    >>> from athena_compress import MinMaxObserver
    >>> observer = MinMaxObserver()
    >>> observer(torch.tensor([-1.0, 2.54])).tolist() == torch.tensor([-1.0, 2.54]).tolist()
    True
    >>> observer.qparams(Grid())
    (tensor(0.0200), tensor(0, dtype=torch.int32))
    """

    #: Buffers and their types. All have one row for each index of the axis, one row if there is no axis.
    STATE: ClassVar[dict[str, torch.dtype]] = {}
    #: Whether the same values in another order give the same state, bit for bit.
    COMMUTES: ClassVar[bool] = True

    def __init__(self, *, axis: int | None = None) -> None:
        super().__init__()
        self.axis = axis
        for name, dtype in self.STATE.items():
            self.register_buffer(name, torch.empty(0, dtype=dtype))

    @abstractmethod
    def observe(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Take in finite values, float32, ``(rows, elements)``, whose extremes are ``low`` and ``high``."""

    @abstractmethod
    def span(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Ends of the range that the grid is to cover, each ``(rows,)``."""

    @property
    def is_empty(self) -> bool:
        """Whether no value has been seen."""
        return self.get_buffer(next(iter(self.STATE))).numel() == 0

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.numel():
            n_rows = 1 if self.axis is None else x.shape[self.axis]
            values = x.detach() if self.axis is None else x.detach().movedim(self.axis, 0)
            rows = values.reshape(n_rows, -1).float()
            low, high = torch.aminmax(rows, dim=1)
            if not bool((low.isfinite() & high.isfinite()).all()):
                raise ValueError(
                    "values to observe must be finite; got NaN or infinity. Look for the batch or the layer "
                    "that makes them."
                )
            held = self.get_buffer(next(iter(self.STATE))).shape[0]
            if held not in (0, n_rows):
                raise ValueError(
                    f"axis {self.axis} must keep its length; got {n_rows} after {held}. Observe along "
                    "another axis, or reset() first."
                )
            self.observe(rows, low, high)
        return x

    def qparams(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (int32) of what was seen, shaped as the grid asks."""
        if grid.axis != self.axis or grid.group_size is not None:
            raise ValueError(
                f"`grid` must share scales as the observer does, axis={self.axis} without groups; got "
                f"axis={grid.axis}, group_size={grid.group_size}. Make one for the other."
            )
        if self.is_empty:
            raise ValueError(NO_DATA)
        scale, zero_point = choose_qparams(*self.span(grid), grid)
        return (scale[0], zero_point[0]) if self.axis is None else (scale, zero_point)

    def reset(self) -> None:
        """Forget all values."""
        for name, dtype in self.STATE.items():
            setattr(self, name, torch.empty(0, dtype=dtype, device=self.get_buffer(name).device))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, dtype in self.STATE.items():
            loaded = state_dict.get(prefix + name)
            if loaded is not None:  # of another number of rows, which torch would refuse (pytorch#33830)
                setattr(
                    self, name, torch.empty(loaded.shape, dtype=dtype, device=self.get_buffer(name).device)
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return "" if self.axis is None else f"axis={self.axis}"
