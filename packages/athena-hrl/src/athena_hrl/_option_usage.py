"""How options are used: shares of the time, durations, switches, and whether they have collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Collapse = Literal["one option", "one step"]


class UsageMetrics(NamedTuple):
    """Numbers of `OptionUsage`, of all options together.

    >>> UsageMetrics(steps=10, switches=2, effective_options=1.8, median_duration=3.0).switches
    2
    """

    steps: int
    switches: int
    effective_options: float
    median_duration: float


class OptionUsage:
    r"""Counts which options act, for how long, and how often one follows another.

    With :math:`p_o` the share of the steps in which option :math:`o` acts,

    .. math:: N = \exp\Bigl(-\sum_o p_o \log p_o\Bigr)

    is the effective number of options, from 1 to :math:`O`. Options have collapsed

    - to "one option" if several could act and :math:`N < 1 + 0.1\,(O - 1)`: one acts nearly always;
    - to "one step" if the median duration of an execution is 1: at least half of them are primitive actions.

    An execution begins when an option is chosen, also if it is the one that has just ended, and is over when
    it ends or the episode does. The median is over executions that are over.

    Args:
        n_options: O.
        runs: rows that act at the same time.

    Raises ValueError for numbers below 1, or options outside [0, O).

    Source: both collapses are told of by Bacon et al. 2017, arXiv:1609.05140, and Harb et al. 2018,
    arXiv:1709.04571; the numbers at which they are called so are this package's own.

    >>> usage = OptionUsage(2, 1)
    >>> for option, chosen in [(0, True), (0, False), (1, True), (1, False), (0, True)]:
    ...     usage.add([option], ended=[chosen])
    >>> usage.shares.tolist(), usage.durations(1).tolist(), usage.metrics().switches, usage.collapse
    ([0.6, 0.4], [2], 2, None)
    """

    def __init__(self, n_options: int, runs: int = 1) -> None:
        for name, value in (("n_options", n_options), ("runs", runs)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self.n_options, self.runs = n_options, runs
        self._latest = np.zeros(runs, dtype=np.int64)
        self._elapsed = np.zeros(runs, dtype=np.int64)  # steps of the execution under way
        self.reset()

    def reset(self) -> None:
        """Forget all counts, but not the executions under way."""
        self.steps = np.zeros(self.n_options, dtype=np.int64)
        self.switches = 0
        self._histogram = np.zeros((self.n_options, 16), dtype=np.int64)  # by duration

    def add(
        self,
        option: ArrayLike,
        *,
        ended: ArrayLike,
        begins: ArrayLike | None = None,
        live: ArrayLike | None = None,
    ) -> None:
        """Count one step of each row; every argument has the shape ``(runs,)``.

        Args:
            option: which acts in this step.
            ended: whether the one before ended upon the arrival in this state, so that this was chosen.
            begins: whether it is the first step of an episode; none if left out.
            live: whether the row acts at all; a row that is being reset does not. All if left out.
        """
        option = np.asarray(option, dtype=np.int64)
        if option.size and not 0 <= option.min() <= option.max() < self.n_options:
            raise ValueError(f"`option` must lie in [0, {self.n_options}); got {option.tolist()}.")
        begins = np.zeros(self.runs, dtype=np.bool_) if begins is None else np.asarray(begins)
        live = np.ones(self.runs, dtype=np.bool_) if live is None else np.asarray(live)
        chosen = live & (np.asarray(ended) | begins)
        self._close(np.flatnonzero(chosen & (self._elapsed > 0)))
        self.switches += int((chosen & ~begins & (option != self._latest) & (self._elapsed > 0)).sum())
        self._elapsed = np.where(chosen, 0, self._elapsed) + live
        self._latest = np.where(live, option, self._latest)
        self.steps += np.bincount(option[live], minlength=self.n_options)

    @property
    def shares(self) -> Array:
        """The share of steps of each option ``(O,)``; zeros before the first."""
        return self.steps / max(1, self.steps.sum())

    def durations(self, option: int) -> NDArray[np.int64]:
        """The durations of all executions of an option that are over, in growing order."""
        return np.repeat(np.arange(self._histogram.shape[1]), self._histogram[option])

    @property
    def mean_durations(self) -> Array:
        """The mean duration of each option ``(O,)``; 0 for one whose executions are none."""
        lengths = np.arange(self._histogram.shape[1])
        return self._histogram @ lengths / np.maximum(1, self._histogram.sum(1))

    @property
    def effective_options(self) -> float:
        """The exponential of the entropy of the shares; 0 before the first step."""
        shares = self.shares[self.steps > 0]
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    @property
    def median_duration(self) -> float:
        """The median duration of executions that are over; 0 if none is."""
        counts = self._histogram.sum(0).cumsum()
        middle = [
            np.searchsorted(counts, rank, side="right") for rank in ((counts[-1] - 1) // 2, counts[-1] // 2)
        ]
        return float(np.mean(middle)) if counts[-1] else 0.0

    @property
    def collapse(self) -> Collapse | None:
        """How the options have collapsed, if they have."""
        if self.n_options > 1 and 0 < self.effective_options < 1 + 0.1 * (self.n_options - 1):
            return "one option"
        return "one step" if self.median_duration == 1 else None

    def metrics(self) -> UsageMetrics:
        """What to log of all options together."""
        return UsageMetrics(
            int(self.steps.sum()), self.switches, self.effective_options, self.median_duration
        )

    def state_dict(self) -> dict[str, Any]:
        """All counts, and the executions under way."""
        return {"switches": self.switches, **{name: getattr(self, name).copy() for name in _STATE}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for that of other options or runs."""
        for name in ("steps", "_latest"):
            value, now = np.asarray(state[name]).copy(), getattr(self, name)
            if value.shape != now.shape:
                raise ValueError(
                    f"`state` must be of {self.n_options} options and {self.runs} runs; got `{name}` of the "
                    f"shape {value.shape}. Make the same."
                )
        for name in _STATE:
            setattr(self, name, np.asarray(state[name]).copy())
        self.switches = int(state["switches"])

    def _close(self, rows: NDArray[np.int64]) -> None:
        """Note the durations of executions that are over."""
        if not len(rows):
            return
        longest = int(self._elapsed[rows].max())
        if longest >= self._histogram.shape[1]:
            wider = np.zeros((self.n_options, 2 * longest), dtype=np.int64)
            wider[:, : self._histogram.shape[1]] = self._histogram
            self._histogram = wider
        np.add.at(self._histogram, (self._latest[rows], self._elapsed[rows]), 1)


_STATE = ("steps", "_latest", "_elapsed", "_histogram")
