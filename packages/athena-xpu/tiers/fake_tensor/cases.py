"""What runs on fake tensors of ``xpu:0``: run as a program, it prints one line of JSON for each case.

Models are built on the host, and their tensors made fake without gradients: autograd asks for a device guard
that only torch's XPU build has. That build alone knows scaled dot product attention, so that a formula stands
for it, and indexing, ``~`` and ``copy_`` are spelt in other ops; convolutions need no stand-in (torch 2.13).
Numbers of fake tensors cannot be read, also of the host's: optimizers count on the device (``capturable``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from athena_compress import int8_conv2d, int8_linear, quantize
from athena_core import Configured, components, create
from athena_core._kernels import OPS
from athena_nn import Decoder, Encoder, EncoderDecoder, geglu, rotary, swiglu
from athena_optim import AdamW, Lamb

DEVICE = "xpu:0"
FAKE = FakeTensorMode(allow_non_fake_inputs=False)
DEFINED = (int8_conv2d, int8_linear, geglu, rotary, swiglu, AdamW, Lamb)  # loading them defines their ops
Case = tuple[str, Callable[[], Any]]


def fake(tensor: Tensor) -> Tensor:
    held = tensor.detach()
    with FAKE:  # outside, torch would look for a real device
        return FAKE.from_tensor(held).to(DEVICE)


def there(value: Any) -> Any:
    """Tensors of the host, or what holds some, as fake ones of the device; a module's in place."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    module._parameters[name] = nn.Parameter(fake(one), requires_grad=False)
            for name, one in module._buffers.items():
                module._buffers[name] = None if one is None else fake(one)
        return value
    return tree_map_only(Tensor, fake, value)


class Spelt(TorchFunctionMode):
    """What torch's Python binding does under a device guard, in ops that need none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            return indexed(*args)
        if func is Tensor.__setitem__:
            place, value = indexed(*args[:2], put=args[2]), args[2]
            return place if place is None else filled(place, value)
        if func is Tensor.copy_:
            return filled(*args[:2])
        if func is Tensor.__invert__:
            return torch.bitwise_not(*args)
        if getattr(func, "namespace", "").startswith("athena_"):
            with self:  # the dispatcher would leave the mode behind
                return OPS[func._schema.name].reference(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def filled(place: Tensor, value: Any) -> Tensor:
    """``place.copy_(value)``."""
    value = value.to(place.device) if isinstance(value, Tensor) else torch.tensor(value)
    return place.zero_().add_(value.to(place.dtype))


def indexed(x: Tensor, key: Any, put: Any = None) -> Any:
    """``x[key]``; with tensors in the key and something to ``put``, that is put there instead."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if not any(one is Ellipsis for one in keys):
        keys.append(Ellipsis)
    taken = sum(
        getattr(one, "ndim", 1) if getattr(one, "dtype", None) == torch.bool else 1
        for one in keys
        if one is not None and one is not Ellipsis
    )
    axis, rest, chosen = 0, x.dim() - taken, {}
    for one in keys:
        if one is None:
            x = x.unsqueeze(axis)
        elif one is Ellipsis:
            axis += rest - 1
        elif isinstance(one, slice):
            x = torch.ops.aten.slice(x, axis, one.start, one.stop, one.step or 1)
        elif isinstance(one, int):
            x, axis = x.select(axis, one), axis - 1
        else:
            chosen[axis] = torch.as_tensor(one)
        axis += 1
    if not chosen:
        return x
    indices = [chosen.get(place) for place in range(max(chosen) + 1)]
    if put is None:
        return torch.ops.aten.index(x, indices)
    x.index_put_(indices, torch.as_tensor(put, dtype=x.dtype))
    return None


def run_there(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result, for whose making fake tensors alone were there."""
    with FAKE, Spelt():
        return function(*args, **kwargs)


def tokens(*shape: int) -> Tensor:
    return there(torch.zeros(shape, dtype=torch.long))


def positions(name: str, *, bidirectional: bool) -> nn.Module:
    told = {"head_dim": 8, "num_heads": 4, "embed_dim": 32, "max_length": 24}
    return Configured("positions", name).create(**told, bidirectional=bidirectional)


def models() -> Iterator[Case]:
    """All three stacks, with all positions, norms and activations, masks, caches and losses."""
    stack: dict[str, Any] = {"num_layers": 1, "num_heads": 4, "ff_dim": 48, "max_length": 24}
    padding = there(torch.ones(2, 7, dtype=torch.bool))
    for component in components("positions"):
        name = component.name

        def decoder(name: str = name, **options: Any) -> Any:
            made = Decoder(50, 32, positions=positions(name, bidirectional=False), **stack, **options)
            return there(made.eval())

        def encoder(name: str = name) -> Any:
            return there(Encoder(50, 32, positions=positions(name, bidirectional=True), **stack).eval())

        yield f"decoder, {name}", lambda make=decoder: run_there(make(), tokens(2, 7))
        yield f"decoder, window, {name}", lambda make=decoder: run_there(make(window=3), tokens(2, 7))
        yield (
            f"decoder's loss, {name}",
            lambda make=decoder: run_there(make().loss, tokens(2, 7), tokens(2, 7)),
        )
        yield f"encoder, {name}", lambda make=encoder: run_there(make(), tokens(2, 7), padding=padding)
    for kind in ("norm", "activation"):
        for component in components(kind):
            part = {kind: lambda *args, kind=kind, name=component.name: create(kind, name, *args)}
            yield (
                f"decoder, {kind} {component.name}",
                lambda part=part: run_there(there(Decoder(50, 32, **stack, **part).eval()), tokens(2, 7)),
            )

    def both() -> Any:
        encoder, decoder = Encoder(50, 32, **stack), Decoder(50, 32, memory_dim=32, **stack)
        made = EncoderDecoder(encoder, decoder, start_token=0).eval()
        return run_there(there(made), tokens(2, 7), tokens(2, 5))

    yield "encoder and decoder", both


def ops() -> Iterator[Case]:
    """Every op on its samples, by its reference; not convolutions, whose fake unfolding indexes by itself."""
    for name, one in OPS.items():
        if one.samples is None or not name.startswith("athena_") or "conv" in name:
            continue

        def run(one: Any = one) -> Any:
            drawn = [there(args) for args in one.samples("cpu", torch.float32, torch.Generator())]
            return [(run_there(one.reference, *args), args) for args in drawn]

        yield f"op {name}", run


def optimizers() -> Iterator[Case]:
    """Two steps of every optimizer, on gradients put there."""
    for component in components("optimizer"):
        for options in ({}, {"foreach": False}, {"nonfinite": "zero"}):

            def run(name: str = component.name, options: dict[str, Any] = options) -> Any:
                model = there(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)))
                optimizer = create(
                    "optimizer", name, [*model.parameters()], lr=0.1, capturable=True, **options
                )
                for _ in range(2):
                    for parameter in model.parameters():
                        parameter.grad = torch.ones_like(parameter)
                    run_there(optimizer.step)
                return [*model.parameters()]

            yield f"optimizer {component.name} {options}", run


def quantized() -> Iterator[Case]:
    """Layers of integers, made on the host and moved."""
    for scheme, options in (
        ("int8-dynamic", {}),
        ("int8-weight-only", {}),
        ("int4-weight-only", {"group_size": 2}),
    ):

        def run(scheme: str = scheme, options: dict[str, Any] = options) -> Any:
            layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)]
            made = quantize(nn.Sequential(*layers), scheme, **options)
            return run_there(there(made), there(torch.ones(2, 4)))

        yield f"quantized, {scheme}", run


def mistakes() -> Iterator[Case]:
    """What must be seen: tensors of the host made on the way."""
    x = there(torch.ones(3, 3))
    yield "mistake: mask", lambda: run_there(lambda: x.masked_fill(torch.ones(3, 3, dtype=torch.bool), 0))
    yield "mistake: positions", lambda: run_there(lambda: x + torch.arange(3))
    yield "mistake: embedding", lambda: run_there(lambda: F.embedding(torch.arange(3), x))
    yield "mistake: result", lambda: run_there(lambda: torch.zeros(3))


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Stands for torch's: only shapes and devices count."""
    groups = q.shape[-3] // k.shape[-3] if options.get("enable_gqa") else 1
    scores = q @ k.repeat_interleave(groups, -3).mT
    if attn_mask is not None:
        scores = torch.where(attn_mask, scores, 0) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ v.repeat_interleave(groups, -3)


@torch.no_grad()
def main() -> None:
    F.scaled_dot_product_attention = attention
    for make in (models, ops, optimizers, quantized, mistakes):
        for name, run in make():
            try:
                found = sorted({str(leaf.device) for leaf in tree_leaves(run()) if isinstance(leaf, Tensor)})
            except Exception as error:  # noqa: BLE001  # whatever a case raises is its outcome
                found = f"{type(error).__name__}: {error}".splitlines()[0]
            print(json.dumps([name, found]), flush=True)


if __name__ == "__main__":
    main()
