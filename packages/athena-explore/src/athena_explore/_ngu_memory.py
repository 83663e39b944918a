"""How unlike all else of its episode a state is: a kernel over its nearest neighbours in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 2**22  # distances held at once, with their ages about 64 MiB


@dataclass(frozen=True)
class EpisodicSimilarity:
    r"""The similarity of a state to its ``neighbours`` nearest :math:`f_i` in memory, and what it is worth,

    .. math::
        K_i = \frac{\epsilon}{\max(d_i^2 / d_m^2 - \xi, 0) + \epsilon}, \qquad
        s = \sqrt{\textstyle\sum_i K_i} + c, \qquad
        r = \begin{cases} 1 / s & s \le s_m \\ 0 & \text{else,} \end{cases}

    with :math:`d_m^2` the running mean of all such squared distances. Fewer states than ``neighbours`` in
    memory have a sum of fewer terms.

    Args:
        neighbours: how many.
        epsilon, cluster, constant, largest: :math:`\epsilon`, :math:`\xi`, :math:`c` and :math:`s_m`.
        capacity: of an episode's memory, in states.

    Raises ValueError for constants outside their range.

    Source: Badia et al. 2020, arXiv:2002.06038, section 2, algorithm 1, and the constants of its appendix.
    Departs from it: no.

    >>> similarity = EpisodicSimilarity(epsilon=1.0, cluster=0.0, constant=0.5)
    >>> similarity.reward(torch.tensor([[1.5, 1.5]]), torch.tensor([0.5]))  # K = 1/4 twice
    tensor([0.8284])
    """

    neighbours: int = 10
    epsilon: float = 1e-4
    cluster: float = 0.008
    constant: float = 1e-3
    largest: float = 8.0
    capacity: int = 30_000

    def __post_init__(self) -> None:
        for name in ("neighbours", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}. Leave it out.")
        for name in ("epsilon", "constant", "largest"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}. Leave it out.")
        if not self.cluster >= 0:
            raise ValueError(f"`cluster` must be at least 0; got {self.cluster}. Take 0.008.")

    def reward(self, nearest: Tensor, mean: Tensor) -> Tensor:
        """Rewards ``(...)`` of squared distances ``(..., k)``, infinite where there is no neighbour."""
        scale = torch.where(mean > 0, mean, 1)[..., None]  # all states alike so far: 0 / 1
        distance = (nearest / scale - self.cluster).clamp(min=0)
        total = (self.epsilon / (distance + self.epsilon)).sum(-1).sqrt() + self.constant
        return torch.where(total > self.largest, 0, 1 / total)


class Remembered(NamedTuple):
    """What each of ``N`` environments keeps of its episode, and the scale of its distances.

    ``features`` ``(N, M, d)`` are the states of the episode so far, the oldest first; ``held`` ``(N,)`` tells
    how many there are. ``mean`` and ``means`` ``(N,)`` are the running mean of squared distances to
    neighbours and how many entered it; they outlive episodes.
    """

    features: Tensor
    held: Tensor
    mean: Tensor
    means: Tensor

    @classmethod
    def nothing(cls, environments: int, width: int, device: torch.device) -> Remembered:
        """No memory."""
        none = torch.zeros(environments, dtype=torch.int64, device=device)
        return cls(torch.zeros(environments, 0, width, device=device), none, none.float(), none)


class _Timeline(NamedTuple):
    """All states in order: ``M`` that were remembered, then two of each row, what it comes from and leads to.

    ``episode`` ``(N, M + 2T)`` is the running number of a state's episode, -1 where the slot is empty: only
    the first row of an episode enters what it comes from, and only valid rows what they lead to. ``rank``
    counts the states up to here. ``now`` ``(N, T + 1)`` is the episode of each row, and after the last.
    """

    features: Tensor
    episode: Tensor
    rank: Tensor
    now: Tensor


def episodic_rewards(
    obs: Tensor,
    next_obs: Tensor,
    *,
    done: Tensor,
    valid: Tensor,
    memory: Remembered,
    similarity: EpisodicSimilarity,
) -> tuple[Tensor, Remembered]:
    """The reward of each state given those before it in its episode, and the memory after the last.

    An episode's memory starts with its first observation, so that a state always has a neighbour. The oldest
    state makes room once there are as many as ``similarity.capacity``.

    Shape: features ``(T, N, d)``, ``done`` and ``valid`` ``(T, N)`` ``-> (T, N)``.
    """
    line = _timeline(obs, next_obs, done, valid, memory)
    nearest = _nearest(line, next_obs.transpose(0, 1), similarity)
    entering = nearest.isfinite() & valid.T[..., None]
    means = memory.means[:, None] + entering.sum(2).cumsum(1)
    gaps = torch.where(entering, nearest - memory.mean[:, None, None], 0).sum(2).cumsum(1)
    mean = memory.mean[:, None] + gaps / means.clamp(min=1)
    rewards = similarity.reward(nearest, mean).T
    features, held = _latest_episode(line, similarity.capacity)
    if not len(valid):
        return rewards, memory
    return rewards, Remembered(features, held, mean[:, -1], means[:, -1])


def _timeline(obs: Tensor, next_obs: Tensor, done: Tensor, valid: Tensor, memory: Remembered) -> _Timeline:
    most = memory.features.shape[1]
    rows = valid.T.long().cumsum(1)
    ended = torch.nn.functional.pad(done.T.long().cumsum(1), (1, 0))
    now = ended[:, :-1]
    before = torch.nn.functional.pad(torch.where(done.T, rows, 0), (1, 0)).cummax(1).values[:, :-1]
    begins = valid.T & (rows - before == 1) & ((now > 0) | (memory.held == 0)[:, None])
    remembered = torch.arange(most, device=now.device) < memory.held[:, None]
    present = torch.stack([begins, valid.T], 2).flatten(1)
    pairs = torch.stack([obs, next_obs], 2).permute(1, 0, 2, 3).flatten(1, 2)
    episode = torch.where(present, now.repeat_interleave(2, 1), -1)
    episode = torch.cat([torch.where(remembered, 0, -1), episode], 1)
    return _Timeline(torch.cat([memory.features, pairs], 1), episode, (episode >= 0).long().cumsum(1), ended)


def _nearest(line: _Timeline, states: Tensor, similarity: EpisodicSimilarity) -> Tensor:
    """Squared distances ``(N, T, k)`` of states to their nearest, infinite where there are fewer.

    A product of matrices finds them, and their differences measure them: a difference of squares would lose
    small distances to rounding.
    """
    n_envs, steps, _ = states.shape
    length = line.features.shape[1]
    centred = line.features - line.features.mean(1, keepdim=True)
    squares = centred.square().sum(2)
    own = line.rank[:, length - 2 * steps + 1 :: 2]
    index = torch.arange(n_envs, device=states.device)[:, None, None]
    found = []
    for rows in torch.arange(steps, device="cpu").split(max(1, _CHUNK // max(1, n_envs * length))):
        at = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0)
        age = own[:, at, None] - line.rank[:, None]
        seen = (age > 0) & (age <= similarity.capacity)
        seen &= line.episode[:, None] == line.now[:, at, None]
        here = centred[:, length - 2 * steps + 1 :: 2][:, at]
        apart = torch.baddbmm(squares[:, None], here, centred.mT, alpha=-2).masked_fill(~seen, torch.inf)
        values, which = apart.topk(min(similarity.neighbours, length), dim=2, largest=False)
        exact = (line.features[index, which] - states[:, at, None]).square().sum(3)
        found.append(torch.where(values.isfinite(), exact, torch.inf))
    return torch.cat(found, 1)


def _latest_episode(line: _Timeline, capacity: int) -> tuple[Tensor, Tensor]:
    """The last states of the episode under way, the oldest first, and how many there are."""
    kept = (line.episode == line.now[:, -1:]) & (line.rank > line.rank[:, -1:] - capacity)
    held = kept.sum(1)
    longest = int(held.max()) if len(held) else 0
    features = line.features.new_zeros(len(held), longest, line.features.shape[2])
    features[kept.nonzero()[:, 0], kept.long().cumsum(1)[kept] - 1] = line.features[kept]
    return features, held
