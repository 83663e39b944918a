"""What athena-xpu offers: the device type, and kernels for it."""

from __future__ import annotations

from athena_core import Component, Kernel, hookimpl

# op, module of `athena_xpu.kernels`, whether it has a gradient of its own
# A kernel's module holds `run`, `supports` and, where it has a gradient, `Formula`.
KERNELS: list[tuple[str, str, bool]] = [
    ("athena_compress::int8_linear", "int8_linear", True),
    ("athena_compress::smallest", "smallest", False),
    ("athena_nn::add_layer_norm", "add_layer_norm", True),
    ("athena_nn::add_rms_norm", "add_rms_norm", True),
    ("athena_nn::embedding", "embedding", True),
    ("athena_nn::geglu", "geglu", True),
    ("athena_nn::layer_norm", "layer_norm", True),
    ("athena_nn::linear_cross_entropy", "linear_cross_entropy", True),
    ("athena_nn::rms_norm", "rms_norm", True),
    ("athena_nn::rotary", "rotary", True),
    ("athena_nn::swiglu", "swiglu", True),
    ("athena_optim::adamw_", "adamw", False),
    ("athena_optim::lamb_", "lamb", False),
]
# Largest errors, where they are not those of `athena_core.testing`; dtypes named here must run on the kernel.
TOLERANCE: dict[str, dict[str, float]] = {
    # The gradient of a weight's scale is a sum of large products that cancel, of slopes rounded to float16.
    "athena_compress::int8_linear": {"float16": 2e-2},
}


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
    return [Component("device", "xpu", "athena_xpu._backend:XPU", "Intel GPUs through torch.xpu")]


@hookimpl
def athena_kernels() -> list[Kernel]:
    return kernels_for("xpu")
