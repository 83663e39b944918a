"""Frequencies of rotary positions, and their scalings to texts longer than those of training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def rotary_frequencies(rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
    r"""Angles a position, :math:`\theta_i = b^{-2i/d}` in radians, in float32.

    Computed anew at each use, so no cast of a model can round them and no device needs to hold them.

    Shape: ``(rotary_dim / 2,)``. Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2; the same as
    in Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Departs from it: no.

    >>> rotary_frequencies(4, base=100.0)
    tensor([1.0000, 0.1000])
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / -rotary_dim
    return torch.pow(base, exponents)


def _at_least_one(name: str, value: float) -> None:
    if not (value >= 1 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be at least 1 and finite; got {value}.")


class RotaryScaling(ABC):
    """Base of the scalings: the frequencies of a context ``factor`` times as long.

    Attributes:
        magnitude: multiplies cosines and sines, and so scores by its square.

    >>> class Longest(RotaryScaling):
    ...     def frequencies(self, rotary_dim, base, device=None):
    ...         return rotary_frequencies(rotary_dim, base, device).masked_fill(torch.arange(2) > 0, 0)
    >>> Longest().frequencies(4, base=100.0)
    tensor([1., 0.])
    """

    @property
    def magnitude(self) -> float:
        return 1.0

    @abstractmethod
    def frequencies(self, rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
        """Angles a position, in float32 on ``device``. Shape: ``(rotary_dim / 2,)``."""


@dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    r"""Positions interpolated: all frequencies divided by the factor, :math:`\theta_i / s`.

    Args:
        factor: :math:`s`, the new context's length over that of training.

    Raises ValueError if ``factor`` is below 1. Source: Chen et al. 2023, arXiv:2306.15595, equation 4.
    Departs from it: no.

    >>> LinearScaling(2.0).frequencies(4, base=100.0)
    tensor([0.5000, 0.0500])
    """

    factor: float

    def __post_init__(self) -> None:
        _at_least_one("factor", self.factor)

    def frequencies(self, rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
        return rotary_frequencies(rotary_dim, base, device) / self.factor


@dataclass(frozen=True)
class NTKScaling(RotaryScaling):
    r"""A larger base: the slowest pair is slowed by the factor, the fastest not at all.

    .. math:: b' = b\, s^{d / (d - 2)}, \qquad
              \theta'_i = \theta_i\, s^{-2i/(d-2)}, \qquad \theta'_{d/2-1} = \theta_{d/2-1} / s

    Args:
        factor: :math:`s`, the new context's length over that of training.

    Raises ValueError if ``factor`` is below 1, or used with fewer than 4 rotary dimensions.
    Source: "NTK-aware" interpolation of bloc97, as in Peng et al. 2023, arXiv:2309.00071, section 3.1.
    Departs from it: no.

    >>> NTKScaling(2.0).frequencies(4, base=100.0)
    tensor([1.0000, 0.0500])
    """

    factor: float

    def __post_init__(self) -> None:
        _at_least_one("factor", self.factor)

    def frequencies(self, rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
        if rotary_dim < 4:
            raise ValueError(f"`NTKScaling` needs at least 4 rotary dimensions; got {rotary_dim}.")
        longer = base * self.factor ** (rotary_dim / (rotary_dim - 2))
        return rotary_frequencies(rotary_dim, longer, device)


@dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    r"""Slow pairs interpolated, fast pairs kept, those between blended; and scores sharpened.

    .. math:: \theta'_i = (1 - \gamma_i)\, \theta_i + \gamma_i\, \theta_i / s, \qquad
              \gamma_i = \operatorname{clip}\!\Big(\frac{i - i_f}{i_s - i_f}, 0, 1\Big), \qquad
              m = 0.1 \ln s + 1

    where pair :math:`i_f` turns ``beta_fast`` times within the training length :math:`L` and pair
    :math:`i_s` turns ``beta_slow`` times: :math:`i(\beta) = d \ln(L / 2\pi\beta) / (2 \ln b)`.

    Args:
        factor: :math:`s`, the new context's length over that of training.
        original_length: :math:`L`, the length of training.
        beta_fast: pairs that turn more often than this within :math:`L` keep their frequency.
        beta_slow: pairs that turn less often than this are interpolated whole.
        attention_factor: the magnitude :math:`m`; None computes it from the factor.
        truncate: whether :math:`i_f` is rounded down and :math:`i_s` up, to whole pairs.

    Raises ValueError if ``factor`` or ``original_length`` is below 1, ``attention_factor`` is not
    above 0, or not ``0 < beta_slow < beta_fast``.
    Source: Peng et al. 2023, arXiv:2309.00071, sections 3.2 and 3.4. Departs from it: the blend is
    linear in the pair rather than in its turns, as in the authors' program and in the models trained
    with it.

    >>> YarnScaling(4.0, original_length=4096).frequencies(8, base=10_000.0)
    tensor([1.0000e+00, 1.0000e-01, 6.2500e-03, 2.5000e-04])
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _at_least_one("factor", self.factor)
        _at_least_one("original_length", self.original_length)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                "`beta_slow` must lie above 0 and below `beta_fast` = "
                f"{self.beta_fast}; got {self.beta_slow}."
            )
        if self.attention_factor is not None and not self.attention_factor > 0:
            raise ValueError(f"`attention_factor` must be above 0; got {self.attention_factor}.")

    @property
    def magnitude(self) -> float:
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor

    def frequencies(self, rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
        frequencies = rotary_frequencies(rotary_dim, base, device)
        fast, slow = self._blended_pairs(rotary_dim, base)
        pairs = torch.arange(rotary_dim // 2, dtype=torch.float32, device=device)
        interpolated = ((pairs - fast) / (slow - fast)).clamp(0, 1)
        return torch.lerp(frequencies, frequencies / self.factor, interpolated)

    def _blended_pairs(self, rotary_dim: int, base: float) -> tuple[float, float]:
        """The pairs between which frequencies are blended."""

        def pair(turns: float) -> float:
            return rotary_dim * math.log(self.original_length / (2 * math.pi * turns)) / (2 * math.log(base))

        fast, slow = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            fast, slow = math.floor(fast), math.ceil(slow)
        # The last bound is in dimensions rather than pairs, as in the authors' program.
        fast, slow = max(fast, 0), min(slow, rotary_dim - 1)
        return fast, slow if slow > fast else fast + 1e-3


@dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    r"""Long waves interpolated, short waves kept, those between blended by their turns.

    .. math:: \theta'_i = (1 - \gamma_i)\, \theta_i / s + \gamma_i\, \theta_i, \qquad
              \gamma_i = \operatorname{clip}\!\Big(\frac{L\theta_i / 2\pi - \alpha}{\beta - \alpha}, 0, 1\Big)

    where :math:`L\theta_i / 2\pi` counts the turns of a pair within the training length :math:`L`.

    Args:
        factor: :math:`s`, by which long waves are stretched.
        low_freq_factor: :math:`\alpha`; pairs with fewer turns are interpolated whole.
        high_freq_factor: :math:`\beta`; pairs with more turns keep their frequency.
        original_length: :math:`L`, the length of training.

    Raises ValueError if ``factor`` or ``original_length`` is below 1, or not
    ``0 < low_freq_factor < high_freq_factor``.
    Source: the program of Llama 3.1 (Grattafiori et al. 2024, arXiv:2407.21783); the blend is that of
    Peng et al. 2023, arXiv:2309.00071, section 3.2. Departs from it: no.

    >>> scaling = Llama3Scaling(4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=256)
    >>> scaling.frequencies(6, base=1_000.0)
    tensor([1.0000, 0.1000, 0.0025])
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        _at_least_one("factor", self.factor)
        _at_least_one("original_length", self.original_length)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                "`low_freq_factor` must lie above 0 and below `high_freq_factor` = "
                f"{self.high_freq_factor}; got {self.low_freq_factor}."
            )

    def frequencies(self, rotary_dim: int, base: float, device: torch.device | None = None) -> Tensor:
        frequencies = rotary_frequencies(rotary_dim, base, device)
        turns = frequencies * (self.original_length / (2 * math.pi))
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return torch.lerp(frequencies / self.factor, frequencies, kept.clamp(0, 1))
