"""Generation against brute force: the whole text anew for each token, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from athena_nn import (
    Decoder,
    Encoder,
    EncoderDecoder,
    RotaryPositions,
    filter_logits,
    generate,
    penalize_repetition,
    row_seeds,
    stream,
)

VOCABULARY = 19
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12, 18], [0, 3]]


def spread(model: torch.nn.Module) -> None:
    """Weights wide enough that what a model predicts depends on what it sees."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)


def make_decoder(**options: int) -> Decoder:
    model = Decoder(
        VOCABULARY, 16, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=24, dropout=0.3,
        positions=RotaryPositions(4), tie_embeddings=False, **options,
    )  # fmt: skip
    spread(model)
    return model


def make_translator() -> EncoderDecoder:
    sizes = {"num_layers": 2, "num_heads": 4, "ff_dim": 24}
    model = EncoderDecoder(
        Encoder(13, 16, positions=RotaryPositions(4), **sizes),
        Decoder(VOCABULARY, 16, positions=RotaryPositions(4), memory_dim=16, **sizes),
        start_token=4,
    )
    spread(model)
    return model


@pytest.fixture
def model() -> Decoder:
    return make_decoder()


@pytest.fixture
def translator() -> EncoderDecoder:
    return make_translator()


def tensors(prompts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(prompt) for prompt in prompts]


def lists(rows: list[Tensor]) -> list[list[int]]:
    return [row.tolist() for row in rows]


@torch.no_grad()
def brute_force(
    predict: Callable[[list[int]], Tensor], prompt: list[int], steps: int, penalty: float = 1.0
) -> list[int]:
    """The most probable token, ``steps`` times; ``predict`` gives the logits after a text."""
    text = list(prompt)
    for _ in range(steps):
        seen = torch.zeros(VOCABULARY, dtype=torch.bool)
        seen[text] = True
        text.append(int(penalize_repetition(predict(text), seen, penalty).argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("penalty", [1.0, 1.5, 0.7])
def test_greedy_is_the_most_probable_token_after_the_whole_text(model, penalty):
    """Pitfall 3: prompts of unequal lengths, each at its own positions."""
    new = lists(generate(model, tensors(PROMPTS), max_new_tokens=12, repetition_penalty=penalty))
    model.eval()
    expected = [
        brute_force(lambda text: model(torch.tensor([text]))[0, -1], prompt, 12, penalty)
        for prompt in PROMPTS
    ]
    assert new == expected
    assert len({tuple(row) for row in new}) == len(PROMPTS)  # or the prompts would not matter


def test_an_encoder_decoder_begins_with_its_start_token(translator):
    sources = [[1, 2, 3, 4, 5], [6], [7, 12]]
    new = lists(generate(translator, tensors(sources), max_new_tokens=8))
    translator.eval()
    for source, row in zip(sources, new, strict=True):
        seen = torch.tensor([source])
        assert row == brute_force(lambda text: translator(seen, torch.tensor([text]))[0, -1], [4], 8)  # noqa: B023


OPTIONS = [
    pytest.param({}, id="greedy"),
    pytest.param({"repetition_penalty": 1.4}, id="greedy-penalty"),
    pytest.param({"temperature": 1.0}, id="drawn"),
    pytest.param({"temperature": 0.7, "top_k": 5}, id="top-k"),
    pytest.param({"temperature": 1.3, "top_p": 0.8, "repetition_penalty": 1.2}, id="top-p-penalty"),
    pytest.param({"temperature": 2.0, "min_p": 0.1, "top_k": 9, "top_p": 0.9}, id="all"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_of_unequal_prompts_equals_each_prompt_alone(model, options):
    drawn = "temperature" in options
    seeds = {"seed": 3} if drawn else {}
    together = lists(generate(model, tensors(PROMPTS), max_new_tokens=10, **options, **seeds))
    for row, prompt in enumerate(PROMPTS):
        seeds = {"seed": [row_seeds(3, len(PROMPTS))[row]]} if drawn else {}
        assert lists(generate(model, tensors([prompt]), max_new_tokens=10, **options, **seeds)) == [
            together[row]
        ]


@settings(max_examples=15)
@given(
    prompts=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=9), min_size=1, max_size=4),
    chunk=st.none() | st.integers(1, 10),
    seeds=st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("make", [make_decoder, make_translator])
def test_any_batch_in_any_chunks_equals_each_prompt_alone(make, prompts, chunk, seeds):
    model = make()
    each = [seeds.randrange(2**40) for _ in prompts]
    options = {"max_new_tokens": 4, "temperature": 1.0}
    together = generate(model, tensors(prompts), seed=each, prefill_chunk=chunk, **options)
    alone = [
        generate(model, torch.tensor([prompt]), seed=[seed], **options)[0]
        for prompt, seed in zip(prompts, each, strict=True)
    ]
    assert lists(together) == lists(alone)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.0}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}],
    ids=str,
)
def test_frequencies_are_the_models_probabilities(model, options):
    """10,000 rows of one prompt; pairs of tokens against the exact product, within 5 standard deviations."""
    rows, options = 10_000, {"temperature": 1.0} | options
    prompt = torch.tensor([[1, 2]])
    new = generate(model, prompt.expand(rows, 2), max_new_tokens=2, seed=1, **options)
    drawn = torch.stack(new)
    model.eval()
    with torch.no_grad():
        first = filter_logits(model(prompt)[0, -1], **options).softmax(-1)
        pairs = torch.cat((prompt.expand(VOCABULARY, 2), torch.arange(VOCABULARY)[:, None]), dim=1)
        second = filter_logits(model(pairs)[:, -1], **options).softmax(-1)
    exact = (first[:, None] * second).flatten()
    counts = torch.bincount(drawn[:, 0] * VOCABULARY + drawn[:, 1], minlength=VOCABULARY**2)
    deviation = (counts / rows - exact).abs()
    assert (deviation <= 5 * (exact * (1 - exact) / rows).sqrt() + 1e-9).all()


def test_seeds(model):
    prompts = tensors([[1], [1], [1]])
    draws = {
        seed: lists(generate(model, prompts, max_new_tokens=20, temperature=1.0, seed=seed))
        for seed in (0, 1, (5, 5, 6))
    }
    assert draws[0] == lists(generate(model, prompts, max_new_tokens=20, temperature=1.0, seed=0))
    assert draws[0] != draws[1]
    assert draws[0][0] != draws[0][1]
    assert draws[5, 5, 6][0] == draws[5, 5, 6][1] != draws[5, 5, 6][2]
    # at this temperature nearly uniform over 19 tokens: two draws of 3 x 20 are equal once in 19**60
    unseeded = [lists(generate(model, prompts, max_new_tokens=20, temperature=100.0)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_global_generator_modes_and_gradients_are_left_alone(model):
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    [new] = generate(model, torch.tensor([[1]]), max_new_tokens=3, temperature=1.0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    new += 1  # an ordinary tensor
    model(torch.tensor([[1]])).sum().backward()


def test_no_new_tokens_and_other_forms_of_prompts(model):
    empty = generate(model, tensors(PROMPTS), max_new_tokens=0)
    assert [(len(row), row.dtype) for row in empty] == [(0, torch.int64)] * 4
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = lists(generate(model, list(rows), max_new_tokens=5))
    for same in (rows, rows.to(torch.uint8), tuple(rows.int()), torch.stack((rows, rows), 2)[:, :, 0]):
        assert lists(generate(model, same, max_new_tokens=5)) == expected


def test_prompt_and_new_tokens_may_fill_the_length_that_the_model_has():
    """All but the last new token, which the model never sees."""
    model = make_decoder(max_length=8)
    assert len(generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=6)[0]) == 6
    assert len(generate(model, torch.zeros(1, 8, dtype=torch.long), max_new_tokens=1)[0]) == 1
    with pytest.raises(ValueError, match=r"`max_length` = 8; got 3 tokens and `max_new_tokens` = 7"):
        generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=7)
    with pytest.raises(ValueError, match=r"`max_length` = 8; got 9 tokens and `max_new_tokens` = 0"):
        generate(model, torch.zeros(1, 9, dtype=torch.long), max_new_tokens=0)


def test_the_int8_cache_is_used(model, monkeypatch):
    """And what it loses of a key is too little to change these tokens."""
    made = []
    new_cache = model.new_cache
    monkeypatch.setattr(
        model, "new_cache", lambda *args, **options: made.append(new_cache(*args, **options)) or made[-1]
    )
    full, small = (
        generate(model, torch.tensor([PROMPTS[2]]), max_new_tokens=5, int8_cache=int8)
        for int8 in (False, True)
    )
    assert made[1].nbytes < made[0].nbytes
    assert [cache.lengths.tolist() for cache in made] == [[7 + 4], [7 + 4]]
    assert [cache.capacity for cache in made] == [7 + 4, 7 + 4]
    assert lists(full) == lists(small)


@pytest.fixture
def passes(model, monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the tokens of each pass through the model."""
    shapes: list[tuple[int, ...]] = []
    hidden = model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda tokens, **rest: shapes.append(tuple(tokens.shape)) or hidden(tokens, **rest)
    )
    return shapes


def test_each_token_passes_through_the_model_once_and_the_last_never(model, passes):
    generate(model, tensors(PROMPTS), max_new_tokens=4)
    assert passes == [(4, 7), (4, 1), (4, 1), (4, 1)]


def test_a_long_prompt_passes_in_chunks(model, passes):
    generate(model, tensors(PROMPTS), max_new_tokens=2, prefill_chunk=3)
    assert passes == [(4, 3), (4, 3), (4, 1), (4, 1)]


def test_a_compiled_model_decodes_without_compiling_again(model):
    """One graph for the prompts, one for all steps; the same tokens."""
    expected = lists(generate(model, tensors(PROMPTS), max_new_tokens=20))
    counter = CompileCounter()
    model.hidden = torch.compile(model.hidden, fullgraph=True, backend=counter)
    for _ in range(2):
        assert lists(generate(model, tensors(PROMPTS), max_new_tokens=20)) == expected
        assert counter.frame_count == 2


def test_a_model_that_compiles_its_forward_generates_as_before(model):
    expected = lists(generate(model, tensors(PROMPTS), max_new_tokens=5))
    model.compile(backend="eager")
    assert lists(generate(model, tensors(PROMPTS), max_new_tokens=5)) == expected


@pytest.mark.parametrize("make", [make_decoder, make_translator])
def test_a_model_compiled_as_a_whole_is_refused_with_the_way_that_works(make):
    model = make()
    with pytest.raises(
        TypeError, match=r"^`model` .*`decoder\.hidden = torch\.compile\(decoder\.hidden, .*\)`"
    ):
        generate(torch.compile(model, backend="eager"), [torch.tensor([1])], max_new_tokens=1)


def test_a_compiled_decoder_in_a_model_is_refused_and_a_compiled_encoder_runs(translator):
    expected = lists(generate(translator, tensors([[1, 2, 3]]), max_new_tokens=5))
    counter = CompileCounter()
    translator.encoder = torch.compile(translator.encoder, backend=counter)
    assert lists(generate(translator, tensors([[1, 2, 3]]), max_new_tokens=5)) == expected
    assert counter.frame_count == 1
    translator.decoder = torch.compile(translator.decoder, backend="eager")
    with pytest.raises(TypeError, match=r"^`model\.decoder` must not be compiled as a whole"):
        generate(translator, [torch.tensor([1])], max_new_tokens=1)


def test_another_model_is_refused(translator):
    with pytest.raises(TypeError, match=r"`model` must be a Decoder or an EncoderDecoder; got Encoder\."):
        generate(translator.encoder, [torch.tensor([1])], max_new_tokens=1)


FAULTS = [math.nan, math.inf]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("stops", [(), (0, 3)])
def test_logits_that_are_not_finite_are_refused(model, options, stops, fault):
    """In one row of several, for a token that comes late."""
    model.head.register_forward_hook(lambda _, inputs, logits: spoil(logits, row=1, value=fault))
    with pytest.raises(ValueError, match=r"finite logits; got NaN or infinite ones after prompts \[1\]"):
        generate(model, tensors(PROMPTS[:3]), max_new_tokens=3, stop_tokens=stops, **options)


def spoil(logits: Tensor, *, row: int, value: float) -> Tensor:
    logits[row, 11] = value
    return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_any_finite_logit_is_refused(model, temperature):
    model.head.register_forward_hook(lambda _, inputs, logits: logits.fill_(-math.inf))
    with pytest.raises(ValueError, match=r"after prompts \[0\]"):
        generate(model, PROMPT, max_new_tokens=1, temperature=temperature)


def test_a_logit_of_minus_infinity_excludes_its_token(model):
    free = lists(generate(model, tensors(PROMPTS), max_new_tokens=6))
    model.head.register_forward_hook(
        lambda _, inputs, logits: logits.index_fill(1, torch.tensor(free[0][0]), -math.inf)
    )
    assert free[0][0] not in torch.cat(generate(model, tensors(PROMPTS), max_new_tokens=6))


def test_what_follows_the_end_of_a_row_may_be_anything(model):
    """A row means what it means alone, whatever the steps that the others still take."""
    # three rows alike, and one whose first token they do not choose: it alone ends, at once
    prompts = [PROMPTS[0], *[PROMPTS[1]] * 3]
    free = lists(generate(model, tensors(prompts), max_new_tokens=4))
    calls = []

    def hook(_: torch.nn.Module, inputs: object, logits: Tensor) -> Tensor:
        calls.append(1)
        return spoil(logits, row=0, value=math.nan) if len(calls) > 1 else logits

    model.head.register_forward_hook(hook)
    stops = {free[0][0]} - set(free[1])
    assert stops
    new = lists(generate(model, tensors(prompts), max_new_tokens=4, stop_tokens=stops))
    assert new == [free[0][:1], *free[1:]]
    assert len(calls) == 4


def cut(row: list[int], stops: set[int]) -> list[int]:
    """Up to the first stop, which belongs to it."""
    ends = [place + 1 for place, token in enumerate(row) if token in stops]
    return row[: ends[0]] if ends else row


def test_what_is_yielded_is_the_callers_own(model):
    free = torch.stack(generate(model, tensors(PROMPTS), max_new_tokens=4), dim=1)
    for expected, step in zip(free, stream(model, tensors(PROMPTS), max_new_tokens=4), strict=True):
        assert torch.equal(step.tokens, expected)
        step.tokens.fill_(0)
        step.done.fill_(True)


def test_a_row_ends_with_its_stop_token_and_the_others_go_on(model):
    free = lists(generate(model, tensors(PROMPTS), max_new_tokens=12))
    for stops in ({free[0][4]}, {free[1][0], free[2][7]}, {free[3][11]}):
        stopped = lists(generate(model, tensors(PROMPTS), max_new_tokens=12, stop_tokens=stops))
        assert stopped == [cut(row, stops) for row in free]
        assert stopped != free or stops == {free[3][11]}


def test_generation_ends_as_soon_as_all_rows_have(model, passes):
    free = lists(generate(model, tensors(PROMPTS), max_new_tokens=12))
    passes.clear()
    generate(model, tensors(PROMPTS), max_new_tokens=12, stop_tokens={row[2] for row in free})
    assert len(passes) <= 3


def test_a_row_ends_with_the_token_that_completes_a_stop_string(model):
    def text(tokens: list[int]) -> str:
        return "".join(f"<{token}>" for token in tokens)

    free = lists(generate(model, tensors(PROMPTS), max_new_tokens=12))
    string = f"{free[0][3]}><{free[0][4]}"
    stopped = lists(generate(model, tensors(PROMPTS), max_new_tokens=12, stop_strings=[string], decode=text))
    for full, row in zip(free, stopped, strict=True):
        place = next((i for i in range(12) if string in text(full[: i + 1])), 11)
        assert row == full[: place + 1]
    assert len(stopped[0]) <= 5


def test_a_stream_yields_what_is_generated_and_marks_rows_that_have_ended(model):
    free = lists(generate(model, tensors(PROMPTS), max_new_tokens=9))
    stops = {free[0][2], free[1][5]}
    expected = [cut(row, stops) for row in free]
    steps = list(stream(model, tensors(PROMPTS), max_new_tokens=9, stop_tokens=stops))
    assert len(steps) == max(len(row) for row in expected)
    for place, step in enumerate(steps):
        assert step.tokens.tolist() == [row[place] if place < len(row) else -1 for row in expected]
        assert step.done.tolist() == [row[-1] in stops and place >= len(row) - 1 for row in expected]


def test_between_steps_of_a_stream_modes_and_gradients_are_as_they_were(model):
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    during = []
    model.blocks[1].register_forward_hook(
        lambda *_: during.append((any(m.training for m in model.modules()), torch.is_grad_enabled()))
    )
    for _ in stream(model, torch.tensor([[1, 2]]), max_new_tokens=4):
        assert [module.training for module in model.modules()] == modes
        assert torch.is_grad_enabled()
    assert during == [(False, False)] * 4


def test_streams_side_by_side_on_one_model_give_what_each_gives_alone(model):
    """The shorter ends while the longer one still runs; dropout stays off for it."""
    expected = [lists(generate(model, tensors([prompt]), max_new_tokens=12)) for prompt in PROMPTS[:2]]
    short = stream(model, tensors(PROMPTS[:1]), max_new_tokens=3)
    long = stream(model, tensors(PROMPTS[1:2]), max_new_tokens=12)
    found = [next(steps).tokens.item() for steps in (short, long)]
    assert [found[0], *(step.tokens.item() for step in short)] == expected[0][0][:3]
    assert [found[1], *(step.tokens.item() for step in long)] == expected[1][0]
    assert model.training


def test_a_step_that_fails_restores_modes_and_gradients(model):
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    model.blocks[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(model, torch.tensor([[1, 2]]), max_new_tokens=4)
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


PROMPT = torch.tensor([[1, 2]])


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], ValueError, "at least one prompt"),
        (torch.zeros(0, 3, dtype=torch.long), ValueError, "at least one prompt"),
        (
            [torch.tensor([1]), torch.tensor([], dtype=torch.long)],
            ValueError,
            r"`prompts\[1\]` .* got \(0,\)",
        ),
        (torch.zeros(2, 0, dtype=torch.long), ValueError, r"`prompts\[0\]` .*at least 1"),
        (torch.tensor([1, 2]), ValueError, r"got shape \(2,\)\. Write `\[prompt\]`"),
        ([torch.tensor([[1]])], ValueError, r"must have shape \(time,\)"),
        ([torch.tensor([1.0])], TypeError, "integer dtype; got torch.float32"),
        ([torch.tensor([True])], TypeError, "integer dtype; got torch.bool"),
        ([[1, 2]], TypeError, r"`prompts\[0\]` must be a tensor of token ids; got list"),
        ([torch.tensor([3]), torch.tensor([0, 19])], ValueError, r"token ids in \[0, 19\); got 19"),
        ([torch.tensor([3, -1])], ValueError, r"token ids in \[0, 19\); got -1"),
        (
            [torch.tensor([3]), torch.tensor([3], device="meta")],
            ValueError,
            "one device; got cpu first, meta at 1",
        ),
    ],
)
def test_bad_prompts_are_refused(model, prompts, error, message):
    with pytest.raises(error, match=message):
        generate(model, prompts, max_new_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "`max_new_tokens` must be at least 0; got -1"),
        ({"temperature": -0.1}, "`temperature` must be finite and at least 1e-6"),
        ({"temperature": math.nan}, "`temperature`"),
        ({"temperature": 1.0, "top_k": 0}, "`top_k`"),
        ({"temperature": 1.0, "top_p": 0.0}, "`top_p`"),
        ({"temperature": 1.0, "min_p": 2.0}, "`min_p`"),
        ({"top_k": 3}, "`top_k` needs a `temperature` above 0"),
        ({"top_p": 0.9}, "`top_p` needs a `temperature`"),
        ({"min_p": 0.1}, "`min_p` needs a `temperature`"),
        ({"seed": 0}, "`seed` needs a `temperature`"),
        (
            {"temperature": 1.0, "seed": [1, 2]},
            "`seed` must be an integer or name one for each of 1 prompts; got 2",
        ),
        ({"repetition_penalty": 0.0}, "`repetition_penalty`"),
        ({"stop_tokens": [19]}, "`stop_tokens` must lie in"),
        ({"stop_strings": ["a"]}, "go together"),
        ({"prefill_chunk": 0}, "`prefill_chunk` must be at least 1"),
    ],
)
def test_bad_options_are_refused_by_the_call_itself(model, passes, options, message):
    with pytest.raises(ValueError, match=message):
        stream(model, PROMPT, **({"max_new_tokens": 1} | options))
    with pytest.raises(ValueError, match=message):
        generate(model, PROMPT, **({"max_new_tokens": 1} | options))
    assert passes == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 2.5}, "`max_new_tokens` must be an integer; got 2.5"),
        ({"max_new_tokens": True}, "`max_new_tokens` must be an integer; got True"),
        ({"temperature": 1.0, "top_k": 2.5}, "`top_k` must be an integer; got 2.5"),
        ({"temperature": 1.0, "seed": 1.7}, "`seed` must be an integer; got 1.7"),
        ({"temperature": 1.0, "seed": True}, "`seed` must be an integer; got True"),
        ({"temperature": 1.0, "seed": [0.5]}, r"`seed\[0\]` must be an integer; got 0.5"),
        ({"prefill_chunk": 1.5}, "`prefill_chunk` must be an integer; got 1.5"),
        ({"temperature": None}, "`temperature` must be a number; got None"),
        ({"temperature": 1.0, "top_p": "0.9"}, "`top_p` must be a number; got '0.9'"),
        ({"temperature": 1.0, "min_p": "0.1"}, "`min_p` must be a number; got '0.1'"),
        ({"repetition_penalty": None}, "`repetition_penalty` must be a number; got None"),
        ({"stop_tokens": 3}, "`stop_tokens` must be a collection of token ids"),
    ],
)
def test_options_of_another_type_are_refused_by_the_call_itself(model, passes, options, message):
    with pytest.raises(TypeError, match=message):
        stream(model, PROMPT, **({"max_new_tokens": 1} | options))
    assert passes == []


def test_numpys_integers_are_integers(model):
    numpy = pytest.importorskip("numpy")
    options = {"max_new_tokens": 3, "top_k": 4, "seed": 5, "prefill_chunk": 1}
    expected = lists(generate(model, PROMPT, temperature=1.0, **options))
    same = {name: numpy.int64(value) for name, value in options.items()}
    assert lists(generate(model, PROMPT, temperature=1.0, **same)) == expected


def test_of_tokens_that_tie_with_the_last_of_top_k_exactly_as_many_stay_as_make_it_up(model):
    """`filter_logits` keeps all; here the sorting of a vocabulary is saved."""
    model.head.register_forward_hook(lambda _, inputs, logits: torch.zeros_like(logits))
    new = generate(model, PROMPT.expand(400, 2), max_new_tokens=1, temperature=1.0, top_k=3, seed=0)
    assert len(torch.cat(new).unique()) == 3


def test_a_source_longer_than_the_encoder_takes_is_refused():
    sizes = {"num_layers": 1, "num_heads": 2, "ff_dim": 8}
    model = EncoderDecoder(
        Encoder(9, 8, max_length=3, **sizes),
        Decoder(9, 8, max_length=5, memory_dim=8, **sizes),
        start_token=0,
    )
    assert len(generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=5)[0]) == 5
    with pytest.raises(ValueError, match=r"at most 3 tokens each, the encoder's `max_length`; got 4"):
        generate(model, torch.tensor([[1, 2, 3, 4]]), max_new_tokens=1)
    with pytest.raises(ValueError, match=r"`max_length` = 5; got 1 tokens and `max_new_tokens` = 6"):
        generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=6)
