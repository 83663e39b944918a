"""Rounding to bfloat16 at random, right in the mean."""

from __future__ import annotations

import torch
from torch import Tensor


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    r"""Round float32 to bfloat16, up with the probability of its distance from the lower neighbour.

    .. math:: \Pr(\lceil x \rceil) = \frac{x - \lfloor x \rfloor}{\lceil x \rceil - \lfloor x \rfloor},
              \qquad \mathrm{E}[\mathrm{round}(x)] = x

    where :math:`\lfloor x \rfloor, \lceil x \rceil` are the neighbours in bfloat16. A bfloat16 is the
    upper half of a float32, so 16 random bits are added and the lower half is cut off. What bfloat16
    holds stays as it is; NaN and infinity too.

    Args:
        generator: of the random bits, on the device of ``values``.

    Shape: that of ``values``.
    Raises TypeError unless ``values`` is float32, ValueError for a generator of another device.
    Source: Gupta et al. 2015, arXiv:1502.02551, section 3. Departs from it: floating point, not fixed.

    >>> generator = torch.Generator().manual_seed(0)
    >>> rounded = round_stochastically(torch.full((10_000,), 1.0 + 1 / 512), generator)  # a quarter up
    >>> rounded.unique().tolist(), round(rounded.float().mean().item(), 3)
    ([1.0, 1.0078125], 1.002)
    """
    if values.dtype != torch.float32:
        raise TypeError(f"`values` must be float32; got {values.dtype}. Convert it first.")
    if generator.device.type != values.device.type:
        raise ValueError(
            f"`generator` must be on the device of `values`, {values.device}; got one on {generator.device}. "
            f"Make it by torch.Generator({values.device.type!r})."
        )
    bits = torch.randint(2**16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits += values.contiguous().view(torch.int32)
    bits &= -(2**16)
    rounded = bits.view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).to(torch.bfloat16)
