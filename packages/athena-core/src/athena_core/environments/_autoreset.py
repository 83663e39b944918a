"""How vector environments start ended rows again, and where the last observations are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor


def autoreset_mode(given: VectorEnv[Any, Any, Any] | AutoresetMode | str) -> AutoresetMode:
    """The mode of a vector environment, or the one that is named.

    Raises ValueError for one that is unknown.

    >>> autoreset_mode("SameStep")
    <AutoresetMode.SAME_STEP: 'SameStep'>
    """
    found = given.metadata.get("autoreset_mode") if isinstance(given, VectorEnv) else given
    try:
        return AutoresetMode(found)
    except ValueError:
        raise ValueError(
            f"`autoreset_mode` must be NEXT_STEP, SAME_STEP or DISABLED; got {found!r}. Set it in the "
            "environment's `metadata`, or pass an `AutoresetMode`."
        ) from None


def final_observations(like: Any, info: dict[str, Any], done: Tensor) -> Any:
    """The last observations of the rows that are ``done``, in the structure of the observations ``like``.

    Gymnasium keeps them one by one, in an array of objects that is None elsewhere; others keep arrays of all
    rows, each part of a dictionary on its own.

    Raises ValueError if ``info`` lacks some.

    >>> info = {"final_obs": np.array([None, np.ones(2)], dtype=object)}
    >>> final_observations(torch.zeros(2, 2), info, torch.tensor([False, True]))
    tensor([[1., 1.]], dtype=torch.float64)
    """
    rows = torch.nonzero(done)[:, 0].tolist()
    final, mask = info.get("final_obs"), info.get("_final_obs")
    single = isinstance(final, list) or (isinstance(final, np.ndarray) and final.dtype == object)
    chosen: Any = [final[row] for row in rows] if single else final  # pyright: ignore[reportOptionalSubscript]
    absent = final is None or (single and any(one is None for one in chosen))
    if absent or (mask is not None and not bool(torch.as_tensor(mask)[rows].all())):
        raise ValueError(
            f'`info` must hold "final_obs" of the rows {rows}, which ended; got none. Vector environments of '
            "SAME_STEP give it: see their `autoreset_mode`."
        )

    def picked(part: Any, found: Any) -> Any:
        if not isinstance(part, Mapping | tuple):
            found = torch.stack([torch.as_tensor(one) for one in found]) if single else torch.as_tensor(found)
            return found if single else found[rows]
        keys = part.keys() if isinstance(part, Mapping) else range(len(part))
        values = {
            key: picked(part[key], [one[key] for one in found] if single else found[key]) for key in keys
        }
        return values if isinstance(part, Mapping) else tuple(values.values())

    return picked(like, chosen)
