"""Models, decoding and ops on a CUDA device: what the CPU computes, and where the host need not wait.

Angles of rotary positions and slopes are computed in float32, whose last digit differs between devices: so
float64 models agree to `CLOSE` or `ROTARY`, and the tokens they choose are equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from athena_core._kernels import OPS
from athena_nn import (
    AlibiPositions,
    Decoder,
    DecodingStep,
    Encoder,
    EncoderDecoder,
    LearnedPositions,
    NoPositions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    SinusoidalPositions,
    YarnScaling,
    beam_search,
    geglu,
    generate,
    layer_norm,
    linear_cross_entropy,
    prepare_for_decoding,
    rms_norm,
    rotary,
    swiglu,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
#: Where every frequency differs by its last digit in float32, on the CPU, logits near 5 move by 8e-6, and
#: gradients near 6 by 1e-4 (24 tokens; an H200 moved logits by 1.3e-6).
ROTARY = {"rtol": 1e-5, "atol": 1e-5}
ROTARY_GRADIENTS = {"rtol": 1e-5, "atol": 2e-4}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-4}  # sums of a few hundred terms, in another order
POSITIONS: dict[str, Callable[[], nn.Module]] = {
    "none": NoPositions,
    "alibi": lambda: AlibiPositions(4),
    "learned": lambda: LearnedPositions(300, 64),
    "relative-bias": lambda: RelativeBias(4, bidirectional=False),
    "rotary": lambda: RotaryPositions(16),
    "rotary-yarn": lambda: RotaryPositions(
        16, layout="interleaved", scaling=YarnScaling(4.0, original_length=64)
    ),
    "shaw": lambda: ShawPositions(16),
    "sinusoidal": lambda: SinusoidalPositions(64),
}
NAMES = sorted(name for name in OPS if name.startswith("athena_nn::"))


def make(positions: str = "rotary", **options: Any) -> Decoder:
    """A decoder of heads of width 16, in float64, on the CPU."""
    torch.manual_seed(0)
    options = {"num_kv_heads": 2, "ff_dim": 96} | options
    model = Decoder(50, 64, num_layers=2, num_heads=4, positions=POSITIONS[positions](), **options).double()
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small weights of a new model, whose logits tie
            parameter.mul_(3)
    return model


def pair(model: nn.Module) -> tuple[Any, Any]:
    """The model on the CPU, and a copy on the device."""
    return model, copy.deepcopy(model).to(DEVICE)


def to(value: Any, device: str) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def assert_alike(ours: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(to(ours, "cpu"), expected, **(tolerance or CLOSE))


def assert_gradients(ours: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for (name, mine), other in zip(ours.named_parameters(), expected.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if other.grad is not None:
            assert mine.grad.device.type == DEVICE
            assert_alike(mine.grad, other.grad, **tolerance)


@contextmanager
def unwaited() -> Iterator[None]:
    """Within it, the host's waiting for the device raises RuntimeError."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", POSITIONS)
def test_forward_and_backward(name: str) -> None:
    here, there = pair(make(name, norm_first=name != "learned", qk_norm="rms" if name == "rotary" else None))
    tokens = torch.randint(50, (3, 24))
    real = torch.arange(24) >= torch.tensor([[0], [5], [20]])  # padded on the left
    tolerance, of_gradients = (ROTARY, ROTARY_GRADIENTS) if name.startswith("rotary") else (CLOSE, CLOSE)
    ours = there(tokens.to(DEVICE), padding=real.to(DEVICE))[real.to(DEVICE)]
    assert_alike(ours, here(tokens, padding=real)[real], **tolerance)
    losses = [
        model.loss(*to((tokens[:, :-1], tokens[:, 1:]), device), padding=real[:, :-1].to(device))
        for model, device in ((there, DEVICE), (here, "cpu"))
    ]
    assert_alike(losses[0], losses[1], **tolerance)
    for loss in losses:
        loss.backward()
    assert_gradients(there, here, **of_gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["alibi", "relative-bias", "rotary", "shaw"])
def test_long_passes(name: str, dtype: torch.dtype) -> None:
    """Of 200 tokens: where positions are a bias, FlexAttention takes them on this device, below float64."""
    here, there = pair(make(name, window=150).to(dtype))
    tokens = torch.randint(50, (2, 200))
    for model, device in ((here, "cpu"), (there, DEVICE)):
        model.loss(tokens.to(device), tokens.to(device)).backward()
    tolerance = FLOAT32 if dtype == torch.float32 else CLOSE
    with torch.no_grad():
        assert_alike(there(tokens.to(DEVICE)), here(tokens), **tolerance)
    assert_gradients(there, here, **tolerance)


@pytest.mark.parametrize("name", ["alibi", "rotary"])
def test_mixed_precision_and_checkpoints(name: str) -> None:
    """bfloat16 products stray by a part in 128; blocks computed twice by nothing."""
    here, there = pair(make(name).float())
    twice = copy.deepcopy(there)
    twice.checkpoint = True
    tokens = torch.randint(50, (2, 160))
    expected = here.loss(tokens, tokens)
    losses = []
    for model in (there.train(), twice.train()):
        with torch.autocast(DEVICE, torch.bfloat16):
            losses.append(model.loss(tokens.to(DEVICE), tokens.to(DEVICE)))
        losses[-1].backward()
    assert_alike(losses[0].detach(), expected.detach(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(losses[1], losses[0])
    for one, other in zip(twice.parameters(), there.parameters(), strict=True):
        # gradients of embeddings are added by atomics, in no fixed order
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_encoders_and_cross_attention() -> None:
    torch.manual_seed(0)
    encoder = Encoder(50, 64, num_layers=2, num_heads=4, ff_dim=96, positions=RelativeBias(4))
    here, there = pair(EncoderDecoder(encoder, make(memory_dim=64), start_token=1).double())
    source, target = torch.randint(50, (2, 2, 12))
    real = torch.arange(12) < torch.tensor([[12], [7]])
    inputs = {"source_padding": real, "target_padding": real}
    ours = there(*to((source, target), DEVICE), **to(inputs, DEVICE))
    assert_alike(ours[real.to(DEVICE)], here(source, target, **inputs)[real])
    new = generate(there, [source[0].to(DEVICE), source[1, :7].to(DEVICE)], max_new_tokens=8)
    assert_alike(new, generate(here, [source[0], source[1, :7]], max_new_tokens=8))


PROMPTS = [torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]), torch.tensor([2, 7]), torch.tensor([1, 6, 1, 8, 0])]
DECODING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "window": ({"window": 6}, {}),
    "int8-cache": ({}, {"int8_cache": True}),
    "window-int8-cache": ({"window": 6}, {"int8_cache": True}),
    "chunks": ({}, {"prefill_chunk": 3}),
    "penalty": ({}, {"repetition_penalty": 1.3, "stop_tokens": [7, 11, 13]}),
}


@pytest.mark.parametrize("case", DECODING)
def test_generated_tokens_are_the_cpu_s(case: str) -> None:
    options, asked = DECODING[case]
    here, there = pair(make(**options))
    new = generate(there, to(PROMPTS, DEVICE), max_new_tokens=20, **asked)
    assert {row.device.type for row in new} == {DEVICE}
    assert_alike(new, generate(here, PROMPTS, max_new_tokens=20, **asked))


@pytest.mark.parametrize("name", POSITIONS)
def test_generated_tokens_with_any_positions(name: str) -> None:
    here, there = pair(make(name))
    assert_alike(
        generate(there, to(PROMPTS, DEVICE), max_new_tokens=12), generate(here, PROMPTS, max_new_tokens=12)
    )


def test_draws_repeat_by_seed_and_row() -> None:
    _, there = pair(make())
    asked = {"max_new_tokens": 20, "temperature": 1.0, "top_k": 40, "top_p": 0.95, "min_p": 0.01}
    state = torch.cuda.get_rng_state()
    drawn, again = (generate(there, to(PROMPTS, DEVICE), seed=[5, 6, 7], **asked) for _ in range(2))
    assert_alike(again, to(drawn, "cpu"))
    assert_alike(generate(there, to(PROMPTS[1:2], DEVICE), seed=[6], **asked), to(drawn[1:2], "cpu"))
    other = generate(there, to(PROMPTS, DEVICE), seed=8, **asked)
    assert not all(torch.equal(a, b) for a, b in zip(drawn, other, strict=True))
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_are_the_cpu_s(early_stopping: Any) -> None:
    here, there = pair(make())
    asked = {"num_beams": 3, "max_new_tokens": 12, "stop_tokens": [7, 11], "early_stopping": early_stopping}
    ours = beam_search(there, to(PROMPTS, DEVICE), **asked)
    for mine, expected in zip(ours, beam_search(here, PROMPTS, **asked), strict=True):
        assert_alike([beam.tokens for beam in mine], [beam.tokens for beam in expected])
        assert [beam.score for beam in mine] == pytest.approx([beam.score for beam in expected], abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"capacity": 16}, {"capacity": 16, "int8": True}, {"window": 5}], ids=str
)
@torch.no_grad()
def test_a_cache_goes_on_as_the_whole_pass(options: dict[str, Any]) -> None:
    window = options.get("window")
    _, there = pair(make(window=window))
    tokens = torch.randint(50, (2, 16), device=DEVICE)
    cache = there.new_cache(2, **{key: value for key, value in options.items() if key != "window"})
    parts = [there(part, cache=cache) for part in (tokens[:, :6], *tokens[:, 6:].split(1, dim=1))]
    # 8 bits round keys and values to a part in 254 of their vector's largest
    tolerance = {"rtol": 0.1, "atol": 0.3} if options.get("int8") else CLOSE
    torch.testing.assert_close(torch.cat(parts, 1), there(tokens), **tolerance)
    assert cache.lengths.tolist() == [16, 16]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8], ids=str)
@torch.no_grad()
def test_prepared_models(dtype: torch.dtype | None) -> None:
    """Sums of bfloat16 products are rounded in another order: two parts in 128 of the largest logit."""
    here = prepare_for_decoding(make().float(), dtype=dtype)
    there = prepare_for_decoding(make().float().to(DEVICE), dtype=dtype)
    for time in (1, 40):
        tokens = torch.randint(50, (1, time))
        expected = here(tokens)
        bound = (1e-4 if dtype is None else 2e-2) * expected.abs().max().item()
        assert_alike(there(tokens.to(DEVICE)), expected, rtol=0, atol=bound)
    assert len(generate(there, to(PROMPTS, DEVICE), max_new_tokens=4)) == 3


def test_a_step_of_training_never_waits_for_the_device() -> None:
    _, model = pair(make().float())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(50, (2, 24), device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(tokens, tokens).backward()
        optimizer.step()

    step()
    with unwaited():
        step()


@pytest.mark.parametrize("options", [{}, {"capacity": 16}, {"capacity": 16, "int8": True}], ids=str)
@torch.no_grad()
def test_a_step_of_decoding_never_waits_for_the_device(options: dict[str, Any]) -> None:
    _, model = pair(make().float().eval())
    tokens = torch.randint(50, (2, 8), device=DEVICE)
    cache = model.new_cache(2, **options)
    model(tokens, cache=cache)
    model(tokens[:, :1], cache=cache)
    with unwaited():
        for _ in range(3):
            model(tokens[:, :1], cache=cache)


def loss_inputs(rows: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden, weight = torch.randn(rows, 32, dtype=dtype), torch.randn(vocabulary, 32, dtype=dtype)
    targets = torch.randint(vocabulary, (rows,))
    targets[::7] = -100
    return hidden, weight, targets, torch.randn(vocabulary, dtype=dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [5, 1200])
def test_linear_cross_entropy(rows: int, smoothing: float) -> None:
    """Against torch's own loss of all logits, on the CPU; 1,200 rows are three chunks."""
    hidden, weight, targets, bias = loss_inputs(rows, 9000, torch.float64)
    leaves = [one.to(DEVICE).requires_grad_() for one in (hidden, weight, bias)]
    loss = linear_cross_entropy(*leaves[:2], targets.to(DEVICE), bias=leaves[2], label_smoothing=smoothing)
    ours = torch.autograd.grad(loss, leaves)
    plain = [one.requires_grad_() for one in (hidden, weight, bias)]
    expected = F.cross_entropy(F.linear(*plain), targets, label_smoothing=smoothing)
    tight = {"rtol": 1e-10, "atol": 1e-12}
    assert_alike(loss, expected, **tight)
    assert_alike(ours, torch.autograd.grad(expected, plain), **tight)


def test_linear_cross_entropy_in_mixed_precision() -> None:
    hidden, weight, targets, _ = loss_inputs(700, 9000, torch.float32)
    leaves = [one.to(DEVICE).requires_grad_() for one in (hidden, weight)]
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = linear_cross_entropy(*leaves, targets.to(DEVICE))
    loss.backward()
    assert loss.dtype == torch.float32
    expected = F.cross_entropy(hidden @ weight.T, targets)
    assert_alike(loss.detach(), expected, rtol=1e-2, atol=1e-2)


def test_the_loss_never_holds_all_logits() -> None:
    """Of 8,192 rows over 32,000 words, 1 GiB in float32, it holds a sixteenth, the gradients beside it."""
    hidden = torch.randn(8192, 256, device=DEVICE, requires_grad=True)
    weight = torch.randn(32000, 256, device=DEVICE, requires_grad=True)
    targets = torch.randint(32000, (8192,), device=DEVICE)

    def peak(loss: Callable[[], Tensor]) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(loss(), (hidden, weight))
        return torch.cuda.max_memory_allocated() - before

    logits = 8192 * 32000 * 4
    assert peak(lambda: F.cross_entropy(hidden @ weight.T, targets)) > 1.9 * logits
    assert peak(lambda: linear_cross_entropy(hidden, weight, targets)) < 0.3 * logits


@pytest.mark.parametrize("name", NAMES)
def test_ops_on_their_samples(name: str) -> None:
    """The reference on the device is the reference on the CPU, in float64."""
    own = OPS[name]
    for args in own.samples(DEVICE, torch.float64, torch.Generator().manual_seed(0)):
        expected, ours = to(args, "cpu"), tree_map_only(Tensor, Tensor.clone, args)
        results = own.overload(*ours), own.reference(*expected)
        for mine, other in (results, *((ours[i], expected[i]) for i in own.mutated)):
            assert_alike(mine, other, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_samples_can_be_drawn_on_the_device(name: str) -> None:
    """From the generator that `kernel_checks` hands out: the host's, the same for every device."""
    samples = list(OPS[name].samples(DEVICE, torch.float32, torch.Generator().manual_seed(0)))
    assert all(one.device.type == DEVICE for args in samples for one in args if isinstance(one, Tensor))


def _op_cases() -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Functions of float32 tensors, of which the first is differentiated."""
    torch.manual_seed(0)
    x, weight, angles = torch.randn(2, 4, 9, 16), torch.randn(16), torch.randn(9, 8)
    targets = torch.randint(300, (2, 4, 9))
    return {
        "rms_norm": (lambda x, w: rms_norm(x, w, 1e-6), [x, weight]),
        "layer_norm": (lambda x, w: layer_norm(x, w, w, 1e-5), [x, weight]),
        "rotary": (lambda x, c, s: rotary(x, c, s), [x, angles.cos(), angles.sin()]),
        "rotary-interleaved": (lambda x, c, s: rotary(x, c, s, True), [x, angles.cos(), angles.sin()]),
        "swiglu": (swiglu, [x]),
        "geglu": (geglu, [x]),
        "linear_cross_entropy": (linear_cross_entropy, [x, torch.randn(300, 16), targets]),
    }


@pytest.mark.parametrize("name", _op_cases())
def test_ops_compile(name: str) -> None:
    function, args = _op_cases()[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True)
    leaf, *rest = to(args, DEVICE)
    leaf.requires_grad_()
    expected_leaf = args[0].clone().requires_grad_()
    ours, expected = compiled(leaf, *rest), function(expected_leaf, *args[1:])
    assert_alike(ours, expected, **FLOAT32)
    pairs = ((ours, leaf), (expected, expected_leaf))
    mine, other = (torch.autograd.grad(y.square().sum(), x)[0] for y, x in pairs)
    assert_alike(mine, other, **FLOAT32)


def test_training_compiles() -> None:
    _, model = pair(make().float())
    tokens = torch.randint(50, (2, 32), device=DEVICE)
    torch.compiler.reset()
    loss, expected = torch.compile(model.loss, fullgraph=True)(tokens, tokens), model.loss(tokens, tokens)
    torch.testing.assert_close(loss, expected, **FLOAT32)
    weight = model.embedding.weight
    ours, plain = (torch.autograd.grad(one, weight)[0] for one in (loss, expected))
    torch.testing.assert_close(ours, plain, **FLOAT32)


@pytest.mark.parametrize("int8", [False, True])
@torch.no_grad()
def test_decoding_compiles(int8: bool) -> None:
    """Unequal rows through one graph; past the capacity the device's own assertion would stop the process."""
    _, model = pair(make().float().eval())
    tokens = torch.randint(50, (3, 14), device=DEVICE)
    real = torch.arange(5, device=DEVICE) < torch.tensor([[5], [2], [3]], device=DEVICE)
    plain, static = (model.new_cache(3, capacity=16, int8=int8) for _ in range(2))
    for cache in (plain, static):
        model(tokens[:, :5], padding=real, cache=cache)
    torch.compiler.reset()
    step = torch.compile(lambda token, cache: model(token, cache=cache), fullgraph=True)
    tolerance = {"rtol": 0.05, "atol": 0.05} if int8 else FLOAT32  # a rounding may fall the other way
    for t in range(5, 14):
        one = tokens[:, t : t + 1]
        torch.testing.assert_close(step(one, static), model(one, cache=plain), **tolerance)
    assert static.lengths.tolist() == plain.lengths.tolist() == [14, 11, 12]


@torch.no_grad()
def test_a_step_exported_here_runs_here() -> None:
    _, model = pair(make().float().eval())
    step = DecodingStep(model, capacity=16)
    program = torch.export.export(step, step.example(), dynamic_shapes=step.dynamic_shapes()).module()
    tokens = torch.randint(50, (3, 7), device=DEVICE)
    ours, expected = program(tokens, *step.empty(3)), step(tokens, *step.empty(3))
    torch.testing.assert_close(ours, expected, **FLOAT32)
