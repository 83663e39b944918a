"""The ids by which Gymnasium makes a package's environments."""

from __future__ import annotations

from collections.abc import Iterable


def register_rules(package: str, rows: Iterable[tuple[str, str, int | None]]) -> None:
    """Let ``gymnasium.make`` and ``make_vec`` know environments as ``athena/NAME-v0``, unless they do.

    A file of rules ``NAME`` has a `NumpyEnv` called ``NAMEEnv`` and a `NumpyVectorEnv` ``NAMEVectorEnv``. It
    is imported when one of them is made.

    Args:
        package: which the files lie in.
        rows: the name of the rules, their file, and the steps after which ``make`` truncates an episode, None
            where it does not.

    >>> import gymnasium as gym
    >>> register_rules("my_maze", [("Maze", "_maze", 100)])
    >>> gym.spec("athena/Maze-v0").entry_point
    'my_maze._maze:MazeEnv'
    >>> gym.registry.pop("athena/Maze-v0").max_episode_steps
    100
    """
    import gymnasium as gym

    for name, file, time_limit in rows:
        environment_id, target = f"athena/{name}-v0", f"{package}.{file}:{name}"
        if environment_id not in gym.registry:
            gym.register(
                environment_id,
                f"{target}Env",
                vector_entry_point=f"{target}VectorEnv",
                max_episode_steps=time_limit,
            )
