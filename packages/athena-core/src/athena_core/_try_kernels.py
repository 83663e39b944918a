"""Kernels, each run once on a small input: whether they compile shows on their own device alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from athena_core._host import default_host
from athena_core._kernels import OPS, Op
from athena_core._target import describe


def try_kernels() -> None:
    """Run each kernel whose device is here on a sample of its op, with its gradient where it has one.

    What fails leaves its op to the reference for the rest of this process, and `kernels` says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table tells
        for offer in default_host().kernels():
            op, device = OPS.get(offer.kernel.op), offer.kernel.device
            args = _sample(op, device) if op is not None else None
            if op is not None and args is not None:
                try:
                    _run(op, args)
                except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is the reason
                    op.refused.setdefault(device, describe(error))


def _sample(op: Op, device: str) -> tuple[Any, ...] | None:
    """The smallest sample without an empty tensor; None where the device is not here, or the op has none."""
    generator = torch.Generator().manual_seed(0)
    try:
        drawn = list(op.samples(device, torch.float32, generator)) if op.samples is not None else []
    except (RuntimeError, AssertionError, NotImplementedError):
        return None
    full = [args for args in drawn if all(one.numel() for one in _tensors(args))]
    return min(full, key=lambda args: sum(one.numel() for one in _tensors(args)), default=None)


def _run(op: Op, args: tuple[Any, ...]) -> None:
    learns = op.differentiable and not op.mutated
    if learns:
        args = tree_map(
            lambda one: (
                one.detach().requires_grad_() if isinstance(one, Tensor) and one.is_floating_point() else one
            ),
            args,
        )
    with torch.set_grad_enabled(learns):
        outputs = [one for one in _tensors(op.overload(*args)) if one.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]
