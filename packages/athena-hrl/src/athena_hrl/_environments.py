"""The names by which Gymnasium makes these environments."""

from __future__ import annotations

from athena_core.environments import register_rules

_ROWS = (  # name, file, steps until an episode is truncated, None where the environment's own options say
    ("BitFlip", "_bit_flip", None),
    ("FourRooms", "_four_rooms", 1000),
    ("ParrRussellMaze", "_parr_russell_maze", 10_000),
    ("PointMaze", "_point_maze", 200),
)


def register_environments() -> None:
    """Let ``gymnasium.make`` and ``make_vec`` know `BitFlip`, `FourRooms`, `ParrRussellMaze` and `PointMaze`.

    Importing `athena_hrl.environments` does so too, and so does naming it in the id:
    ``"athena_hrl.environments:athena/FourRooms-v0"``. Since 1.0 Gymnasium loads no plugins by itself.

    >>> import gymnasium as gym
    >>> register_environments()
    >>> gym.make_vec("athena/FourRooms-v0", 100, goal=None).single_observation_space
    Discrete(104)
    """
    register_rules("athena_hrl", _ROWS)
