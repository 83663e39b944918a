"""The laws of positions: what the conformance kit asks of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from athena_core import Component
from athena_core.testing import Check
from athena_nn._positions import Positions

PositionsFactory = Callable[..., Positions]
_SIZES = {"head_dim": 8, "num_heads": 2, "embed_dim": 16, "max_length": 2048}


def example_positions(target: PositionsFactory) -> Positions:
    """Positions for 2 heads of width 8 and up to 2,048 tokens; ``target`` gets the sizes it names."""
    wanted = inspect.signature(target).parameters
    return target(**{name: size for name, size in _SIZES.items() if name in wanted})


def _draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


class _Pass(NamedTuple):
    """What a pass through a model gives to the hooks."""

    x: Tensor
    q: Tensor
    weights: Tensor
    positions: Tensor
    key_positions: Tensor


def _pass(first: int = 2, *, dtype: torch.dtype = torch.float32) -> _Pass:
    """Tokens from ``first`` to 6, those before being in a cache; the inputs of each are always the same."""
    x, q, weights = (_draw(3, *shape, dtype=dtype) for shape in ((7, 16), (2, 7, 8), (2, 7, 7)))
    return _Pass(
        x[:, first:], q[:, :, first:], weights[:, :, first:], torch.arange(first, 7), torch.arange(7)
    )


def _hooks(part: Positions, given: _Pass) -> dict[str, Tensor]:
    """What the hooks return that act."""
    x, q, weights, positions, key_positions = given
    phases = part.phases(positions, q.dtype)
    returned = {
        "embed": part.embed(x, positions),
        "rotate": q if phases is None else part.rotate(q, phases),
        "bias": part.bias(positions, key_positions),
        "scores": part.scores(q, positions, key_positions),
        "values": part.values(weights, positions, key_positions) if part.weighs_values else None,
    }
    return {name: result for name, result in returned.items() if result is not None}


def _keeps_shapes(target: PositionsFactory, dtype: torch.dtype) -> None:
    part = example_positions(target).to(dtype)
    found = _hooks(part, _pass(dtype=dtype))
    shapes = {"embed": (3, 5, 16), "rotate": (3, 2, 5, 8), "scores": (3, 2, 5, 7), "values": (3, 2, 5, 8)}
    for name, result in found.items():
        if name == "bias":  # may stay in float32
            assert result.dtype.is_floating_point, f"`bias` gave {result.dtype}"
            assert result.shape in ((1, 5, 7), (2, 5, 7)), f"`bias` gave {tuple(result.shape)}"
        else:
            assert (result.shape, result.dtype) == (shapes[name], dtype), (
                f"`{name}` gave another shape or dtype"
            )


def _rows_agree(target: PositionsFactory) -> None:
    part = example_positions(target)
    given = _pass()
    shared = _hooks(part, given)
    rows = given._replace(
        positions=given.positions.expand(3, 5), key_positions=given.key_positions.expand(3, 7)
    )
    own = _hooks(part, rows)
    assert shared.keys() == own.keys()
    for name, result in own.items():
        torch.testing.assert_close(shared[name].expand_as(result), result)


def _goes_on(target: PositionsFactory) -> None:
    part = example_positions(target)
    whole, rest = _hooks(part, _pass(0)), _hooks(part, _pass(4))
    assert whole.keys() == rest.keys()
    for name, result in rest.items():
        torch.testing.assert_close(whole[name][..., 4:, :], result)


def _survives_bfloat16(target: PositionsFactory) -> None:
    positions = torch.arange(1001, 1011)  # bfloat16 itself rounds them to multiples of 4
    exact, part = example_positions(target), example_positions(target).bfloat16()
    phases, cast_phases = exact.phases(positions, torch.float32), part.phases(positions, torch.bfloat16)
    if phases is None or cast_phases is None:
        assert phases is cast_phases, "`phases` depends on the dtype"
        return
    q = _draw(1, 2, 10, 8, dtype=torch.bfloat16)
    turned, cast = exact.rotate(q.float(), phases), part.rotate(q, cast_phases)
    # cosine, sine, products and sum are each rounded to 8 bits
    torch.testing.assert_close(cast.float(), turned, rtol=0, atol=4 * 2**-8 * q.abs().max().item())


def _reaches_parameters(target: PositionsFactory) -> None:
    part = example_positions(target)
    parameters = dict(part.named_parameters())
    if not parameters:
        return
    found = _hooks(part, _pass())
    sums = [torch.zeros((), requires_grad=True), *(result.sum() for result in found.values())]
    total = torch.stack(sums).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    unused = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    assert not unused, f"no gradient reaches {', '.join(unused)}"


def _compiles_whole(target: PositionsFactory) -> None:
    part = example_positions(target)
    torch.compiler.reset()  # or positions tried earlier count as recompilations
    compiled = torch.compile(_hooks, fullgraph=True, backend="aot_eager")
    given = _pass()
    with torch.no_grad():
        expected, found = _hooks(part, given), compiled(part, given)
    torch.compiler.reset()
    assert expected.keys() == found.keys()
    for name, result in expected.items():
        torch.testing.assert_close(found[name], result)


def _stays_causal(target: PositionsFactory) -> None:
    from athena_nn._decoder import Decoder  # it imports positions itself

    model = Decoder(
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
        "gradients reach every parameter": _reaches_parameters,
        "one graph under torch.compile": _compiles_whole,
        "a causal model stays causal": _stays_causal,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
