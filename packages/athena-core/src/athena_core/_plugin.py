"""What athena-core itself offers, through the same hooks as a stranger's package."""

from __future__ import annotations

from athena_core._component import Component, Kind
from athena_core._spec import hookimpl


@hookimpl
def athena_kinds() -> list[Kind]:
    checks = "athena_core.testing._kinds"
    return [
        Kind(
            "device",
            "athena_core:DeviceBackend",
            "A device type: capabilities, memory, placement, autocast",
            example=f"{checks}:build_device",
            checks=f"{checks}:device_checks",
        ),
        Kind(
            "recipe",
            "athena_core:Recipe",
            "An experiment that `athena run` runs: options and a body",
            example=f"{checks}:build_recipe",
            checks=f"{checks}:recipe_checks",
        ),
        Kind(
            "tracker",
            "athena_core:Tracker",
            "A place where a run's metrics go, beside metrics.jsonl",
            example=f"{checks}:build_tracker",
            checks=f"{checks}:tracker_checks",
        ),
    ]


@hookimpl
def athena_components() -> list[Component]:
    return [
        Component("device", "cpu", "athena_core._backends:CPU", "The host's processor"),
        Component("device", "cuda", "athena_core._backends:CUDA", "NVIDIA and ROCm GPUs"),
        Component("device", "mps", "athena_core._backends:MPS", "Apple GPUs through Metal"),
        Component(
            "tracker",
            "jsonl",
            "athena_core._tracker:JsonLines",
            "metrics.jsonl, one object a line; always on",
        ),
        Component(
            "tracker",
            "tensorboard",
            "athena_core._tracker:TensorBoard",
            "Event files for TensorBoard",
            requires=("tensorboard>=2.17",),
        ),
    ]
