"""Every test starts from the same seed; tolerances by dtype, in one table; runs of recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from athena_core import Component, Kind, hookimpl
from athena_nn import _plugin

# The same examples everywhere, and no deadlines: machines are shared and noisy.
settings.register_profile(
    "athena", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("athena")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}


class TorchParts:
    """Stands in for athena-optim: torch's own parts, by the same kinds."""

    @hookimpl
    def athena_kinds(self) -> list[Kind]:
        return [
            Kind("optimizer", "torch.optim:Optimizer", "Updates parameters"),
            Kind("schedule", "torch.optim.lr_scheduler:LRScheduler", "Sets learning rates"),
            Kind("param-groups", "builtins:object", "Splits parameters"),
        ]

    @hookimpl
    def athena_components(self) -> list[Component]:
        return [
            Component("optimizer", "adam", "torch.optim:Adam", "Adam"),
            Component("schedule", "constant", "torch.optim.lr_scheduler:ConstantLR", "Constant"),
            Component("param-groups", "decay-matrices", "torch.nn:Module.parameters", "All alike"),
        ]


@pytest.fixture
def recipe_host(athena_host: Any) -> Any:
    """A host of the test's own, with this package and `TorchParts` alone."""
    athena_host.register(_plugin, "athena-nn", "0.1.0", "nn")
    athena_host.register(TorchParts(), "torch-parts", "1.0", "parts")
    return athena_host
