"""What athena-xpu offers: the device type, and kernels for it."""

from __future__ import annotations

from athena_core import Component, Kernel, hookimpl

# op, module of `athena_xpu.kernels`, whether it has a gradient of its own
# A kernel's module holds `run`, `supports` and, where it has a gradient, `Formula`.
KERNELS: list[tuple[str, str, bool]] = [
    ("athena_nn::swiglu", "swiglu", True),
]
# Largest errors, where they are not those of `athena_core.testing`; dtypes named here must run on the kernel.
TOLERANCE: dict[str, dict[str, float]] = {}


def kernels_for(device: str) -> list[Kernel]:
    """The kernels, offered for a device type."""
    return [
        Kernel(
            op,
            device,
            f"athena_xpu.kernels._{module}:run",
            supports=f"athena_xpu.kernels._{module}:supports",
            autograd=f"athena_xpu.kernels._{module}:Formula" if differentiable else "",
            tolerance=TOLERANCE.get(op, {}),
        )
        for op, module, differentiable in KERNELS
    ]


@hookimpl
def athena_components() -> list[Component]:
    return []


@hookimpl
def athena_kernels() -> list[Kernel]:
    return kernels_for("xpu")
