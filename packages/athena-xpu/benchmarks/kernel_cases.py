"""What bench_kernels.py measures: ops, their arguments, the bytes they cannot avoid, and what peers do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Args = tuple[Any, ...]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Draw:
    """Draws arguments on a device, of full size or, to try the script, tiny."""

    device: torch.device
    dtype: torch.dtype
    smoke: bool

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.smoke else full

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(self.dtype)

    def integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op whose time is that of memory.

    Args:
        op: its name.
        make: its arguments.
        wanted: positions of those whose gradients are asked for.
        forward: bytes that must be moved, from the arguments.
        backward: the same of the gradient.
        liger: from Liger-Kernel's functional module and the arguments, its function and copies for it.
        bar: share of the copy bandwidth; None without a bar.
        name: what to call the row, if not by the op.
    """

    op: str
    make: Callable[[Draw], Args]
    wanted: tuple[int, ...]
    forward: Callable[[Args], int]
    backward: Callable[[Args], int]
    liger: Callable[[Any, Args], tuple[Function, Args]] | None = None
    bar: float | None = 0.85
    name: str = ""


def _rows(draw: Draw) -> tuple[int, int]:
    return draw.size(16_384, 6), draw.size(4_096, 40)


def _norm_args(draw: Draw, *vectors: int, count: int = 1) -> Args:
    rows, width = _rows(draw)
    return *(draw.floats(rows, width) for _ in range(count)), *(draw.floats(width) for _ in vectors), 1e-6


def _passes(count: int) -> Callable[[Args], int]:
    """So many times the bytes of the first argument."""
    return lambda args: count * args[0].nbytes


def _rotary_args(draw: Draw) -> Args:
    """Queries and keys as attention passes them: heads are last but one in memory."""
    batch, time, heads, width = (draw.size(*sizes) for sizes in ((8, 2), (2_048, 5), (40, 3), (128, 8)))
    x = draw.floats(batch, time, heads, width).transpose(1, 2)
    angles = torch.randn(time, width // 2, device=draw.device)
    return x, angles.cos().to(draw.dtype), angles.sin().to(draw.dtype), False


def _embedding_args(words: int, padding: float) -> Callable[[Draw], Args]:
    def make(draw: Draw) -> Args:
        count, width = draw.size(4 * 16_384, 70), draw.size(2_048, 24)
        ids = draw.integers(draw.size(words, 5), count)
        ids[: int(padding * count)] = 0  # the same id, though not declared to be padding
        return draw.floats(draw.size(words, 5), width), ids, None

    return make


def _liger_norm(name: str) -> Callable[[Any, Args], tuple[Function, Args]]:
    def liger(functional: Any, args: Args) -> tuple[Function, Args]:
        own = _copies(args[:-1])
        if name == "layer":
            return lambda x, weight, bias: functional.liger_layer_norm(x, weight, bias, args[-1]), own
        if name == "add_rms":
            function = functional.liger_fused_add_rms_norm
            return lambda x, rest, weight: function(x, rest, weight, args[-1], 0.0, "llama", False), own
        return lambda x, weight: functional.liger_rms_norm(x, weight, args[-1], 0.0, "llama", False), own

    return liger


def _liger_gated(name: str) -> Callable[[Any, Args], tuple[Function, Args]]:
    def liger(functional: Any, args: Args) -> tuple[Function, Args]:
        return getattr(functional, name), _copies(args[0].chunk(2, -1))

    return liger


def _liger_rotary(functional: Any, args: Args) -> tuple[Function, Args]:
    x, cos, sin, _ = args
    heads = x.shape[1] * 4 // 5
    q, k = (one.transpose(1, 2).clone().transpose(1, 2) for one in x.split((heads, x.shape[1] - heads), 1))
    cos, sin = (torch.cat((one, one), -1)[None] for one in (cos, sin))
    return lambda q, k: functional.liger_rope(q, k, cos, sin), (q, k)


def _copies(tensors: Any) -> Args:
    """Of its own, as it writes its gradients into its arguments."""
    return tuple(one.detach().clone(memory_format=torch.contiguous_format) for one in tensors)


CASES = [
    Case(
        op="athena_nn::rms_norm",
        make=lambda draw: _norm_args(draw, 1),
        wanted=(0, 1),
        forward=_passes(2),
        backward=_passes(3),
        liger=_liger_norm("rms"),
    ),
    Case(
        op="athena_nn::layer_norm",
        make=lambda draw: _norm_args(draw, 1, 1),
        wanted=(0, 1, 2),
        forward=_passes(2),
        backward=_passes(3),
        liger=_liger_norm("layer"),
    ),
    Case(
        op="athena_nn::add_rms_norm",
        make=lambda draw: _norm_args(draw, 1, count=2),
        wanted=(0, 1, 2),
        forward=_passes(4),
        backward=_passes(4),
        liger=_liger_norm("add_rms"),
    ),
    Case(
        op="athena_nn::add_layer_norm",
        make=lambda draw: _norm_args(draw, 1, 1, count=2),
        wanted=(0, 1, 2, 3),
        forward=_passes(4),
        backward=_passes(4),
    ),
    Case(
        op="athena_nn::rotary",
        make=_rotary_args,
        wanted=(0,),
        forward=_passes(2),
        backward=_passes(2),
        liger=_liger_rotary,
    ),
    *(
        Case(
            op=f"athena_nn::{name}",
            make=lambda draw: (draw.floats(draw.size(16_384, 6), 2 * draw.size(4_096, 20)),),
            wanted=(0,),
            forward=lambda args: args[0].nbytes * 3 // 2,
            backward=lambda args: args[0].nbytes * 5 // 2,
            liger=_liger_gated(f"liger_{name}"),
        )
        for name in ("swiglu", "geglu")
    ),
    *(
        Case(
            op="athena_nn::embedding",
            make=_embedding_args(128_256, padding),
            wanted=(0,),
            forward=lambda args: 2 * args[1].numel() * args[0][0].nbytes,
            backward=lambda args: args[1].numel() * args[0][0].nbytes + args[0].nbytes,
            bar=None,
            name=f"embedding, {padding:.0%} one id",
        )
        for padding in (0.0, 0.9)
    ),
]
