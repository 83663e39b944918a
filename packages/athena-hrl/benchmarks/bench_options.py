"""Options in four rooms, 8 rows: what carrying them out adds to a step of the environment.

The bar is a tenth of the environment's own time, for the same actions. It is for carrying options out: to
begin those that were chosen, to act, to end on arrival. The whole step of `OptionVectorEnv` also keeps
returns and discounts, and tells which options can start; it stands below, without a bar. Times are the
processor's, since machines are shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from athena_core.environments import NumpyVectorEnv
from athena_core.testing.bench import medians, parser, row, run
from athena_hrl import FourRooms, Options, OptionVectorEnv, hallway_options, primitives
from athena_hrl._option_rows import option_rows

ROWS = 8


class Noted(NumpyVectorEnv):
    """Four rooms that note the actions they are given."""

    def __init__(self) -> None:
        super().__init__(FourRooms(), ROWS, autoreset_mode="SameStep")
        self.noted: list[Any] = []

    def step(self, actions: Any) -> Any:
        self.noted.append(actions)
        return super().step(actions)


class Played:
    """So many steps of random options, and how to go through them again in three ways."""

    def __init__(self, steps: int, *, with_primitives: bool) -> None:
        self.own = NumpyVectorEnv(FourRooms(), ROWS, autoreset_mode="SameStep")
        options = hallway_options(self.own.dynamics)  # pyright: ignore[reportArgumentType]
        self.options = Options([*options, *primitives(self.own)] if with_primitives else options, self.own)
        self.over = OptionVectorEnv(
            NumpyVectorEnv(FourRooms(), ROWS, autoreset_mode="SameStep"), self.options
        )
        noted, random = Noted(), np.random.default_rng(0)
        env = OptionVectorEnv(noted, self.options)
        observation, info = env.reset(seed=0)
        self.choices, self.observations, self.durations = [], [observation], []
        for _ in range(steps):
            choices = (info["action_mask"] * random.random((ROWS, len(self.options)))).argmax(1)
            self.choices.append((choices, np.flatnonzero(info["needs_option"])))
            observation, _, _, _, info = env.step(choices)
            self.observations.append(observation)
            self.durations.extend(env.transitions().duration)
        self.actions = noted.noted

    def time(self, way: Callable[[], None]) -> Callable[[], float]:
        """Microseconds of the processor for a step."""

        def measured() -> float:
            start = time.process_time()
            way()
            return (time.process_time() - start) * 1e6 / len(self.actions)

        return measured

    def environment(self) -> None:
        self.own.reset(seed=0)
        for actions in self.actions:
            self.own.step(actions)

    def whole(self) -> None:
        self.over.reset(seed=0)
        for choices, _ in self.choices:
            self.over.step(choices)

    def carrying_out(self) -> None:
        rows = option_rows(self.options, ROWS)
        observation = self.observations[0]
        for (choices, needing), after in zip(self.choices, self.observations[1:], strict=True):
            if len(needing):
                rows.begin(needing, choices[needing], observation[needing])
            rows.act(observation, None)
            rows.arrive(after, None).nonzero()
            observation = after


def rows(*, repeats: int, steps: int) -> Iterator[dict[str, Any]]:
    """Hallway options alone, and with the four primitives among them."""
    for with_primitives in (False, True):
        played = Played(steps, with_primitives=with_primitives)
        ways = [played.time(way) for way in (played.carrying_out, played.environment, played.whole)]
        carrying, own, whole = medians(repeats, *ways)
        name = "hallways and primitives" if with_primitives else "hallways"
        also = {"own step": own, "mean duration": float(np.mean(played.durations))}
        yield row(f"{name}: carrying out", ours=carrying, peers={"bar": own / 10}, unit="us", **also)
        yield row(f"{name}: whole step, added", ours=whole - own, peers={"own step": own}, unit="us")


if __name__ == "__main__":
    options = parser(__doc__, repeats=9)
    options.add_argument("--steps", type=int, default=5000, metavar="N")
    run(options, rows)
