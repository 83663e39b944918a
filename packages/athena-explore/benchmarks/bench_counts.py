"""Bonuses that count: states a second of score and update, in rollouts of 128 steps of 8 environments.

Times are those of one million transitions. The bar of exact counts is one million a second; the peer is a
dictionary of bytes in a Python loop. Bytes are those a distinct state takes, beside the documented 64. The
other bonuses, which do more, stand beside exact counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_explore import RE3, Bonus, Counts, LearnedHash, PseudoCounts, SimHash, Transition

STEPS, ENVIRONMENTS = 128, 8
ACTIONS = spaces.Discrete(4)
GRID = spaces.Box(0, 255, (7, 7, 3), "uint8")  # a view of MiniGrid's
VECTOR = spaces.Box(-1, 1, (4,))
IMAGES = spaces.Box(0, 255, (84, 84, 4), "uint8")
FEW, MANY = 1000, 10**9  # states


def drawn(space: Space, states: int, *, seed: int) -> Transition:
    """A rollout whose states are drawn from so many."""
    numbers = torch.randint(states, (STEPS, ENVIRONMENTS), generator=torch.Generator().manual_seed(seed))
    shape = (STEPS, ENVIRONMENTS, *(1 for _ in space.shape or ()))
    if space is VECTOR:
        obs = (numbers.view(shape) * torch.tensor([1.0, 0.7, 0.3, 0.1])).sin()
    elif isinstance(space, spaces.Discrete):
        obs = numbers % int(space.n)
    else:
        digits = numbers.view(shape) // 256 ** (torch.arange(space.shape[1])[:, None] % 4) % 256
        obs = digits.expand(STEPS, ENVIRONMENTS, *space.shape).to(torch.uint8).contiguous()
    ends = torch.zeros(STEPS, ENVIRONMENTS, dtype=torch.bool)
    return Transition(obs, numbers % 4, obs, ends, ends)


def in_a_dictionary(rollouts: list[Transition]) -> None:
    """The plain way: bytes of one state after the other."""
    visits: dict[bytes, int] = {}
    for rollout in rollouts:
        states: np.ndarray = rollout.next_obs.flatten(0, 1).numpy()
        rewards = np.empty(len(states), np.float32)
        for i, state in enumerate(states):
            key = state.tobytes()
            visits[key] = visits.get(key, 0) + 1
            rewards[i] = visits[key] ** -0.5


def score_and_update(bonus: Bonus, rollouts: list[Transition]) -> Tensor:
    """Rewards of all rollouts, each made known before the next."""
    rewards = []
    for rollout in rollouts:
        rewards.append(bonus.score(rollout))
        bonus.update(rollout)
    return torch.cat(rewards)


def timed(function: Callable[[list[Transition]], object], rollouts: list[Transition]) -> Callable[[], float]:
    """A measure of the seconds for a million transitions, from those of these rollouts."""
    count = len(rollouts) * STEPS * ENVIRONMENTS
    return lambda: seconds(lambda: function(rollouts)) * 1e6 / count


def afresh(make: Callable[..., Bonus], space: Space) -> Callable[[list[Transition]], Tensor]:
    """Score and update of a new bonus."""
    return lambda rollouts: score_and_update(make(space, ACTIONS), rollouts)


def rows(*, repeats: int, rollouts: int) -> Iterator[dict[str, Any]]:
    """Exact counts of three kinds of states; then each other bonus beside them."""
    unit = "s per million"
    for name, space in {"discrete": spaces.Discrete(10**9), "vectors": VECTOR, "7x7x3": GRID}.items():
        for many, states in {"few": FEW, "many": MANY}.items():
            given = [drawn(space, states, seed=seed) for seed in range(rollouts)]
            ours, plain = medians(repeats, timed(afresh(Counts, space), given), timed(in_a_dictionary, given))
            peers = {"bar": 1.0, "dictionary": plain}
            yield row(f"counts, {name}, {many} states", ours=ours, peers=peers, unit=unit)
    bonus = Counts(VECTOR, ACTIONS)
    score_and_update(bonus, [drawn(VECTOR, MANY, seed=seed) for seed in range(rollouts)])
    held = 16 * bonus.table.slots / len(bonus.table)
    yield row("memory, vectors, many states", ours=held, peers={"bar": 64.0}, unit="bytes per state")
    for make in (SimHash, LearnedHash, PseudoCounts, RE3):
        for name, space in {"vectors": VECTOR, "84x84x4": IMAGES}.items():
            given = [drawn(space, FEW, seed=seed) for seed in range(1 if space is IMAGES else rollouts // 10)]
            measures = [timed(afresh(kind, space), given) for kind in (make, Counts)]
            ours, exact = medians(max(1, repeats // 3), *measures)
            yield row(f"{make.__name__}, {name}", ours=ours, peers={"exact counts": exact}, unit=unit)


if __name__ == "__main__":
    options = parser(__doc__, repeats=9)
    options.add_argument("--rollouts", type=int, default=100, metavar="N")
    run(options, rows)
