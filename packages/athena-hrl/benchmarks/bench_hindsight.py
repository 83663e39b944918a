"""Hindsight replay beside Stable-Baselines3's: the time of sampling a batch, and of adding a step.

The task is to flip bits: 30 of them, episodes of 30 steps. Both buffers hold as many finished episodes, and
relabel four transitions of five by goals of the future. The bars: sampling four times as fast with batches of
256, five times with 1,024, adding twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import Env, spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from athena_core.testing.bench import medians, parser, row, run
from athena_hrl.sb3 import HindsightReplayBuffer

BITS, ENVIRONMENTS = 30, 4
ROOM = 10_000, 100_000, 1_000_000  # transitions

Step = tuple[dict[str, NDArray[np.int8]], dict[str, NDArray[np.int8]], Any, Any, Any, list[dict[str, Any]]]


class Bits(Env[Any, Any]):
    """The rewards of flipping bits; it is never played."""

    def __init__(self) -> None:
        bits = spaces.MultiBinary(BITS)
        self.observation_space = spaces.Dict(
            {"observation": bits, "achieved_goal": bits, "desired_goal": bits}
        )
        self.action_space = spaces.Discrete(BITS)

    def compute_reward(self, achieved: NDArray[Any], desired: NDArray[Any], info: Any) -> NDArray[Any]:
        return -(achieved != desired).any(axis=-1).astype(np.float32)


def steps(count: int) -> list[Step]:
    """Steps of environments that flip bits at random, in the form in which algorithms give them."""
    draw = np.random.default_rng(0)
    state, goal = draw.integers(0, 2, (2, ENVIRONMENTS, BITS), dtype=np.int8)
    made: list[Step] = []
    for t in range(count):
        action = draw.integers(0, BITS, (ENVIRONMENTS, 1))
        after = state.copy()
        np.put_along_axis(after, action, 1 - np.take_along_axis(state, action, 1), 1)
        done = np.full(ENVIRONMENTS, t % BITS == BITS - 1)
        before, then = ({"observation": s, "achieved_goal": s, "desired_goal": goal} for s in (state, after))
        infos = [{"TimeLimit.truncated": bool(one)} for one in done]
        made.append((before, then, action[:, 0], -np.ones(ENVIRONMENTS, np.float32), done, infos))
        state = after if not done[0] else draw.integers(0, 2, (ENVIRONMENTS, BITS), dtype=np.int8)
    return made


def filled(kind: type[HerReplayBuffer], room: int, given: list[Step]) -> HerReplayBuffer:
    """A buffer that is full of these steps, over and over."""
    env = DummyVecEnv([Bits] * ENVIRONMENTS)
    buffer = kind(room, Bits().observation_space, Bits().action_space, env, "cpu", ENVIRONMENTS)  # pyright: ignore[reportArgumentType]
    for t in range(room // ENVIRONMENTS):
        buffer.add(*given[t % len(given)])
    return buffer


def timed(function: Callable[[], object], calls: int) -> Callable[[], float]:
    """A measure of microseconds a call, of the processor's time, which others may share."""

    def measure() -> float:
        start = time.process_time()
        for _ in range(calls):
            function()
        return (time.process_time() - start) * 1e6 / calls

    return measure


def adding(buffer: HerReplayBuffer, given: list[Step]) -> Callable[[], None]:
    """Whole episodes, one step after the other."""

    def add() -> None:
        for step in given[: 10 * BITS]:
            buffer.add(*step)

    return add


def rows(*, repeats: int, calls: int) -> Iterator[dict[str, Any]]:
    """Sampling from buffers of three sizes, and adding to them."""
    given = steps(100 * BITS)
    for room in ROOM:
        ours, theirs = (filled(kind, room, given) for kind in (HindsightReplayBuffer, HerReplayBuffer))
        for batch, bar in ((256, 4), (1024, 5)):
            mine, peer = medians(
                repeats,
                timed(partial(ours.sample, batch), calls),
                timed(partial(theirs.sample, batch), calls),
            )
            yield row(f"sample {batch:,} of {room:,}", ours=mine, peers={"SB3": peer}, unit="us", bar=bar)
        mine, peer = (
            each / (10 * BITS)
            for each in medians(repeats, *(timed(adding(one, given), 3) for one in (ours, theirs)))
        )
        yield row(f"add 4 to {room:,}", ours=mine, peers={"SB3": peer}, unit="us", bar=2)


if __name__ == "__main__":
    torch.manual_seed(0)
    options = parser(__doc__, repeats=31)
    options.add_argument("--calls", type=int, default=50, metavar="N")
    run(options, rows)
