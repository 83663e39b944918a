"""Counts where no two states are the same: what a density model makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor

from athena_explore._bonus import Bonus, Normalization, Scored
from athena_explore._count_table import occurrences
from athena_explore._symbols import Symbols
from athena_explore._transition import Transition


class _Seen(NamedTuple):
    slots: Tensor
    total: Tensor


class PseudoCounts(Bonus):
    r"""The count that a density model implies: how much less a state surprises once it is learned.

    .. math:: b(s) = (\hat N(s) + 0.01)^{-1/2}, \qquad
        \hat N(s) = \frac{\rho(s) \, (1 - \rho'(s))}{\rho'(s) - \rho(s)}

    with :math:`\rho(s)` the density of the state, and :math:`\rho'(s)` that after one more visit of it.
    The density is a product over the parts :math:`s_f` of the state, of :math:`B_f` possible values each,

    .. math:: \rho(s) = \prod_f \frac{n_f(s_f) + \alpha}{n + \alpha B_f},

    so that states which share most parts with those seen before count as partly known. Of a single discrete
    part, :math:`\hat N = n(s) + \alpha`. The parts are those of `Symbols`: large images become 42 x 42 grey
    pixels of 8 levels. Each row is scored and learned before the next, in the order of time, then of
    environments.

    Memory: 8 bytes for each value that a part can have: 113 kB of a large image.

    Args:
        observation_space, action_space, seed, normalize, gamma: see `Bonus`.
        bins: parts of the range of each floating-point number; see `StateKeys`.
        alpha: :math:`\alpha`, the count of a value that was never seen.

    Shape: rewards are ``(T, N)``.

    Raises ValueError for options outside their range.

    Source: Bellemare et al. 2016, arXiv:1606.01868, eq. 2 and section 6; the estimator of each part with
    :math:`\alpha = 1/2` is that of Krichevsky and Trofimov 1981. Departs from it: its density model is a CTS,
    in which each pixel depends on its neighbours; here the parts are independent, which is coarser.

    >>> from gymnasium import spaces
    >>> bonus = PseudoCounts(spaces.Discrete(4), spaces.Discrete(2))
    >>> visited, ends = torch.tensor([[1], [1], [3], [1]]), torch.zeros(4, 1, dtype=torch.bool)
    >>> rewards = bonus.score(Transition(visited, torch.zeros(4, 1), visited, ends, ends))
    >>> rewards.flatten() ** -2 - 0.01  # how often each was seen before, and alpha
    tensor([0.5000, 1.5000, 0.5000, 2.5000])
    """

    counts: Tensor
    total: Tensor
    starts: Tensor

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        seed: int = 0,
        normalize: Normalization = "none",
        gamma: float = 0.99,
        bins: int = 16,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, normalize=normalize, gamma=gamma)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"`alpha` must be a positive number; got {alpha}. Take 0.5.")
        self.alpha = alpha
        self.symbols = Symbols(observation_space, bins=bins)
        sizes = self.symbols.sizes
        self.register_buffer("counts", torch.zeros(int(sizes.sum()), dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)

    def _score(self, transition: Transition) -> Scored:
        samples = transition.flat()
        slots = self.symbols(samples.next_obs) + self.starts
        earlier = torch.arange(len(slots), device=slots.device)
        nth, _ = occurrences(slots)
        rewards = torch.zeros(transition.shape, device=slots.device)
        rewards[transition.valid] = self._bonus(self.counts[slots] + nth - 1, self.total + earlier)
        return Scored(rewards, _Seen(slots, self.total + len(slots)))

    def _score_samples(self, samples: Transition) -> Tensor:
        slots = self.symbols(samples.next_obs) + self.starts
        return self._bonus(self.counts[slots], self.total.expand(len(slots)))

    def _commit(self, transition: Transition, after: Any) -> None:  # noqa: ARG002  `after` tells all
        slots = after.slots.flatten()
        self.counts.index_add_(0, slots, torch.ones_like(slots))
        self.total.copy_(after.total)

    def _bonus(self, seen: Tensor, total: Tensor) -> Tensor:
        return (pseudo_count(seen, total, self.symbols.sizes, alpha=self.alpha) + 0.01).rsqrt()


def pseudo_count(seen: Tensor, total: Tensor, sizes: Tensor, *, alpha: float) -> Tensor:
    r""":math:`\hat N` of states with parts that were seen so often, of so many states.

    .. math:: \hat N = \frac{1 - \rho'}{\rho' / \rho - 1}, \qquad
        \log \frac{\rho'}{\rho} = \sum_f \log\Big(1 + \frac{d_f}{(n_f + \alpha)(n + \alpha B_f + 1)}\Big),
        \qquad \log \rho' = \sum_f \log\Big(1 - \frac{d_f}{n + \alpha B_f + 1}\Big)

    with :math:`d_f = n - n_f + \alpha (B_f - 1)`: nothing cancels, however often a state was seen.

    Shape: ``seen`` is ``(B, F)``, ``total`` ``(B,)``, ``sizes`` ``(F,)``; the result is ``(B,)``.

    >>> pseudo_count(torch.tensor([[3]]), torch.tensor([8]), torch.tensor([4]), alpha=0.5)
    tensor([3.5000])
    """
    total = total[:, None]
    other = (total - seen) + alpha * (sizes - 1)
    after = total + alpha * sizes + 1
    ratio = (other / ((seen + alpha) * after)).log1p().sum(1)
    density = (-other / after).log1p().sum(1)
    # Where every part has one value only there is one state, and all that was seen was it.
    return torch.where(ratio > 0, -density.expm1() / ratio.expm1(), total[:, 0])
