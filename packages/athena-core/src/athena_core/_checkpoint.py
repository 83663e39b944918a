"""Checkpoints: tensors and primitives, whole or absent, read back before they count."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from athena_core._errors import AthenaError
from athena_core._files import write_atomically

_PRIMITIVES = (type(None), bool, int, float, str, bytes)


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors and primitives, whole or not at all.

    Arrays become tensors and NumPy scalars Python's. The file is written beside ``path``, synced,
    read back with ``weights_only=True``, and only then renamed to ``path``.

    Raises TypeError, with the key path, for anything that could not be read back: an object, a
    path, a deque; and OSError if the disk is full.

    >>> import tempfile, numpy
    >>> path = Path(tempfile.mkdtemp()) / "state.pt"
    >>> save_checkpoint(path, {"weight": torch.ones(2), "loss": numpy.float64(0.5)})
    >>> load_checkpoint(path)
    {'weight': tensor([1., 1.]), 'loss': 0.5}
    >>> save_checkpoint(path, {"data": {"file": Path("a")}})
    Traceback (most recent call last):
    ...
    TypeError: `data.file` holds a PosixPath; a checkpoint takes tensors, arrays and primitives.
    """
    portable = _portable(state, "")
    try:
        write_atomically(Path(path), lambda file: torch.save(portable, file), check=load_checkpoint)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what the system said, before torch's own words
            raise error.__context__ from error
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is ever executed.

    Raises AthenaError if the file is absent, empty, cut short, or holds a pickled object.

    >>> load_checkpoint("absent.pt")
    Traceback (most recent call last):
    ...
    athena_core._errors.AthenaError: checkpoint absent.pt cannot be read: No such file or directory.
    """
    path = Path(path)
    if path.exists() and path.stat().st_size == 0:
        raise AthenaError(f"checkpoint {path} is empty.")
    try:
        with warnings.catch_warnings():  # torch advises on the pickle protocol of what it then refuses
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise AthenaError(f"checkpoint {path} cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:
        raise AthenaError(
            f"checkpoint {path} holds something other than tensors and primitives; refused, nothing of it "
            "was executed."
        ) from error
    except Exception as error:  # what damaged bytes raise in torch's readers has no common type
        raise AthenaError(f"checkpoint {path} is cut short or damaged.") from error


def _portable(value: Any, path: str) -> Any:
    """The value with arrays and NumPy scalars converted; TypeError, with its path, if it has no place."""
    if type(value) in _PRIMITIVES:
        return value
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return value.detach()
    if type(value) in (dict, OrderedDict):
        for key in value:
            if type(key) not in (str, int, float, bool):
                raise TypeError(f"`{path or 'state'}` has the key {key!r}; use strings or numbers.")
        return {key: _portable(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_portable(item, f"{path}.{index}") for index, item in enumerate(value))
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return _portable(value.item(), path)
    if type(value) is np.ndarray and value.dtype.kind in "biufc" and value.dtype != np.longdouble:
        native = value.dtype.newbyteorder("=")  # torch has no other
        return torch.from_numpy(np.asarray(value, native, order="C"))
    raise TypeError(
        f"`{path}` holds a {type(value).__name__}; a checkpoint takes tensors, arrays and primitives."
    )
