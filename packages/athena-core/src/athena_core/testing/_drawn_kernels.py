"""A kernel against its reference on many drawn inputs, each in one dtype and one memory layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from athena_core import _kernels
from athena_core._component import Kernel
from athena_core.testing._kernel_outcomes import _compare, _copy, _exact, _gradients, _layouts, _tensors
from athena_core.testing._kernels import _Trial, offered


def check_drawn(
    kernel: Kernel,
    draw: Callable[[torch.dtype, torch.Generator], tuple[Any, ...]],
    *,
    draws: int = 200,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16),
    least: float = 0.5,
) -> None:
    """Compare a kernel with its reference in float64, forward and, where it has a formula, backward.

    Each drawn input is tried in one dtype and in one of `kernel_checks`' memory layouts, all drawn from
    one seed. Where ``supports`` refuses, the reference runs, which must not happen too often.

    Args:
        kernel: for a device that is here.
        draw: from a dtype and a generator of the host, the op's arguments on the kernel's device.
        draws: how many inputs.
        dtypes: that are drawn from.
        least: share of the inputs that must reach the kernel.

    Raises AssertionError with the arguments' shapes.

    >>> from athena_core import op
    >>> twice = op("athena_doc::twice(Tensor x) -> Tensor", reference=lambda x: 2 * x)
    >>> kernel = Kernel("athena_doc::twice", "xpu", "my_package:twice_xpu", autograd="my_package:Twice")
    >>> check_drawn(kernel, lambda dtype, _: (torch.ones(3, dtype=dtype),), draws=0)
    """
    op = _kernels.OPS[kernel.op]
    trial = _Trial(op, kernel, None)
    generator = torch.Generator().manual_seed(0)
    reached = 0
    with offered(kernel):
        for number in range(draws):
            dtype = dtypes[int(torch.randint(len(dtypes), (), generator=generator))]
            drawn = draw(dtype, generator)
            layouts = list(_layouts(drawn))
            layout, args = layouts[int(torch.randint(len(layouts), (), generator=generator))]
            shapes = [tuple(one.shape) for one in _tensors(args)]
            what = f"draw {number}, {dtype}, {layout}, {shapes}"
            with trial.counting() as references:
                found = trial.actual(args)
            if references:
                continue
            reached += 1
            _compare(found, trial.reference(args, exact=True), trial.tolerance(dtype), what)
            if not op.mutated and op.differentiable:
                exact = _gradients(op.reference, _exact(_copy(args)))
                _compare(_gradients(op.overload, args), exact, trial.tolerance(dtype), f"gradient, {what}")
    assert reached >= least * draws, f"{kernel.op}: {reached} of {draws} drawn inputs reached the kernel"
