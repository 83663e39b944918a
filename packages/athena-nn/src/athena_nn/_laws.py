"""The laws of positions: what the conformance kit asks of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from athena_core import Component
from athena_core.testing import Check
from athena_nn._decoder import DecoderLM
from athena_nn._positions import Positions

PositionsFactory = Callable[..., Positions]
_SIZES = {"head_dim": 8, "num_heads": 2, "embed_dim": 16, "max_length": 2048}


def example_positions(target: PositionsFactory) -> Positions:
    """Positions for 2 heads of width 8 and up to 2,048 tokens; ``target`` gets the sizes it names."""
    wanted = inspect.signature(target).parameters
    return target(**{name: size for name, size in _SIZES.items() if name in wanted})


def _draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _hooks(part: Positions, x: Tensor, q: Tensor, positions: Tensor) -> list[Tensor]:
    """What all hooks return; no bias counts as a bias of zero."""
    bias = part.bias(positions, positions)
    return [
        part.embed(x, positions),
        *part.rotate(q, q, positions),
        torch.zeros(()) if bias is None else bias,
    ]


def _keeps_shapes(target: PositionsFactory, dtype: torch.dtype) -> None:
    part = example_positions(target).to(dtype)
    x, q = _draw(3, 5, 16, dtype=dtype), _draw(3, 2, 5, 8, dtype=dtype)
    embedded, rotated_q, rotated_k, bias = _hooks(part, x, q, torch.arange(5))
    assert (embedded.shape, embedded.dtype) == (x.shape, dtype)
    for rotated in (rotated_q, rotated_k):
        assert (rotated.shape, rotated.dtype) == (q.shape, dtype)
    torch.broadcast_to(bias, (3, 2, 5, 5))


def _rows_agree(target: PositionsFactory) -> None:
    part = example_positions(target)
    x, q = _draw(3, 5, 16), _draw(3, 2, 5, 8)
    for shared, own in zip(
        _hooks(part, x, q, torch.arange(5)), _hooks(part, x, q, torch.arange(5).expand(3, 5)), strict=True
    ):
        torch.testing.assert_close(shared.expand_as(own), own)


def _goes_on(target: PositionsFactory) -> None:
    part = example_positions(target)
    x, q = _draw(1, 9, 16), _draw(1, 2, 9, 8)
    whole = _hooks(part, x, q, torch.arange(9))[:3]
    rest = _hooks(part, x[:, 4:], q[:, :, 4:], torch.arange(4, 9))[:3]
    for complete, continued in zip(whole, rest, strict=True):
        torch.testing.assert_close(complete[..., 4:, :], continued)


def _survives_bfloat16(target: PositionsFactory) -> None:
    positions = torch.arange(1001, 1011)  # bfloat16 itself rounds them to multiples of 4
    q = _draw(1, 2, 10, 8, dtype=torch.bfloat16)
    exact = example_positions(target).rotate(q.float(), q.float(), positions)[0]
    cast = example_positions(target).bfloat16().rotate(q, q, positions)[0]
    # cosine, sine, products and sum are each rounded to 8 bits
    torch.testing.assert_close(cast.float(), exact, rtol=0, atol=4 * 2**-8 * q.abs().max().item())


def _stays_causal(target: PositionsFactory) -> None:
    model = DecoderLM(
        11, 16, num_layers=2, num_heads=2, ff_dim=32, max_length=64, positions=example_positions(target)
    )
    tokens = torch.arange(10)[None]
    other = tokens.clone()
    other[0, -1] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :-1], model(other)[:, :-1])


def positions_checks(component: Component, target: PositionsFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of positions."""
    for dtype in (torch.float32, torch.bfloat16):
        name = f"keeps shapes and dtypes, {str(dtype).removeprefix('torch.')}"
        yield Check(name, partial(_keeps_shapes, target, dtype))
    laws = {
        "positions for all rows equal positions a row": _rows_agree,
        "goes on at any position": _goes_on,
        "a model cast to bfloat16 keeps its phases": _survives_bfloat16,
        "a causal model stays causal": _stays_causal,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
