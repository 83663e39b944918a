"""Filtering against a slow reference by sorting lists; sampling against exact frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_nn import DecoderLM, RotaryPositions, filter_logits, sample


def plain_filter(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """The same, a token at a time, in Python's float64."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if temperature == 0:
        return [logits[token] if token == order[0] else -math.inf for token in range(len(logits))]
    scaled = [logit / temperature for logit in logits]
    kept = order[:top_k]
    if top_p is not None:
        largest = max(scaled)
        weights = [math.exp(scaled[token] - largest) for token in kept]
        chosen, mass = [], 0.0
        for token, weight in zip(kept, weights, strict=True):
            chosen.append(token)
            mass += weight / sum(weights)
            if mass >= top_p < 1:
                break
        kept = chosen
    return [scaled[token] if token in kept else -math.inf for token in range(len(logits))]


@settings(max_examples=200)
@given(
    logits=st.lists(st.integers(-20, 20), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.sampled_from([0.013, 0.21, 0.57, 0.913, 1.0]),
)
def test_filter_equals_the_plain_reference(logits, temperature, top_k, top_p):
    """Ties among them: whole numbers are often equal."""
    values = [logit / 4 for logit in logits]
    got = filter_logits(torch.tensor(values), temperature=temperature, top_k=top_k, top_p=top_p)
    expected = torch.tensor(plain_filter(values, temperature, top_k, top_p))
    torch.testing.assert_close(got, expected)


def test_filter_takes_rows_and_low_precision():
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=torch.bfloat16)
    kept = filter_logits(logits, top_k=2)
    assert kept.dtype == torch.float32
    assert torch.isfinite(kept).tolist() == [[False, True, True], [True, True, False]]


def test_filter_golden_value():
    """Probabilities 0.5, 0.3, 0.15, 0.05: top-p 0.7 needs two, 0.8 still two, 0.81 three."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    counts = [int(torch.isfinite(filter_logits(logits, top_p=p)).sum()) for p in (0.4, 0.7, 0.799, 0.81, 1.0)]
    assert counts == [1, 2, 2, 3, 4]


def test_a_tail_of_tiny_probabilities_is_not_lost():
    """Summed from the largest, float32 reaches 1 at the first token."""
    logits = torch.tensor([50.0, 0.0, -1.0])
    assert torch.isfinite(filter_logits(logits, top_p=1.0)).all()


def test_a_set_that_reaches_top_p_exactly_is_enough():
    assert torch.isfinite(filter_logits(torch.zeros(4), top_p=0.5)).tolist() == [True, True, False, False]


@pytest.fixture
def model() -> DecoderLM:
    model = DecoderLM(
        8, 16, num_layers=1, num_heads=2, ff_dim=16, max_length=6, positions=RotaryPositions(8), dropout=0.3
    )
    torch.nn.init.normal_(model.embedding.weight, std=0.3)
    return model


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}])
def test_frequencies_are_the_models_probabilities(model, options):
    """10,000 rows of one prompt; pairs of tokens against the exact product, within 5 standard deviations."""
    rows = 10_000
    prompt = torch.tensor([[1, 2]])
    drawn = sample(model, prompt.expand(rows, 2), max_new_tokens=2, seed=1, **options)
    model.eval()
    with torch.no_grad():
        first = filter_logits(model(prompt)[0, -1], **options).softmax(-1)
        pairs = torch.cat((prompt.expand(8, 2), torch.arange(8)[:, None]), dim=1)
        second = filter_logits(model(pairs)[:, -1], **options).softmax(-1)
    exact = (first[:, None] * second).flatten()
    counts = torch.bincount(drawn[:, 0] * 8 + drawn[:, 1], minlength=64)
    deviation = (counts / rows - exact).abs()
    assert (deviation <= 5 * (exact * (1 - exact) / rows).sqrt() + 1e-9).all()


def test_temperature_0_is_greedy_by_brute_force(model):
    prompt = torch.tensor([[1, 2], [5, 0]])
    drawn = sample(model, prompt, max_new_tokens=6, temperature=0.0)
    model.eval()
    for row in range(2):
        tokens = prompt[row].tolist()
        for step in range(6):
            with torch.no_grad():
                logits = model(torch.tensor([tokens[-6:]]))[0, -1]
            tokens.append(int(logits.argmax()))
            assert drawn[row, step] == tokens[-1]
    assert torch.equal(drawn, sample(model, prompt, max_new_tokens=6, top_k=1, seed=3))


def test_a_batch_equals_its_rows_alone_when_greedy(model):
    prompt = torch.randint(8, (4, 3))
    together = sample(model, prompt, max_new_tokens=5, temperature=0.0)
    alone = [sample(model, row[None], max_new_tokens=5, temperature=0.0) for row in prompt]
    assert torch.equal(together, torch.cat(alone))


def test_seeds_and_generators(model):
    prompt = torch.tensor([[1]])
    draws = {seed: sample(model, prompt, max_new_tokens=20, seed=seed) for seed in (0, 1)}
    assert torch.equal(draws[0], sample(model, prompt, max_new_tokens=20, seed=0))
    assert not torch.equal(draws[0], draws[1])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(sample(model, prompt, max_new_tokens=20, generator=generator), draws[0])
    assert not torch.equal(sample(model, prompt, max_new_tokens=20, generator=generator), draws[0])
    # Nearly uniform over 8 tokens: two draws of 40 are equal once in 8**40.
    unseeded = [sample(model, prompt, max_new_tokens=40, temperature=100.0) for _ in range(2)]
    assert not torch.equal(*unseeded)


def test_global_generator_modes_and_gradients_are_left_alone(model):
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    new = sample(model, torch.tensor([[1]]), max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert not new.requires_grad
    assert torch.is_grad_enabled()


def test_no_new_tokens_and_a_prompt_longer_than_the_model_sees(model):
    assert sample(model, torch.tensor([[1, 2]]), max_new_tokens=0).shape == (1, 0)
    long = torch.randint(8, (1, 20))
    assert torch.equal(
        sample(model, long, max_new_tokens=4, temperature=0.0),
        sample(model, long[:, -6:], max_new_tokens=4, temperature=0.0),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "`temperature` must be finite and at least 0"),
        ({"temperature": math.nan}, "`temperature`"),
        ({"temperature": math.inf}, "`temperature`"),
        ({"top_k": 0}, "`top_k` must be at least 1"),
        ({"top_p": 0.0}, r"`top_p` must lie in \(0, 1\]"),
        ({"top_p": 1.1}, "`top_p`"),
        ({"top_p": math.nan}, "`top_p`"),
    ],
)
def test_bad_options_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        sample(model, torch.tensor([[1]]), max_new_tokens=1, **options)
    with pytest.raises(ValueError, match=message):
        filter_logits(torch.zeros(3), **options)


def test_bad_prompts_and_counts_are_refused(model):
    with pytest.raises(ValueError, match="time at least 1"):
        sample(model, torch.zeros(1, 0, dtype=torch.long), max_new_tokens=1)
    with pytest.raises(ValueError, match=r"shape \(batch, time\)"):
        sample(model, torch.zeros(3, dtype=torch.long), max_new_tokens=1)
    with pytest.raises(ValueError, match="`max_new_tokens` must be at least 0"):
        sample(model, torch.tensor([[1]]), max_new_tokens=-1)
    with pytest.raises(ValueError, match="exclude each other"):
        sample(model, torch.tensor([[1]]), max_new_tokens=1, seed=0, generator=torch.Generator())
