"""Calibration: what goes into each layer, observed on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._call import call, several
from athena_compress._named import build
from athena_compress._observer import Observer
from athena_compress._prepare import quantizable_copy
from athena_compress._scheme import QUANTIZABLE
from athena_compress._select import Patterns, select

Forward = Callable[[nn.Module, Any], Any]


class Calibrated(nn.Module):
    """A model and the observers of its layers' inputs; calling it observes more. What `calibrate` returns.

    ``model`` is the copy that was observed, batch norms folded; ``observers`` has an observer by the name of
    each layer that ran.

    >>> from athena_compress import Grid
    >>> calibrated = calibrate(nn.Linear(2, 1), [torch.tensor([[1.0, -3.0]])], observer="min-max")
    >>> _ = calibrated(torch.tensor([[5.0, 0.0]]))
    >>> calibrated.observers[""].qparams(Grid(signed=False, symmetric=False))[0] * 255
    tensor(8.)
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], observer: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self._layers = list(layers)
        self._every = nn.ModuleList(build("observer", observer, **options) for _ in layers)
        self._ran: set[str] = set()

    @property
    def observers(self) -> dict[str, Observer]:
        """The observer of each layer that ran, by the layer's name."""
        pairs = zip(self._layers, self._every, strict=True)
        return {name: observer for name, observer in pairs if name in self._ran}  # pyright: ignore[reportReturnType]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.observing():
            return self.model(*args, **kwargs)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """A context in which runs of ``model``, or of parts of it, are observed."""
        with ExitStack() as stack:
            for name, observer in zip(self._layers, self._every, strict=True):
                layer = self.model.get_submodule(name)
                observe = partial(self._observe, name, observer)
                handle = layer.register_forward_pre_hook(observe, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _observe(
        self, name: str, observer: nn.Module, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        x = next(iter([*args, *kwargs.values()]), None)
        if not isinstance(x, Tensor) or not x.numel():
            return  # as an expert that got no rows
        try:
            observer(x.detach())
        except ValueError as error:
            raise ValueError(f"calibration, input of layer `{name}`: {error}") from error
        self._ran.add(name)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    observer: str = "mse",
    include: Patterns = ("*",),
    skip: Patterns = (),
    fold: bool = True,
    forward: Forward | None = None,
    **options: Any,
) -> Calibrated:
    """Run data through a copy of a model, and observe what goes into each of its layers.

    Args:
        model: any module; it is left as it is.
        batches: its inputs: tensors, tuples of arguments or mappings of named ones.
        observer: what remembers a layer's inputs, a name of kind ``observer``; ``options`` are its own.
        include, skip: patterns of the names of layers, as in `select`.
        fold: whether batch norms are folded into the layers before them first, as they should be.
        forward: called with the copy and a batch, where batches are not the model's arguments alone:
            ``lambda model, batch: model(batch[0])`` for pairs of inputs and labels.

    The copy is in evaluation mode, and no gradients are kept. Returns what `quantize` takes in place of the
    model. Raises ValueError if there are no batches, for an input with NaN or infinity, with the name of the
    layer, and for a pattern that matches nothing.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> list(calibrate(model, [torch.randn(16, 4) for _ in range(4)]).observers)
    ['0', '2']
    """
    iterator = iter(several(batches))
    first = next(iterator, None)
    if first is None:
        raise ValueError(
            "`batches` must hold data to calibrate with; got no calibration data. An iterator serves once: "
            "pass a list or a DataLoader."
        )
    if isinstance(model, Calibrated):
        raise ValueError("`model` must be a plain one; got a Calibrated. Call that to observe more batches.")
    try:
        ready = quantizable_copy(model, first if forward is None else None, fold=fold)
    except TypeError as error:
        raise TypeError(
            f"`batches` must hold arguments of the model; calling it with the first one failed: {error}. "
            "Where they hold labels too, pass `forward=lambda model, batch: model(batch[0])`."
        ) from error
    layers = select(ready, tuple(QUANTIZABLE), include=include, skip=skip)
    watched = {name: layer for name, layer in layers.items() if not isinstance(layer, nn.Embedding)}
    calibrated = Calibrated(ready, watched, observer, **options).eval()
    with torch.no_grad(), calibrated.observing():
        for batch in chain([first], iterator):
            (forward or call)(calibrated.model, batch)
    return calibrated
