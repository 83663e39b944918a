"""Bonuses on one scale over training: over the running deviation of their discounted return."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from athena_explore._memory import Memory
from athena_explore._moments import Moments, RunningMoments


class Filtered(NamedTuple):
    """What a `ReturnNormalizer` becomes by some rewards."""

    returns: Tensor
    moments: Moments


class ReturnNormalizer(nn.Module):
    r"""Rewards over the running standard deviation of their discounted return,

    .. math:: R_t = \gamma R_{t-1} + r_t, \qquad r_t / \sigma(R).

    The filter runs over time in each environment and does not stop where an episode ends; each of its values
    counts once. The mean is not subtracted, since that would change what is rewarded.

    Args:
        gamma: the discount of the intrinsic return; 0 gives the deviation of the rewards themselves.

    Shape: rewards and ``valid`` are ``(T, N)``. Rows that are not valid enter nothing.

    Raises ValueError for a discount outside [0, 1), and for rewards of another shape than ``valid``, or of
    another number of environments than before.

    Source: Burda et al. 2018, arXiv:1810.12894, section 2.4; its authors' code for the filter. Departs from
    it: a deviation below 1e-8 (all returns equal) divides by 1.

    >>> normalizer = ReturnNormalizer(gamma=0.5)
    >>> rewards, valid = torch.tensor([[1.0], [1.0]]), torch.ones(2, 1, dtype=torch.bool)
    >>> scaled, after = normalizer(rewards, valid)  # returns 1 and 1.5, deviation 0.25
    >>> scaled.flatten().tolist()
    [4.0, 4.0]
    """

    def __init__(self, *, gamma: float = 0.99) -> None:
        super().__init__()
        if not 0 <= gamma < 1:
            raise ValueError(f"`gamma` must lie in [0, 1); got {gamma}. Take 0.99.")
        self.gamma = gamma
        self.moments = RunningMoments(())
        self.memory = Memory()

    def forward(self, rewards: Tensor, valid: Tensor) -> tuple[Tensor, Filtered]:
        """The scaled rewards, their own returns counted in, and what `commit` keeps; changes nothing."""
        if rewards.dim() != 2 or rewards.shape != valid.shape:
            raise ValueError(
                f"`rewards` must have the shape of `valid`, (steps, environments), {tuple(valid.shape)}; got "
                f"{tuple(rewards.shape)}. Give one for each step and environment."
            )
        last = self.memory.get("returns")
        last = rewards.new_zeros(rewards.shape[1]) if last is None else last
        if len(last) != rewards.shape[1]:
            raise ValueError(
                f"`rewards` must be of {len(last)} environments, as before; got {rewards.shape[1]}. Call "
                "`memory.clear()` when the environments are others."
            )
        returns = _filtered(rewards, valid, last, gamma=self.gamma)
        moments = self.moments.value.merge(Moments.of(returns[valid]))
        return rewards / _scale(moments), Filtered(returns[-1] if len(returns) else last, moments)

    def commit(self, after: Filtered) -> None:
        """Become what ``forward`` said."""
        self.memory["returns"], self.moments.value = after

    def scale(self, rewards: Tensor) -> Tensor:
        """Rewards over the present deviation, whatever their order: of samples from a replay buffer."""
        return rewards / _scale(self.moments.value)


def _filtered(rewards: Tensor, valid: Tensor, last: Tensor, *, gamma: float) -> Tensor:
    """Returns ``(T, N)``, in log2 T passes over all steps: each doubles what a row has summed."""
    decays = torch.where(valid, gamma, 1.0).to(rewards.dtype)
    returns = torch.where(valid, rewards, 0)
    returns[:1] += decays[:1] * last
    reach = 1
    while reach < len(rewards):
        summed = torch.addcmul(returns[reach:], decays[reach:], returns[:-reach])
        returns = torch.cat([returns[:reach], summed])
        decays = torch.cat([decays[:reach], decays[reach:] * decays[:-reach]])
        reach *= 2
    return returns


def _scale(moments: Moments) -> Tensor:
    deviation = moments.variance.sqrt()
    return torch.where(deviation > 1e-8, deviation, 1)
