"""Regression tasks: a family of functions, of which each task shows a few noisy points."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_meta import _counter as counter
from athena_meta._episode_source import EpisodeSource
from athena_meta._episodes import Episodes
from athena_meta._whole import whole

Parameters = dict[str, Tensor]

# Streams of one task: what each child of its key is for.
_PARAMETERS, _SUPPORT, _QUERY, _SUPPORT_NOISE, _QUERY_NOISE = range(5)


class RegressionTasks(EpisodeSource):
    r"""Numbered tasks :math:`y = f(x; \theta_i) + \varepsilon`, with :math:`\theta_i` drawn for each task.

    Task :math:`i` follows from the seed and :math:`i`: its parameters do not change with the shots, and its
    first points are the same with more of them.

    Two errors need no learning and so are floors for what does: :attr:`zero_error`, of predicting 0, and
    :attr:`unadapted_error`, of the best predictor that sees no task, :meth:`unadapted`. A lower expected
    error before adaptation means that something of the task has leaked.

    Args:
        k_shot: points to adapt to.
        n_query: points to be judged by.
        seed: of the tasks; give training and test different ones.
        noise: the standard deviation of :math:`\varepsilon`, normal, on both.
        dtype: of inputs and targets.

    Raises ValueError for no points or negative noise.

    >>> from athena_meta import Lines
    >>> tasks = Lines(k_shot=5, n_query=5, seed=0, dtype=torch.float64)
    >>> episodes = tasks.draw(3, 2)
    >>> torch.equal(tasks.target(episodes.query_x, tasks.parameters(3, 2)), episodes.query_y)
    True
    """

    classification = False

    def __init__(
        self,
        *,
        k_shot: int = 10,
        n_query: int = 10,
        seed: int = 0,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for parameter, given in (("k_shot", k_shot), ("n_query", n_query)):
            if whole(parameter, given) < 1:
                raise ValueError(f"`{parameter}` must be at least 1; got {given}. Give points a task.")
        if not 0 <= noise < np.inf:
            raise ValueError(f"`noise` must be a standard deviation, 0 or above; got {noise}.")
        self.k_shot, self.n_query, self.seed, self.noise, self.dtype = k_shot, n_query, seed, noise, dtype

    @abstractmethod
    def _make_parameters(self, key: counter.Words) -> dict[str, NDArray[np.float64]]:
        """Parameters of the task of each key, ``(tasks,)``."""

    def _inputs(self, key: counter.Words, parameters: Parameters, count: int) -> NDArray[np.float64]:  # noqa: ARG002
        """Inputs ``(tasks, count)``, of U[-5, 5] unless a family says other."""
        return 10 * counter.uniform(key, count) - 5

    @abstractmethod
    def target(self, x: Tensor, parameters: Parameters) -> Tensor:
        """The function of each task without noise: ``(tasks, n, 1) -> (tasks, n, 1)``."""

    @abstractmethod
    def unadapted(self, x: Tensor) -> Tensor:
        r"""The best predictor that sees no task, :math:`E_\theta f(x; \theta)`, of any shape."""

    @property
    @abstractmethod
    def zero_error(self) -> float:
        """The expected squared error of predicting 0."""

    @property
    @abstractmethod
    def unadapted_error(self) -> float:
        """The expected squared error of :meth:`unadapted`."""

    def parameters(self, first: int, count: int) -> Parameters:
        """The parameters by name of the tasks ``first`` to ``first + count - 1``: ``(count,)`` each."""
        if first < 0 or count < 0:
            raise ValueError(f"`first` and `count` must not be negative; got {first} and {count}.")
        key = counter.keys(counter.episode_keys(self.seed, first, count), _PARAMETERS)
        return {name: torch.from_numpy(values) for name, values in self._make_parameters(key).items()}

    def draw(self, first: int, count: int) -> Episodes:
        """The tasks ``first`` to ``first + count - 1``: ``x`` and ``y`` are ``(count, n, 1)``."""
        parameters = self.parameters(first, count)
        key = counter.episode_keys(self.seed, first, count)
        support = self._points(key, parameters, self.k_shot, (_SUPPORT, _SUPPORT_NOISE))
        query = self._points(key, parameters, self.n_query, (_QUERY, _QUERY_NOISE))
        return Episodes(*support, *query)

    def _points(
        self, key: counter.Words, parameters: Parameters, count: int, streams: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self._inputs(counter.keys(key, streams[0]), parameters, count)).unsqueeze(2)
        y = self.target(x, parameters)
        if self.noise:
            noise = counter.normal(counter.keys(key, streams[1]), count)
            y = y + self.noise * torch.from_numpy(noise).unsqueeze(2)
        return x.to(self.dtype), y.to(self.dtype)
