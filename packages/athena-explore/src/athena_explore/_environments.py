"""The names by which Gymnasium makes these environments."""

from __future__ import annotations

from athena_core.environments import register_rules

_ROWS = (  # name, file, steps until an episode is truncated
    ("DeepSea", "_deep_sea", None),
    ("NoisyTVMaze", "_noisy_tv_maze", 200),
    ("SparseMountainCar", "_sparse_mountain_car", 200),
)


def register_environments() -> None:
    """Let ``gymnasium.make`` and ``make_vec`` know `DeepSea`, `NoisyTVMaze` and `SparseMountainCar`.

    Importing `athena_explore.environments` does so too, and so does naming it in the id:
    ``"athena_explore.environments:athena/DeepSea-v0"``. Since 1.0 Gymnasium loads no plugins by itself.

    >>> import gymnasium as gym
    >>> register_environments()
    >>> env = gym.make_vec("athena/DeepSea-v0", 4, size=20)
    >>> env.observation_space.shape
    (4, 400)
    """
    register_rules("athena_explore", _ROWS)
