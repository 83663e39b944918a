"""The parts of an option, asked about one observation or a batch of any space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

#: a function of one observation, an array over Discrete states, or a network of a batch of observations
Part = Callable[[Any], Any] | NDArray[Any] | Tensor | nn.Module


def spaces_of(env: Any) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Spaces of one observation and one action, of a single or a vector environment.

    >>> spaces_of(gym.make_vec("CartPole-v1", 3))[1]
    Discrete(2)
    """
    if isinstance(env, gym.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space


def evaluated(part: Part, observation: Any) -> Any:
    """What a part of an option says of one observation: a number, bool or array.

    >>> int(evaluated(np.array([5, 7]), 1)), evaluated(lambda place: place > 3, 4)
    (7, True)
    """
    if isinstance(part, np.ndarray):
        return part[observation]
    if isinstance(part, nn.Module):
        batch = map_leaves(lambda leaf: np.asarray(leaf)[None], observation)
        return evaluated_rows(part, batch)[0]
    assert not isinstance(part, Tensor)  # `Option` makes an array of it
    return _asked(part, observation)


def evaluated_rows(part: Part, observations: Any) -> NDArray[Any]:
    """What a part says of a batch of observations, one row each.

    >>> evaluated_rows(lambda place: place > 3, np.array([3, 4]))
    array([False,  True])
    """
    if isinstance(part, np.ndarray):
        return part[observations]
    if isinstance(part, nn.Module):
        return _of_network(part, observations)
    assert not isinstance(part, Tensor)
    rows = range(count_rows(observations))
    return np.array([_asked(part, row_of(observations, row)) for row in rows])


def _asked(part: Callable[[Any], Any], observation: Any) -> Any:
    found = part(observation)
    if found is None:
        name = getattr(part, "__name__", repr(part))
        raise ValueError(f"a function of an option, {name!r}, must return a value; got None. Add `return`.")
    return found


def row_of(observations: Any, row: Any) -> Any:
    """One observation of a batch, or those of an array of rows, in the structure of their space.

    >>> row_of({"place": np.array([4, 5])}, 1)
    {'place': np.int64(5)}
    """
    if isinstance(observations, np.ndarray):
        return observations[row]
    return map_leaves(lambda leaf: leaf[row], observations)


def _of_network(network: nn.Module, observations: Any) -> NDArray[Any]:
    weight = next(network.parameters(), torch.zeros(()))

    def tensor(leaf: Any) -> Tensor:
        made = torch.as_tensor(leaf)
        return made.to(weight.device, weight.dtype if made.is_floating_point() else made.dtype)

    with torch.no_grad():
        return network(map_leaves(tensor, observations)).cpu().numpy()


def map_leaves(function: Callable[[Any], Any], observations: Any) -> Any:
    """A function of each array in observations of any space.

    >>> map_leaves(len, {"place": np.zeros(3), "goal": np.zeros(2)})
    {'place': 3, 'goal': 2}
    """
    if isinstance(observations, dict):
        return {key: map_leaves(function, value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(map_leaves(function, value) for value in observations)
    return function(observations)


def count_rows(observations: Any) -> int:
    """The number of observations in a batch.

    >>> count_rows({"place": np.zeros(3)})
    3
    """
    while isinstance(observations, dict | tuple):
        parts = observations.values() if isinstance(observations, dict) else observations
        observations = next(iter(parts))
    return len(observations)
