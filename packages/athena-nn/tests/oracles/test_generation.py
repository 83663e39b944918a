"""Filters, greedy generation, sampling and beam search beside Hugging Face's transformers.

Nothing is downloaded: models are built from a configuration, every parameter drawn, and ours are loaded from
the files that theirs save. Transformers pads prompts on the left, ours need no padding.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    LlamaConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from athena_nn import Decoder, beam_search, filter_logits, generate, penalize_repetition

VOCABULARY = 31
PAD = 29  # not 0: beam search would fill up with the stop token instead
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 3, 4, 5, 6, 30, 2]]
TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD, "tie_word_embeddings": False}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WINDOW = 6  # shorter than the longest prompt, and than every text
CONFIGS = {
    "llama": LlamaConfig(**LLAMA, **TOKENS),
    "mistral": MistralConfig(**LLAMA, **TOKENS, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**LLAMA, **TOKENS),
    "qwen2-window": Qwen2Config(
        **LLAMA, **TOKENS, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "gpt2": GPT2Config(**GPT2, **TOKENS),
}


@pytest.fixture(params=CONFIGS)
def pair(
    request: pytest.FixtureRequest,
    make_pair: Callable[[PreTrainedConfig, torch.dtype], tuple[Decoder, PreTrainedModel]],
) -> tuple[Decoder, PreTrainedModel]:
    """In float64: of 1,000 tokens a few are so close to another that float32 rounds them either way."""
    return make_pair(CONFIGS[request.param], torch.float64)


def tensors(prompts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(prompt) for prompt in prompts]


def padded(prompts: list[list[int]]) -> dict[str, Tensor]:
    """What transformers takes: padding on the left, and a mask."""
    longest = max(len(prompt) for prompt in prompts)
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ),
    }


def assert_rows(ours: list[Tensor], theirs: Tensor) -> None:
    """Rows of theirs are filled up with padding."""
    width = theirs.shape[1]
    filled = [row.tolist() + [PAD] * (width - len(row)) for row in ours]
    assert filled == theirs.tolist()


@pytest.mark.parametrize("stop", [False, True])
def test_greedy_generation_is_theirs_for_unequal_prompts(pair, stop):
    ours, theirs = pair
    free = generate(ours, tensors(PROMPTS), max_new_tokens=24)
    stops = (int(free[0][5]), int(free[2][9])) if stop else ()
    new = generate(ours, tensors(PROMPTS), max_new_tokens=24, stop_tokens=stops)
    inputs = padded(PROMPTS)
    expected = theirs.generate(
        **inputs, do_sample=False, max_new_tokens=24, eos_token_id=list(stops) or None, pad_token_id=PAD
    )
    assert_rows(new, expected[:, inputs["input_ids"].shape[1] :])
    assert len(torch.cat(free).unique()) > 6  # or agreement would say little
    assert (len(new[0]) < 24) == stop


def test_greedy_generation_with_a_repetition_penalty_is_theirs(pair):
    """A row at a time: they penalise what they pad with."""
    ours, theirs = pair
    new = generate(ours, tensors(PROMPTS), max_new_tokens=24, repetition_penalty=1.3)
    for prompt, row in zip(PROMPTS, new, strict=True):
        expected = theirs.generate(
            **padded([prompt]), do_sample=False, max_new_tokens=24, repetition_penalty=1.3
        )
        assert row.tolist() == expected[0, len(prompt) :].tolist()


def test_what_they_draw_from_is_what_we_draw_from(pair):
    """At each step of theirs: the same tokens stay, with the same scores."""
    ours, theirs = pair
    prompt = PROMPTS[2]
    filters = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02}
    drawn = theirs.generate(
        **padded([prompt]),
        do_sample=True,
        max_new_tokens=20,
        repetition_penalty=1.2,
        output_scores=True,
        return_dict_in_generate=True,
        **filters,
    )
    text = drawn.sequences[0]
    with torch.no_grad():
        logits = ours.eval()(text[None, :-1])[0]
    kept = []
    for step, scores in enumerate(drawn.scores):
        before = text[: len(prompt) + step]
        seen = torch.zeros(VOCABULARY, dtype=torch.bool).scatter(0, before, True)
        expected = filter_logits(penalize_repetition(logits[len(before) - 1], seen, 1.2), **filters)
        torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-4)
        kept.append(int(torch.isfinite(expected).sum()))
    assert len(set(kept)) > 2


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize(("num_beams", "num_stops"), [(2, 0), (3, 1), (4, 3)])
def test_beam_search_is_theirs_for_unequal_prompts(pair, num_beams, num_stops, penalty, early):
    """All beams, in order: tokens the same, scores within 1e-4."""
    ours, theirs = pair
    free = beam_search(ours, tensors(PROMPTS), num_beams=num_beams, max_new_tokens=12)
    stops = [int(beams[0].tokens[place]) for place, beams in zip((3, 5, 7), free, strict=True)][:num_stops]
    found = beam_search(
        ours,
        tensors(PROMPTS),
        num_beams=num_beams,
        max_new_tokens=12,
        length_penalty=penalty,
        stop_tokens=stops,
        early_stopping=early,
    )
    inputs = padded(PROMPTS)
    expected = theirs.generate(
        **inputs,
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=12,
        length_penalty=penalty,
        early_stopping=early,
        eos_token_id=stops or None,
        pad_token_id=PAD,
        output_scores=True,
        return_dict_in_generate=True,
    )
    start, lengths = inputs["input_ids"].shape[1], []
    for row, beams in enumerate(found):
        rows = slice(row * num_beams, (row + 1) * num_beams)
        assert len(beams) == num_beams
        assert_rows([beam.tokens for beam in beams], expected.sequences[rows, start:])
        scores = torch.tensor([beam.score for beam in beams])
        torch.testing.assert_close(scores, expected.sequences_scores[rows], rtol=1e-4, atol=1e-4)
        lengths += [len(beam.tokens) for beam in beams]
    # an exponent above 0 favours long ones
    assert num_stops == 0 or penalty > 0 or min(lengths) < 12


NO_TOKENS = torch.zeros(64, 1, dtype=torch.long)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("top_k", [None, 1, 10, 200])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.0, 0.05, 0.5, 1.0])
def test_filter_is_theirs(temperature, top_k, top_p, min_p):
    """In generation's order: temperature, top-k, top-p, min-p."""
    logits = 3 * torch.randn(64, 128)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p is not None:
        warpers.append(MinPLogitsWarper(min_p))
    ours = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert torch.equal(ours, warpers(NO_TOKENS, logits))


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_top_k_is_theirs_where_logits_are_equal(top_k):
    logits = torch.randint(4, (64, 12)).float()
    assert torch.equal(filter_logits(logits, top_k=top_k), TopKLogitsWarper(top_k)(NO_TOKENS, logits))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.7])
def test_penalty_is_theirs(penalty):
    logits, tokens = torch.randn(64, 128), torch.randint(128, (64, 20))
    seen = torch.zeros(64, 128, dtype=torch.bool).scatter(1, tokens, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits)
    assert torch.equal(penalize_repetition(logits, seen, penalty), expected)
