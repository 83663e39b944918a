"""Multi-task SAC: steps of an environment a second on MT10, beside Stable-Baselines3's SAC.

Both play the same environments, with as many updates of the same batch and networks, from 256 units a layer.
Times are those of a thousand steps of an environment after the warm-up, ten environments together. The bar
is the time of Stable-Baselines3's SAC; balancers, which differentiate each task on its own, stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stable_baselines3 import SAC

from athena_core import create
from athena_core.environments.sb3 import GymnasiumVecEnv
from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_multitask import MetaWorld
from athena_multitask.sb3 import MultiTaskSAC

WARM_UP = 200
OPTIONS: dict[str, Any] = {"learning_starts": WARM_UP, "buffer_size": 100_000, "seed": 0, "device": "cpu"}
BATCH_SIZE = 260  # a multiple of ten tasks, of both


def learning(model: SAC, steps: int) -> Callable[[], float]:
    """A measure of the seconds for a thousand steps, the warm-up being over."""
    model.learn(2 * WARM_UP, log_interval=None)  # pyright: ignore[reportArgumentType]

    def go_on() -> None:
        model.learn(steps, reset_num_timesteps=False, log_interval=None)  # pyright: ignore[reportArgumentType]

    return lambda: seconds(go_on) * 1000 / steps


def ours(**options: Any) -> MultiTaskSAC:
    envs = MetaWorld("MT10", seed=0, n_goals=2)
    return MultiTaskSAC("MlpPolicy", envs, batch_size=BATCH_SIZE, **options, **OPTIONS)


def rows(*, repeats: int, steps: int) -> Iterator[dict[str, Any]]:
    """Shared and several heads; then balancers."""
    envs = GymnasiumVecEnv(MetaWorld("MT10", seed=0, n_goals=2))
    peer = learning(SAC("MlpPolicy", envs, batch_size=BATCH_SIZE, **OPTIONS), steps)
    unit = "s per 1000 steps"
    for heads in ("shared", "multi"):
        time, theirs = medians(repeats, learning(ours(heads=heads), steps), peer)
        yield row(f"{heads} heads", ours=time, peers={"SB3": theirs}, unit=unit)
    for name in ("pcgrad", "aligned-mtl"):
        balanced = ours(heads="multi", balancer=create("balancer", name))
        time, theirs = medians(max(1, repeats // 3), learning(balanced, steps), peer)
        yield row(f"multi heads, {name}", ours=time, peers={"SB3": theirs}, unit=unit)


if __name__ == "__main__":
    options = parser(__doc__, repeats=15)
    options.add_argument("--steps", type=int, default=200, metavar="N")
    run(options, rows)
