"""Compiled, exported: the same numbers, one graph, no recompilation while decoding."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter

from athena_nn import (
    AlibiPositions,
    Decoder,
    DecodingStep,
    Encoder,
    LearnedPositions,
    NoPositions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    SinusoidalPositions,
    prepare_for_decoding,
)

POSITIONS = {
    "none": NoPositions,
    "alibi": lambda: AlibiPositions(4),
    "learned": lambda: LearnedPositions(24, 32),
    "relative-bias": lambda: RelativeBias(4, bidirectional=False),
    "rotary": lambda: RotaryPositions(8),
    "shaw": lambda: ShawPositions(8),
    "sinusoidal": lambda: SinusoidalPositions(32),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


def make(positions: str = "rotary", **options) -> Decoder:
    return Decoder(
        50,
        32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        ff_dim=48,
        positions=POSITIONS[positions](),
        **options,
    )


@pytest.mark.parametrize("positions", POSITIONS)
def test_training_compiles_whole(positions):
    model = make(positions)
    tokens = torch.randint(50, (2, 6))
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, padding=real), model(tokens, padding=real), **CLOSE)
    loss = torch.compile(model.loss, fullgraph=True, backend="aot_eager")(tokens, tokens)
    expected = model.loss(tokens, tokens)
    weight = model.embedding.weight
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, weight)[0] for one in (loss, expected)), rtol=1e-3, atol=1e-5
    )


def test_an_encoder_compiles_whole():
    model = Encoder(50, 32, num_layers=2, num_heads=4, ff_dim=48, positions=RelativeBias(4))
    tokens, real = torch.randint(50, (2, 6)), torch.tensor([[True] * 6, [False] * 4 + [True] * 2])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, padding=real), model(tokens, padding=real), **CLOSE)


@pytest.mark.parametrize(
    ("positions", "window", "int8"),
    [
        *((positions, None, False) for positions in POSITIONS),
        ("rotary", 4, False),
        ("rotary", None, True),
        ("rotary", 4, True),
        ("alibi", 4, False),
    ],
)
@torch.no_grad()
def test_decoding_compiles_once(positions, window, int8):
    """Unequal rows, each at its own position, through one graph (transformers#30862, #29151)."""
    model = make(positions, window=window).eval()
    tokens = torch.randint(50, (3, 20))
    real = torch.arange(5) < torch.tensor([[5], [2], [3]])
    plain, static = (model.new_cache(3, capacity=20, int8=int8) for _ in range(2))
    for cache in (plain, static):
        model(tokens[:, :5], padding=real, cache=cache)
    counter = CompileCounter()
    step = torch.compile(lambda token, cache: model(token, cache=cache), fullgraph=True, backend=counter)
    for t in range(5, 20):
        torch.testing.assert_close(
            step(tokens[:, t : t + 1], static), model(tokens[:, t : t + 1], cache=plain), **CLOSE
        )
    assert counter.frame_count == 1
    assert static.lengths.tolist() == [20, 17, 18]
    with pytest.raises(RuntimeError, match="`cache` is full"):
        step(tokens[:, :1], static)  # pitfall 12


@torch.no_grad()
def test_a_growing_cache_is_refused_in_a_graph():
    """There it could not grow, and would lose what does not fit; with graph breaks it runs outside."""
    model = make().eval()
    tokens = torch.randint(50, (1, 4))

    def step(token, cache):
        return model(token, cache=cache)

    with pytest.raises(Unsupported, match="exception"):
        torch.compile(step, backend="eager", fullgraph=True)(tokens, model.new_cache(1))
    torch.compiler.reset()
    broken = torch.compile(step, backend="eager")(tokens, model.new_cache(1))
    torch.testing.assert_close(broken, model(tokens), **CLOSE)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])
@torch.no_grad()
def test_a_prepared_model_compiles_once(dtype):
    model = prepare_for_decoding(make().eval(), dtype=dtype)
    tokens = torch.randint(50, (1, 8))
    plain, static = (model.new_cache(1, capacity=8) for _ in range(2))
    counter = CompileCounter()
    step = torch.compile(lambda token, cache: model(token, cache=cache), fullgraph=True, backend=counter)
    for t in range(8):
        torch.testing.assert_close(
            step(tokens[:, t : t + 1], static), model(tokens[:, t : t + 1], cache=plain), **CLOSE
        )
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inductor's own imports
@torch.no_grad()
def test_inductor_decodes_alike():
    model = make().eval()
    tokens = torch.randint(50, (2, 9))
    cache = model.new_cache(2, capacity=8)
    step = torch.compile(lambda token, cache: model(token, cache=cache), fullgraph=True)
    logits = torch.cat([step(tokens[:, t : t + 1], cache) for t in range(8)], dim=1)
    torch.testing.assert_close(logits, model(tokens[:, :8]), **CLOSE)
    with pytest.raises(RuntimeError, match="`cache` is full"):
        step(tokens[:, 8:], cache)


@pytest.mark.parametrize(
    ("positions", "window"), [*((positions, None) for positions in POSITIONS), ("rotary", 4), ("alibi", 8)]
)
@torch.no_grad()
def test_exports_with_any_number_of_rows_and_tokens(positions, window):
    model = make(positions, window=window).eval()
    shapes = ({0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("time", max=24)},)
    program = torch.export.export(model, (torch.randint(50, (2, 8)),), dynamic_shapes=shapes)
    for shape in ((1, 1), (3, 13), (2, 24)):
        tokens = torch.randint(50, shape)
        torch.testing.assert_close(program.module()(tokens), model(tokens), **CLOSE)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("window", [None, 4])
@torch.no_grad()
def test_a_decoding_step_exports_with_its_cache(window, int8):
    """Pitfall 12: the exported graph keeps the window's size, and refuses what does not fit."""
    model = make(window=window).eval()
    step = DecodingStep(model, capacity=16, int8=int8)
    tokens = torch.randint(50, (3, 16))
    with torch.enable_grad():  # exporting is no pass that could want gradients
        program = torch.export.export(step, step.example(), dynamic_shapes=step.dynamic_shapes())
    module = program.module()
    (lengths, state), cache = step.empty(3), model.new_cache(3, int8=int8)
    for a, b in ((0, 5), (5, 6), (6, 9), (9, 16)):
        logits, lengths, state = module(tokens[:, a:b], lengths, state)
        torch.testing.assert_close(logits, model(tokens[:, a:b], cache=cache), **CLOSE)
    assert lengths.tolist() == [16] * 3
    assert all(part.shape[2] == (16 if window is None else window) + 1 for part in state)
    with pytest.raises(RuntimeError, match="`cache` is full"):
        module(tokens[:, :1], lengths, state)


@torch.no_grad()
def test_a_decoding_step_changes_no_argument():
    step = DecodingStep(make(), capacity=4)
    lengths, state = step.empty(1)
    step(torch.tensor([[3, 4]]), lengths, state)
    assert lengths.tolist() == [0]
    assert all(part.abs().sum() == 0 for part in state)


def test_what_no_step_can_be_made_of_is_refused():
    with pytest.raises(ValueError, match="without `memory_dim`"):
        DecodingStep(make(memory_dim=32), capacity=4)
    with pytest.raises(ValueError, match="`capacity` must be at least 4; got 3"):
        DecodingStep(make(), capacity=3)
