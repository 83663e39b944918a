"""Models on disk: safetensors and JSON, whatever their layers became."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from athena_compress._saving_build import build
from athena_compress._saving_describe import Describer
from athena_compress._saving_files import TREE, read_json, read_tensors, read_tree, write_folder
from athena_compress._saving_names import Names
from athena_compress._saving_tensors import unpack


def save(model: nn.Module, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write any model as it is: pruned shapes, int8 layers and all; `load` needs no code that made it so.

    ``model.safetensors`` holds every parameter and buffer, under its name in the state dict, and other
    tensors that modules hold; tied ones and views of the same memory once. ``athena_compress.json`` says of
    each module its class, by name, and its attributes: numbers, strings, containers, modules, dtypes,
    devices, enum members, dataclasses, classes and functions found by name, and objects that are nothing but
    such attributes. Nothing is pickled. Gradients and attributes set on tensors are not saved.

    Args:
        model: any module. What its classes name in a class attribute ``_not_saved: tuple[str, ...]``, caches
            for example, is None after loading.
        folder: where to write; made if it is not there. An earlier save in it is replaced once the new one
            is whole.
        extra: values of JSON to keep beside the model, which `saved_extra` reads: its scheme, its accuracy.

    Raises TypeError for what is no module or no JSON, and ValueError, before anything is written, for what
    has no description: lambdas and other functions without a name, hooks, parametrizations, open files,
    classes that no import finds, tensors that are not dense. The line names the attribute and what to do.

    Source: none. Departs from it: no.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with TemporaryDirectory() as folder:
    ...     save(model, folder)
    ...     same = load(folder)
    >>> torch.equal(same[0].weight, model[0].weight)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module; got {type(model).__name__}. Pass the module itself.")
    try:
        kept = json.loads(json.dumps(dict(extra or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`extra` must be a mapping of values of JSON; {error}. Make it of such.") from error
    describer = Describer(model)
    records, contents = describer.tensors.pack()
    tree = {"extra": kept, "modules": describer.modules, "objects": describer.objects, **records}
    write_folder(Path(folder), tree, contents)


def load(folder: str | Path, *, trust: str | Sequence[str] = ()) -> nn.Module:
    """The model that `save` wrote, on the CPU, in train or eval mode as it was; outputs equal bit for bit.

    No constructor is called, and a file can name no code but classes and functions by name: modules and
    dataclasses of modules that are already imported, of torch, of packages that begin with ``athena_`` and
    of trusted ones; functions of tensors in torch, ``math``, ``operator``, such packages and trusted ones;
    any other object, such as a configuration of transformers, of trusted ones alone.

    Args:
        folder: what `save` wrote.
        trust: further modules or packages whose classes and functions may be imported and used,
            ``("my_models",)``. Trust what you would import.

    Tensors on ``meta`` stay there, all others are on the CPU; ``model.to(device)`` moves them.

    Raises FileNotFoundError for a folder or file that is not there, and ValueError for a folder that is no
    saved model, was cut short, changed or written in another version of the format, for a name that is
    unknown or not trusted, and for tensors that are missing or of another shape.

    Source: none. Departs from it: no.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval()
    >>> with TemporaryDirectory() as folder:
    ...     save(model, folder)
    ...     same = load(folder)
    >>> x = torch.randn(1, 2, 5)
    >>> torch.equal(same(x), model(x))
    True
    """
    folder = Path(folder)
    tree = read_tree(folder)
    trusted = (trust,) if isinstance(trust, str) else tuple(trust)
    try:
        return build(tree, unpack(tree, read_tensors(folder)), Names(trusted))
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder}: the description is damaged: {error!r}. Save the model again.") from error
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def saved_extra(folder: str | Path) -> dict[str, Any]:
    """What was given to `save` as ``extra``; no tensor is read.

    Raises FileNotFoundError and ValueError for a folder that holds no saved model, as `load`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(nn.Linear(2, 3), folder, extra={"accuracy": 0.97})
    ...     saved_extra(folder)
    {'accuracy': 0.97}
    """
    path = Path(folder) / TREE
    if not path.is_file():
        raise FileNotFoundError(
            f"`folder` must hold {TREE}, as `athena_compress.save` writes it; {folder} does not."
        )
    return read_json(path)["extra"]
