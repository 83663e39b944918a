"""Beam search against brute force, and against a plain search that keeps lists and no cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from athena_nn import Beam, Decoder, Encoder, EncoderDecoder, RotaryPositions, beam_search, generate

PROMPTS = [[1, 2, 3], [0], [2, 2, 4, 3, 1, 0]]
STOP = 4
Hypothesis = tuple[list[int], float]
Predict = Callable[[list[int]], list[float]]


def make_decoder(vocabulary: int) -> Decoder:
    model = Decoder(
        vocabulary, 16, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=24, dropout=0.2,
        positions=RotaryPositions(4), tie_embeddings=False,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def make_translator(vocabulary: int) -> EncoderDecoder:
    sizes = {"num_layers": 2, "num_heads": 4, "ff_dim": 24}
    model = EncoderDecoder(
        Encoder(5, 16, positions=RotaryPositions(4), **sizes),
        Decoder(vocabulary, 16, positions=RotaryPositions(4), memory_dim=16, **sizes),
        start_token=1,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def uncached(model: Decoder | EncoderDecoder, prompt: list[int]) -> Predict:
    """Log-probabilities of the token after ``prompt`` and what is new, from one pass over all of it."""

    @cache
    @torch.no_grad()
    def predict(new: tuple[int, ...]) -> list[float]:
        if isinstance(model, EncoderDecoder):
            logits = model(torch.tensor([prompt]), torch.tensor([[model.start_token, *new]]))
        else:
            logits = model(torch.tensor([[*prompt, *new]]))
        return logits[0, -1].log_softmax(-1).tolist()

    model.eval()
    return lambda new: predict(tuple(new))


def plain_search(
    predict: Predict, num_beams: int, steps: int, penalty: float, stops: tuple[int, ...], early: bool | str
) -> list[Hypothesis]:
    running: list[Hypothesis] = [([], 0.0)]
    finished: list[Hypothesis] = []
    for length in range(1, steps + 1):
        extended = [
            ([*tokens, token], score + log_probability)
            for tokens, score in running
            for token, log_probability in enumerate(predict(tokens))
        ]
        extended.sort(key=lambda one: -one[1])
        ends = [tokens[-1] in stops or length == steps for tokens, _ in extended]
        finished += [
            (tokens, score / length**penalty)
            for (tokens, score), end in list(zip(extended, ends, strict=True))[:num_beams]
            if end
        ]
        finished = sorted(finished, key=lambda one: -one[1])[:num_beams]
        running = [one for one, end in zip(extended, ends, strict=True) if not end][:num_beams]
        reach = steps if early == "never" and penalty > 0 else length
        if len(finished) == num_beams and (
            early is True or not running or running[0][1] / reach**penalty <= finished[-1][1]
        ):
            break
    return finished


def assert_same(beams: list[Beam], expected: list[Hypothesis]) -> None:
    assert [beam.tokens.tolist() for beam in beams] == [tokens for tokens, _ in expected]
    assert [beam.score for beam in beams] == pytest.approx(
        [score for _, score in expected], rel=1e-6, abs=1e-5
    )


def tensors(prompts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(prompt) for prompt in prompts]


@pytest.mark.parametrize("stops", [(), (STOP,), (STOP, 7)], ids=str)
@pytest.mark.parametrize("make", [make_decoder, make_translator])
def test_cached_is_uncached_tokens_and_scores(make, stops):
    """Pitfall 8: beams reorder the cache. Prompts of unequal lengths, in one batch."""
    model = make(11)
    predictors = [uncached(model, prompt) for prompt in PROMPTS]
    for penalty, early in itertools.product([1.0, 0.0, 2.0, -1.0], [False, True, "never"]):
        found = beam_search(
            model, tensors(PROMPTS), num_beams=4, max_new_tokens=6, length_penalty=penalty,
            stop_tokens=stops, early_stopping=early,
        )  # fmt: skip
        for predict, beams in zip(predictors, found, strict=True):
            assert_same(beams, plain_search(predict, 4, 6, penalty, stops, early))


def test_beams_swap_their_places():
    """Or the test above would not see a cache that is never reordered."""
    model = make_decoder(11)
    beams = [
        [
            beam.tokens.tolist()
            for beam in beam_search(model, tensors(PROMPTS[:1]), num_beams=4, max_new_tokens=n)[0]
        ]
        for n in (3, 7)
    ]
    assert [tokens[:3] for tokens in beams[1]] != beams[0]


def every_text(predict: Predict, vocabulary: int, steps: int, penalty: float) -> list[Hypothesis]:
    """All texts that end with the stop token, or have ``steps`` tokens, by score."""
    texts = []
    for length in range(1, steps + 1):
        for text in itertools.product(range(vocabulary), repeat=length):
            if STOP not in text[:-1] and (text[-1] == STOP or length == steps):
                log_probability = sum(predict(list(text[:i]))[text[i]] for i in range(length))
                texts.append((list(text), log_probability / length**penalty))
    return sorted(texts, key=lambda one: -one[1])


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_every_text(penalty):
    """Five tokens, three steps: 1 + 4 + 4 * 4 * 5 texts, all of them found, and no more returned."""
    model = make_decoder(5)
    predict = uncached(model, PROMPTS[0])
    expected = every_text(predict, 5, 3, penalty)
    assert len(expected) == 85
    [beams] = beam_search(
        model, tensors(PROMPTS[:1]), num_beams=100, max_new_tokens=3, length_penalty=penalty,
        stop_tokens=(STOP,), early_stopping="never",
    )  # fmt: skip
    assert_same(beams, expected)
    assert math.fsum(math.exp(beam.score * len(beam.tokens) ** penalty) for beam in beams) == pytest.approx(1)


def test_one_beam_is_greedy():
    model = make_decoder(11)
    free = generate(model, tensors(PROMPTS), max_new_tokens=8, stop_tokens=(STOP,))
    found = beam_search(model, tensors(PROMPTS), num_beams=1, max_new_tokens=8, stop_tokens=(STOP,))
    assert [beams[0].tokens.tolist() for beams in found] == [row.tolist() for row in free]


@pytest.mark.parametrize("make", [make_decoder, make_translator])
def test_a_batch_of_unequal_prompts_equals_each_prompt_alone_in_any_chunks(make):
    model = make(11)
    options = {"num_beams": 3, "max_new_tokens": 6, "stop_tokens": (STOP,)}
    together = beam_search(model, tensors(PROMPTS), prefill_chunk=2, **options)
    for prompt, beams in zip(PROMPTS, together, strict=True):
        [alone] = beam_search(model, torch.tensor([prompt]), **options)
        assert_same(beams, [(beam.tokens.tolist(), beam.score) for beam in alone])


def test_the_search_ends_when_no_row_can_improve(monkeypatch):
    model = make_decoder(11)
    model.head.weight.data[STOP] = 0
    model.head.weight.data[:] *= 0.01  # all tokens alike: stopping early is best if length costs
    passes = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *args, **rest: passes.append(1) or hidden(*args, **rest))
    options = {"num_beams": 2, "max_new_tokens": 40, "stop_tokens": range(11)}
    found = beam_search(model, tensors(PROMPTS), **options)
    assert [len(beam.tokens) for beams in found for beam in beams] == [1] * 6
    assert len(passes) == 1


def test_modes_and_gradients_are_left_alone_and_the_int8_cache_is_used(monkeypatch):
    model = make_decoder(11)
    made = []
    new_cache = model.new_cache
    monkeypatch.setattr(
        model, "new_cache", lambda *args, **options: made.append(new_cache(*args, **options)) or made[-1]
    )
    options = {"num_beams": 2, "max_new_tokens": 4}
    full, small = (beam_search(model, tensors(PROMPTS), int8_cache=int8, **options) for int8 in (False, True))
    assert made[1].nbytes < made[0].nbytes
    for beams, others in zip(full, small, strict=True):
        assert beams[0].score == pytest.approx(others[0].score, abs=0.05)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "`num_beams` must be at least 1; got 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1; got 0"),
        ({"length_penalty": math.inf}, "`length_penalty` must be finite"),
        ({"length_penalty": -(10**9)}, "`length_penalty` must be finite"),
        ({"early_stopping": "always"}, "`early_stopping` must be True, False or \"never\"; got 'always'"),
        ({"stop_tokens": [11]}, "`stop_tokens` must lie in"),
        ({"prefill_chunk": 0}, "`prefill_chunk`"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        beam_search(make_decoder(11), tensors(PROMPTS), **({"num_beams": 2, "max_new_tokens": 3} | options))


@pytest.mark.parametrize(
    "options", [{"num_beams": 1.5}, {"max_new_tokens": 2.5}, {"num_beams": True}], ids=str
)
def test_options_of_another_type_are_refused(options):
    [name] = options
    with pytest.raises(TypeError, match=f"`{name}` must be an integer; got"):
        beam_search(make_decoder(11), tensors(PROMPTS), **({"num_beams": 2, "max_new_tokens": 3} | options))


def test_a_length_penalty_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="`length_penalty` must be a number; got None"):
        beam_search(make_decoder(11), tensors(PROMPTS), num_beams=2, max_new_tokens=3, length_penalty=None)


def test_other_models_are_refused():
    model = make_translator(11)
    with pytest.raises(TypeError, match=r"`model` must be a Decoder or an EncoderDecoder; got Encoder\."):
        beam_search(model.encoder, tensors(PROMPTS), num_beams=2, max_new_tokens=3)
    with pytest.raises(TypeError, match="`model` must not be compiled as a whole"):
        beam_search(torch.compile(model, backend="eager"), tensors(PROMPTS), num_beams=2, max_new_tokens=3)


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("stops", [(), (STOP,)])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(early, stops, late, fault):
    model = make_decoder(11)
    calls = []

    def hook(_: torch.nn.Module, inputs: object, logits: Tensor) -> Tensor:
        calls.append(1)
        rows = logits.shape[0] // len(PROMPTS)
        logits[:, STOP] -= 30  # no row ends before its time
        if late == (len(calls) > 1):
            logits[rows, 7] = fault  # the second prompt's first beam
        return logits

    model.head.register_forward_hook(hook)
    with pytest.raises(ValueError, match=r"finite logits; got NaN or infinite ones after prompts \[1\]"):
        beam_search(
            model, tensors(PROMPTS), num_beams=3, max_new_tokens=4, stop_tokens=stops, early_stopping=early
        )


def test_prompt_and_new_tokens_may_fill_the_length_that_the_model_has():
    """All but the last new token, which the model never sees."""
    model = Decoder(11, 16, num_layers=1, num_heads=4, ff_dim=24, max_length=8)
    made = []
    new_cache = model.new_cache
    model.new_cache = lambda *args, **options: made.append(new_cache(*args, **options)) or made[-1]
    [[beam, _]] = beam_search(model, torch.tensor([[1, 2, 3]]), num_beams=2, max_new_tokens=6)
    assert len(beam.tokens) == 6
    assert made[0].capacity == 8
    assert made[0].lengths.tolist() == [8, 8]
    with pytest.raises(ValueError, match=r"`max_length` = 8; got 3 tokens and `max_new_tokens` = 7"):
        beam_search(model, torch.tensor([[1, 2, 3]]), num_beams=2, max_new_tokens=7)


def test_bad_prompts_are_refused():
    with pytest.raises(ValueError, match=r"token ids in \[0, 11\); got 11"):
        beam_search(make_decoder(11), [torch.tensor([11])], num_beams=2, max_new_tokens=3)
