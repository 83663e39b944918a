"""Filters, greedy generation, sampling and beam search beside Hugging Face's transformers.

Nothing is downloaded: a Llama with grouped heads and a GPT-2 are built from a configuration, every
parameter drawn. Transformers pads prompts on the left, ours need no padding.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from athena_nn import (
    Decoder,
    LearnedPositions,
    RotaryPositions,
    beam_search,
    filter_logits,
    generate,
    penalize_repetition,
)

VOCABULARY, WIDTH, HEADS, KV_HEADS, LAYERS, FF_DIM, LENGTH = 31, 32, 4, 2, 2, 48, 64
PAD = 29  # not 0: beam search would fill up with the stop token instead
PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 3, 4, 5, 6, 30, 2]]
SIZES = {"num_layers": LAYERS, "num_heads": HEADS, "ff_dim": FF_DIM, "max_length": LENGTH}
TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD}


def draw_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        gain = name.endswith("weight") and ("norm" in name or "ln_" in name)
        nn.init.normal_(parameter, mean=float(gain), std=0.25)


def llama_pair() -> tuple[Decoder, PreTrainedModel]:
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=FF_DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=LENGTH,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            **TOKENS,
        )
    )
    draw_parameters(theirs)
    ours = Decoder(
        VOCABULARY,
        WIDTH,
        num_kv_heads=KV_HEADS,
        positions=RotaryPositions(WIDTH // HEADS),
        tie_embeddings=False,
        **SIZES,
    )
    state = theirs.state_dict()
    weights = {
        "embedding.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "head.weight": state["lm_head.weight"],
    }
    for layer in range(LAYERS):
        their, our = f"model.layers.{layer}", f"blocks.{layer}"
        parts = {
            "attention_norm": ["input_layernorm"],
            "attention.qkv": [f"self_attn.{part}_proj" for part in "qkv"],
            "attention.out": ["self_attn.o_proj"],
            "feed_forward_norm": ["post_attention_layernorm"],
            "feed_forward.up": ["mlp.gate_proj", "mlp.up_proj"],
            "feed_forward.down": ["mlp.down_proj"],
        }
        for name, names in parts.items():
            weights[f"{our}.{name}.weight"] = torch.cat([state[f"{their}.{each}.weight"] for each in names])
    ours.load_state_dict(weights)
    return ours, theirs.eval()


def gpt2_pair() -> tuple[Decoder, PreTrainedModel]:
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=FF_DIM,
            **TOKENS,
        )
    )
    draw_parameters(theirs)
    theirs.transformer.wte.weight.data *= 0.5  # tied to the head: or each token would predict itself
    ours = Decoder(
        VOCABULARY,
        WIDTH,
        positions=LearnedPositions(LENGTH, WIDTH),
        activation="gelu-tanh",
        norm="layer",
        bias=True,
        **SIZES,
    )
    state = theirs.state_dict()
    weights = {
        "positions.weight": state["transformer.wpe.weight"],
        "embedding.weight": state["transformer.wte.weight"],
        "head.weight": state["lm_head.weight"],
    }
    parts = {"norm": "transformer.ln_f"}
    for layer in range(LAYERS):
        their, our = f"transformer.h.{layer}", f"blocks.{layer}"
        parts |= {
            f"{our}.attention_norm": f"{their}.ln_1",
            f"{our}.attention.qkv": f"{their}.attn.c_attn",
            f"{our}.attention.out": f"{their}.attn.c_proj",
            f"{our}.feed_forward_norm": f"{their}.ln_2",
            f"{our}.feed_forward.up": f"{their}.mlp.c_fc",
            f"{our}.feed_forward.down": f"{their}.mlp.c_proj",
        }
    for our, their in parts.items():
        weights[f"{our}.weight"] = state[f"{their}.weight"].t()  # its matrices are (in, out); a vector stays
        weights[f"{our}.bias"] = state[f"{their}.bias"]
    ours.load_state_dict(weights)
    return ours, theirs.eval()


PAIRS = pytest.mark.parametrize("make_pair", [llama_pair, gpt2_pair])


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
@PAIRS
def test_greedy_generation_is_theirs_for_unequal_prompts(make_pair, stop):
    ours, theirs = make_pair()
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


@PAIRS
def test_greedy_generation_with_a_repetition_penalty_is_theirs(make_pair):
    """A row at a time: they penalise what they pad with."""
    ours, theirs = make_pair()
    new = generate(ours, tensors(PROMPTS), max_new_tokens=24, repetition_penalty=1.3)
    for prompt, row in zip(PROMPTS, new, strict=True):
        expected = theirs.generate(
            **padded([prompt]), do_sample=False, max_new_tokens=24, repetition_penalty=1.3
        )
        assert row.tolist() == expected[0, len(prompt) :].tolist()


@PAIRS
def test_what_they_draw_from_is_what_we_draw_from(make_pair):
    """At each step of theirs: the same tokens stay, with the same scores."""
    ours, theirs = make_pair()
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
@PAIRS
def test_beam_search_is_theirs_for_unequal_prompts(make_pair, num_beams, num_stops, penalty, early):
    """All beams, in order: tokens the same, scores within 1e-4."""
    ours, theirs = make_pair()
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
    # a penalty of 2 is a reward of length
    assert num_stops == 0 or penalty == 2 or min(lengths) < 12


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
