"""One round of Go-Explore in a Gymnasium environment: first return, then explore."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from athena_explore._go_explore import GoExploreArchive, GoExploreCell


class Snapshots(NamedTuple):
    """How an environment's state is taken and put back: ``save(env)`` and ``restore(env, snapshot)``.

    Wrappers that count something, such as a time limit, start anew unless these take and put back that too.

    >>> def restore(env, snapshot):
    ...     env.unwrapped.s = snapshot
    >>> archive, snapshots = GoExploreArchive(int), Snapshots(lambda env: env.unwrapped.s, restore)
    >>> env = gym.make("CliffWalking-v1")
    >>> for _ in range(5):
    ...     _ = return_then_explore(env, archive, steps=20, snapshots=snapshots)
    >>> archive.steps <= 5 * 20
    True
    """

    save: Callable[[gym.Env], Any]
    restore: Callable[[gym.Env, Any], object]


def return_then_explore(
    env: gym.Env,
    archive: GoExploreArchive,
    *,
    steps: int = 100,
    repeat: float = 0.95,
    snapshots: Snapshots | None = None,
) -> int:
    """Go back to a cell of the archive and take random actions from there; how many cells became better.

    The environment must be deterministic after ``reset(seed=archive.seed)``: the way back is the cell's own
    actions again, unless ``snapshots`` put its state back. An archive without cells starts with the
    environment's first observation. ``archive.steps`` counts steps, those of returning too.

    Args:
        steps: to explore for, or until the episode ends.
        repeat: the chance to take the same action again.

    Raises ValueError if ``steps`` is below 1 or ``repeat`` outside [0, 1], RuntimeError if the actions led
    elsewhere.

    Source: Ecoffet et al. 2021, arXiv:2004.12919, methods. Departs from it: no.

    >>> archive = GoExploreArchive(int)
    >>> env = gym.make("CliffWalking-v1")
    >>> for _ in range(50):
    ...     _ = return_then_explore(env, archive, steps=20)
    >>> len(archive.cells) > 30
    True
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {steps}.")
    if not 0 <= repeat <= 1:
        raise ValueError(f"`repeat` must lie in [0, 1]; got {repeat}. Take 0.95.")
    save = snapshots.save if snapshots is not None else lambda _: None
    if not archive.cells:
        observation, _ = env.reset(seed=archive.seed)
        archive.add(observation, actions=[], episode_return=0.0, snapshot=save(env))
    cell = archive.select()
    _return(env, archive, cell, snapshots)
    space = copy.deepcopy(env.action_space)
    space.seed(int(archive.generator.integers(2**31)))
    actions, total, action, better = [*cell.actions], cell.episode_return, None, 0
    for _ in range(steps):
        if action is None or archive.generator.random() >= repeat:
            action = space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        archive.steps += 1
        actions.append(np.asarray(action).tolist())
        total += float(reward)
        ended = terminated or truncated
        snapshot = None if ended else save(env)
        better += archive.add(
            observation, actions=actions, episode_return=total, ended=ended, snapshot=snapshot
        )
        if ended:
            break
    return better


def _return(
    env: gym.Env, archive: GoExploreArchive, cell: GoExploreCell, snapshots: Snapshots | None
) -> None:
    observation, _ = env.reset(seed=archive.seed)
    if snapshots is not None:
        snapshots.restore(env, cell.snapshot)
        return
    ended = False
    for action in cell.actions:
        observation, _, terminated, truncated, _ = env.step(_as_action(env.action_space, action))
        archive.steps += 1
        ended = terminated or truncated
    if ended or archive.cells.get((archive.key(observation), False)) is not cell:
        raise RuntimeError(
            f"the {len(cell.actions)} actions of a cell must lead back to it; they led elsewhere. Use an "
            "environment that is deterministic after `reset(seed=...)`, or `snapshots`."
        )


def _as_action(space: gym.Space, action: Any) -> Any:
    return np.asarray(action, dtype=space.dtype) if space.shape else int(action)
