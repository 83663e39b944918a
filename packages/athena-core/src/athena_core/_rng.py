"""Every global random number generator: seeded together, saved together."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch

from athena_core._device import backend


def seed_all(seed: int, device: torch.device) -> None:
    """Seed Python's, NumPy's, torch's and the device's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the legacy generator is the global one
    torch.manual_seed(seed)
    backend(device).seed_all(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of all of them, in what a checkpoint takes."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "device": backend(device).rng_state(),
        "device_type": device.type,
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put all of them back; a state of another type of device's is left out, with a warning."""
    random.setstate(state["python"])
    inner = {**state["numpy"]["state"], "key": state["numpy"]["state"]["key"].numpy()}
    np.random.set_state({**state["numpy"], "state": inner})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    saved = state.get("device_type", device.type)
    if saved == device.type:
        backend(device).set_rng_state(state["device"])
    else:
        warnings.warn(
            f"the checkpoint is of {saved} and the run goes on with {device.type}: what is drawn there"
            f" differs from what {saved} would have drawn.",
            RuntimeWarning,
            stacklevel=3,
        )
