"""Mountain car whose only reward is at the goal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from athena_core.environments import (
    Advanced,
    Dynamics,
    NumpyEnv,
    NumpyVectorEnv,
    State,
    VisitMap,
    Words,
    draw,
)

_LEFT, _RIGHT, _GOAL, _SPEED = -1.2, 0.6, 0.5, 0.07
_FORCE, _GRAVITY = 0.001, 0.0025
_START = -0.6, -0.4
_SKY, _HILL, _FLAG, _CAR = (235, 240, 245), (90, 90, 90), (230, 180, 40), (200, 40, 40)
_HEIGHT, _WIDTH = 100, 150  # of a picture


class SparseMountainCar(Dynamics):
    r"""A car in a valley, too weak to drive straight up: reward 1 at the goal, 0 before.

    With actions 0, 1, 2 (left, nothing, right), the speed kept in :math:`[-0.07, 0.07]` and lost at the left
    wall, the position in :math:`[-1.2, 0.6]`:

    .. math:: v_{t+1} = v_t + 0.001 (a_t - 1) - 0.0025 \cos 3 x_t, \qquad x_{t+1} = x_t + v_{t+1}.

    An episode starts at rest at :math:`x \sim U[-0.6, -0.4)` and terminates where :math:`x \geq 0.5` and
    :math:`v \geq 0`. Observations are position and speed, float32. The limit of time is 200 steps.

    Source: Moore 1990, "Efficient Memory-based Learning for Robot Control", in the form of Gymnasium's
    MountainCar-v0, to the bit. Departs from it: the reward, which there is -1 a step.

    >>> from athena_core.environments import NumpyVectorEnv
    >>> env = NumpyVectorEnv(SparseMountainCar(), 2)
    >>> _ = env.reset(seed=0)
    >>> for _ in range(200):
    ...     _, reward, terminated, truncated, _ = env.step(np.array([0, 2]))
    >>> reward, terminated, truncated
    (array([0., 0.]), array([False, False]), array([ True,  True]))
    """

    time_limit = 200

    def __init__(self) -> None:
        corners = np.array([(_LEFT, -_SPEED), (_RIGHT, _SPEED)], dtype=np.float32)
        self.low, self.high = corners
        self.observation_space = spaces.Box(self.low, self.high, dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def start(self, random: Words) -> State:
        low, high = _START
        place, random = draw(random, 1)
        return {"random": random, "place": low + (high - low) * place[:, 0], "speed": np.zeros(len(random))}

    def advance(self, state: State, action: NDArray[np.int64]) -> Advanced:
        place = state["place"]
        # The C library's cosine, as Gymnasium's: NumPy's may differ in the last bit where it is vectorised.
        slope = np.fromiter(map(math.cos, (3 * place).tolist()), np.float64, len(place))
        speed = state["speed"] + ((action - 1) * _FORCE + slope * (-_GRAVITY))
        speed = np.clip(speed, -_SPEED, _SPEED)
        place = np.clip(place + speed, _LEFT, _RIGHT)
        speed[(place == _LEFT) & (speed < 0)] = 0
        terminated = (place >= _GOAL) & (speed >= 0)
        after = {"random": state["random"], "place": place, "speed": speed}
        return Advanced(after, terminated.astype(np.float64), terminated)

    def observe(self, state: State) -> NDArray[Any]:
        return np.stack((state["place"], state["speed"]), -1).astype(np.float32)

    def position(self, observation: Any) -> NDArray[np.float64]:
        return np.array(observation, dtype=np.float64)

    def visit_map(self) -> VisitMap:
        return VisitMap(self.low, self.high, [32, 32])

    def frames(self, state: State) -> NDArray[np.uint8]:
        picture = np.full((_HEIGHT, _WIDTH, 3), _SKY, dtype=np.uint8)
        columns = np.arange(_WIDTH)
        ground = _row(_LEFT + (columns + 0.5) / _WIDTH * (_RIGHT - _LEFT))
        picture[np.arange(_HEIGHT)[:, None] >= ground] = _HILL
        flag = _column(np.array([_GOAL]))[0]
        picture[ground[flag] - 12 : ground[flag], flag : flag + 2] = _FLAG
        pictures = np.tile(picture, (len(state["place"]), 1, 1, 1))
        for shown, column in zip(pictures, _column(state["place"]), strict=True):
            shown[ground[column] - 6 : ground[column], max(column - 5, 0) : column + 6] = _CAR
        return pictures


def _column(place: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((place - _LEFT) / (_RIGHT - _LEFT) * _WIDTH, _WIDTH - 1).astype(np.int64)


def _row(place: NDArray[np.float64]) -> NDArray[np.int64]:
    """The row of a picture at which the ground begins: its height is sin 3x."""
    return (_HEIGHT * (0.6 - 0.35 * np.sin(3 * place))).astype(np.int64)


class SparseMountainCarEnv(NumpyEnv):
    """One `SparseMountainCar`; what `gymnasium.make` builds."""

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(SparseMountainCar(), render_mode=render_mode)


class SparseMountainCarVectorEnv(NumpyVectorEnv):
    """Many of `SparseMountainCar`; what `gymnasium.make_vec` builds."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        super().__init__(SparseMountainCar(), num_envs, **options)
