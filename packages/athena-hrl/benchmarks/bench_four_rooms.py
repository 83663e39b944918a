"""Four rooms: the time of 100 runs of 2,000 episodes of option-critic side by side, whose bar is 3 minutes.

The goal moves after half of the episodes, as in the recipe. Beside it stand both baselines, and runs one
after another instead of side by side: some of them, scaled to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_hrl import FourRoomsRecipe
from athena_hrl._recipe_four_rooms import LEARNERS

BAR = 180.0  # seconds


def played(name: str, *, runs: int, episodes: int, seed: int = 0) -> Callable[[], float]:
    """A measure of the seconds that runs of a learner take."""
    recipe = FourRoomsRecipe(runs=runs, steps=episodes, move_at=episodes // 2)

    def measure() -> float:
        learner, goals = recipe.build(seed)[name], recipe.goals(seed)
        return seconds(lambda: recipe.play(learner, until=episodes, goals=goals))

    return measure


def rows(*, repeats: int, runs: int, episodes: int, alone: int) -> Iterator[dict[str, Any]]:
    """Option-critic against its bar and against runs alone; then the baselines."""
    (ours,) = medians(repeats, played("option_critic", runs=runs, episodes=episodes))
    one = [played("option_critic", runs=1, episodes=episodes, seed=seed)() for seed in range(alone)]
    peers = {"bar": BAR, "one by one": runs * sum(one) / alone}
    yield row(f"option-critic, {runs} runs x {episodes:,} episodes", ours=ours, peers=peers, unit="s")
    for name in ("sarsa", "actor_critic"):
        (ours,) = medians(1, played(name, runs=runs, episodes=episodes))
        yield row(
            f"{LEARNERS[name]}, {runs} runs x {episodes:,} episodes", ours=ours, peers={"bar": BAR}, unit="s"
        )


if __name__ == "__main__":
    options = parser(__doc__, repeats=1)
    options.add_argument("--runs", type=int, default=100, metavar="N")
    options.add_argument("--episodes", type=int, default=2_000, metavar="N")
    options.add_argument("--alone", type=int, default=2, metavar="N")
    run(options, rows)
