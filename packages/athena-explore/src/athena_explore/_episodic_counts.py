"""How often each state was visited within its episode."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from athena_explore._count_table import CountTable, Found, occurrences
from athena_explore._memory import Memory
from athena_explore._state_keys import mix

_OWNER_MIX = -4417276706812531889  # 0xC2B2AE3D27D4EB4F, of xxHash


class CountedEpisodes(NamedTuple):
    """What `EpisodicCounts` become by some visits."""

    keys: Tensor
    amounts: Tensor
    owners: Tensor
    found: Found
    episodes: Tensor


class EpisodicCounts(nn.Module):
    """Visits of states within the episode under way, in each of ``N`` environments.

    The count of a row has its own visit in it. An episode ends where a row is done, after that row was
    counted. Rows that are not valid enter nothing; their count is 1. The state that an episode starts from is
    counted only if it is visited again.

    Memory: 48 to 144 bytes for each distinct state of the episodes under way, at their longest.

    Shape: keys (of `StateKeys`), ``done`` and ``valid`` are ``(T, N)``, and so are the counts, in int64.

    Source: the episodic count of Raileanu and Rocktaschel 2020, arXiv:2002.12292, section 4. Departs from it:
    keys of two episodes meet by a chance of :math:`2^{-64}`.

    >>> counts = EpisodicCounts()
    >>> keys, done = torch.tensor([[4], [4], [4]]), torch.tensor([[False], [True], [False]])
    >>> visits, after = counts(keys, done, torch.ones_like(done))
    >>> visits.flatten().tolist()
    [1, 2, 1]
    >>> counts.commit(after)
    >>> counts(keys, done, torch.ones_like(done))[0].flatten().tolist()
    [2, 3, 1]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = CountTable(live=self._live)
        self.memory = Memory()

    def forward(self, keys: Tensor, done: Tensor, valid: Tensor) -> tuple[Tensor, CountedEpisodes]:
        """The counts of these visits, and what `commit` keeps; changes nothing."""
        n_envs = keys.shape[1]
        episodes = self.memory.get("episodes")  # a number for each environment's, never used twice
        episodes = torch.arange(n_envs, device=keys.device) if episodes is None else episodes
        ended = (done & valid).long().cumsum(0)
        before = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
        owners = (episodes + n_envs * before)[valid]
        episodes = episodes + n_envs * ended[-1] if len(keys) else episodes
        owned = mix(keys[valid] + mix(owners, _OWNER_MIX), _OWNER_MIX)
        nth, last = occurrences(owned)
        found = self.table.find(owned)
        counts = torch.ones_like(keys).masked_scatter(valid, nth + found.counts)
        # Once its episode ended a state is found no more: it need not enter.
        kept = (last & (owners == episodes[owners % n_envs])).nonzero()[:, 0]
        return counts, CountedEpisodes(owned[kept], nth[kept], owners[kept], found[kept], episodes)

    def commit(self, after: CountedEpisodes) -> None:
        """Become what ``forward`` said."""
        self.memory["episodes"] = after.episodes
        self.table.add(after.keys, after.amounts, labels=after.owners, found=after.found)

    def clear(self) -> None:
        """Forget the episodes under way, and how many environments there were."""
        self.table.clear()
        self.memory.clear()

    def _live(self, owners: Tensor) -> Tensor:
        episodes = self.memory["episodes"]
        return owners == episodes[owners % len(episodes)]
