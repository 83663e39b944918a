"""Loaders of several tasks, each begun anew where it ends, and gone on with where it was left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_END = object()


class RestartedLoaders:
    """The next batch of any task, without end.

    A state holds how often each loader was begun, how many batches were taken since, and the states of
    torch's generators as it began; to go on, the epoch is begun from these and as many batches are passed
    over. This gives the same batches if a loader depends on nothing else, as a ``DataLoader`` with or without
    shuffling, and with a sampler that has ``set_epoch``.

    Args:
        loaders: what gives batches, by the task's name; anything that can be iterated over more than once.

    Raises ValueError for no loader, two that draw from one generator, in use for one without a batch, and
    in states for one whose workers persist.

    >>> loaders = RestartedLoaders({"a": [1, 2], "b": [7]})
    >>> [loaders.take(name) for name in "aabba"]
    [1, 2, 7, 7, 1]
    """

    def __init__(self, loaders: Mapping[str, Iterable[Any]]) -> None:
        if not loaders:
            raise ValueError("`loaders` must hold one for each task; got none. Give one by its name.")
        self._loaders = {name: _RestartedLoader(loader, name) for name, loader in loaders.items()}
        owners: dict[torch.Generator, str] = {}
        for name, loader in self._loaders.items():
            for generator in loader.generators:
                if generator in owners:
                    raise ValueError(
                        f"`loaders` must each have a generator of its own; got one for {owners[generator]!r} "
                        f"and {name!r}. Give each its `torch.Generator()`."
                    )
                owners[generator] = name

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self._loaders)

    def take(self, name: str) -> Any:
        """The next batch of a task."""
        return self._loaders[name].take()

    def state_dict(self) -> dict[str, Any]:
        """Where each loader is."""
        return {name: loader.state_dict() for name, loader in self._loaders.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where they were; raises ValueError for a state of other tasks, or of more batches."""
        if set(state) != set(self._loaders):
            raise ValueError(
                f"the checkpoint must be of the tasks {list(self._loaders)}; got {list(state)}. "
                "Give loaders of these."
            )
        for name, loader in self._loaders.items():
            loader.load_state_dict(state[name])


class _RestartedLoader:
    def __init__(self, loader: Iterable[Any], name: str) -> None:
        self.loader, self.name = loader, name
        parts = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
        self._parts = [*parts, getattr(parts[2], "sampler", None)]
        found = [getattr(part, "generator", None) for part in self._parts]
        self.generators = list(dict.fromkeys(each for each in found if isinstance(each, torch.Generator)))
        self.epochs, self.position = 0, 0  # epochs begun, batches taken of the last
        self._began: list[Tensor] = []
        self._iterator: Iterator[Any] = iter(())

    def take(self) -> Any:
        batch = next(self._iterator, _END)
        if batch is _END:
            self._began = self._random_states()
            self.epochs, self.position = self.epochs + 1, 0
            self._begin()
            batch = next(self._iterator, _END)
            if batch is _END:
                raise ValueError(
                    f"`loaders[{self.name!r}]` must give a batch each time it is begun; got none in epoch "
                    f"{self.epochs}. Give a `DataLoader`, not a generator, or without `drop_last`."
                )
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        self._check_workers()
        began = [state.clone() for state in self._began] if self.epochs else self._random_states()
        return {"epochs": self.epochs, "position": self.position, "began": began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_workers()
        if len(state["began"]) != 1 + len(self.generators):
            raise ValueError(
                f"`loaders[{self.name!r}]` must have as many generators as the checkpoint's, "
                f"{len(state['began']) - 1}; got {len(self.generators)}. Make the loader as it was."
            )
        self.epochs, self.position = state["epochs"], state["position"]
        self._began = [began.cpu() for began in state["began"]]
        self._iterator = iter(())
        for generator, began in zip(self.generators, self._began[1:], strict=True):
            generator.set_state(began)
        if self.epochs == 0:
            return
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._began[0])
            self._begin()
            for place in range(self.position):
                if next(self._iterator, _END) is _END:
                    raise ValueError(
                        f"`loaders[{self.name!r}]` must give the {self.position} batches of the checkpoint; "
                        f"got {place}. Give a loader of the same data and batch size."
                    )

    def _random_states(self) -> list[Tensor]:
        # Shuffling without a generator takes its seed from torch's own.
        return [torch.get_rng_state(), *(each.get_state() for each in self.generators)]

    def _check_workers(self) -> None:
        if getattr(self.loader, "persistent_workers", False):
            # They draw on from epoch to epoch, out of reach; and seed themselves in their first one alone.
            raise ValueError(
                f"`loaders[{self.name!r}]` must begin workers anew in each epoch to go on after a break; got "
                "`persistent_workers=True`. Leave it out."
            )

    def _begin(self) -> None:
        for part in dict.fromkeys(map(_epoch_setter, self._parts)):
            if part is not None:
                part(self.epochs - 1)
        self._iterator = iter(self.loader)


def _epoch_setter(part: Any) -> Any:
    return getattr(part, "set_epoch", None)
