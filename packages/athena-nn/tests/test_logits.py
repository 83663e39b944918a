"""Filters and penalty against slow references over lists; draws against exact frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athena_nn import filter_logits, penalize_repetition, row_seeds
from athena_nn._logits import draw_tokens


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def plain_filter(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> list[float]:
    """The same, a token at a time, in Python's float64."""
    scaled = [logit / temperature for logit in logits]
    kept = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if top_k is not None and top_k < len(kept):
        kept = [token for token in kept if logits[token] >= logits[kept[top_k - 1]]]
    if top_p is not None and top_p < 1:
        chosen, mass = [], 0.0
        for token, probability in zip(kept, softmax([scaled[token] for token in kept]), strict=True):
            chosen.append(token)
            mass += probability
            if mass >= top_p:
                break
        kept = chosen
    if min_p is not None:
        probabilities = softmax([scaled[token] for token in kept])
        kept = [
            token for token, one in zip(kept, probabilities, strict=True) if one >= min_p * probabilities[0]
        ]
    return [scaled[token] if token in kept else -math.inf for token in range(len(logits))]


@settings(max_examples=300)
@given(
    logits=st.lists(st.integers(-20, 20), min_size=1, max_size=12),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.sampled_from([0.013, 0.21, 0.57, 0.913, 1.0]),
    min_p=st.none() | st.sampled_from([0.0, 0.017, 0.31, 0.9, 1.0]),
)
def test_filter_equals_the_plain_reference(logits, temperature, top_k, top_p, min_p):
    """Ties among them: whole numbers are often equal."""
    values = [logit / 4 for logit in logits]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    torch.testing.assert_close(
        filter_logits(torch.tensor(values), **options), torch.tensor(plain_filter(values, **options))
    )


def test_filter_takes_rows_and_low_precision():
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=torch.bfloat16)
    kept = filter_logits(logits, top_k=2)
    assert kept.dtype == torch.float32
    assert torch.isfinite(kept).tolist() == [[False, True, True], [True, True, False]]


def counts(options: list[dict[str, float]]) -> list[int]:
    """How many of probabilities 0.5, 0.3, 0.15, 0.05 stay."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    return [int(torch.isfinite(filter_logits(logits, **each)).sum()) for each in options]


def test_filter_golden_values():
    assert counts([{"top_p": p} for p in (0.4, 0.7, 0.799, 0.81, 1.0)]) == [1, 2, 2, 3, 4]
    assert counts([{"min_p": p} for p in (0.0, 0.09, 0.11, 0.31, 0.59, 0.61, 1.0)]) == [4, 4, 3, 2, 2, 1, 1]
    # 0.5 and 0.3 stay and become 5/8 and 3/8: the second has 0.6 of the first
    assert counts([{"top_k": 2, "top_p": 0.62}, {"top_k": 2, "top_p": 0.63}]) == [1, 2]
    assert counts([{"top_p": 0.7, "min_p": 0.59}, {"top_p": 0.7, "min_p": 0.61}]) == [2, 1]


def test_a_tail_of_tiny_probabilities_is_not_lost():
    """Summed from the largest, float32 reaches 1 at the first token."""
    assert torch.isfinite(filter_logits(torch.tensor([50.0, 0.0, -1.0]), top_p=1.0)).all()


def test_a_set_that_reaches_top_p_exactly_is_enough():
    assert torch.isfinite(filter_logits(torch.zeros(4), top_p=0.5)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be finite and at least 1e-6"),
        ({"temperature": 1e-300}, "`temperature` must be finite and at least 1e-6"),
        ({"temperature": math.nan}, "`temperature`"),
        ({"temperature": math.inf}, "`temperature`"),
        ({"top_k": 0}, "`top_k` must be at least 1"),
        ({"top_p": 0.0}, r"`top_p` must lie in \(0, 1\]"),
        ({"top_p": 1.1}, "`top_p`"),
        ({"top_p": math.nan}, "`top_p`"),
        ({"min_p": -0.1}, r"`min_p` must lie in \[0, 1\]"),
        ({"min_p": math.nan}, "`min_p`"),
    ],
)
def test_bad_filters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        filter_logits(torch.zeros(3), **options)


def test_a_top_k_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match=r"`top_k` must be an integer; got 2\.5"):
        filter_logits(torch.zeros(3), top_k=2.5)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_penalty_equals_the_plain_reference(penalty):
    logits, seen = torch.randn(5, 11), torch.rand(5, 11) < 0.4
    penalized = penalize_repetition(logits, seen, penalty)
    for row in range(5):
        for token in range(11):
            logit = logits[row, token].item()
            expected = logit / penalty if logit >= 0 else logit * penalty
            assert penalized[row, token].item() == pytest.approx(expected if seen[row, token] else logit)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan, math.inf])
def test_bad_penalties_are_refused(penalty):
    with pytest.raises(ValueError, match="`repetition_penalty` must be finite and above 0"):
        penalize_repetition(torch.zeros(2), torch.ones(2, dtype=torch.bool), penalty)


def test_draws_have_the_probabilities_of_the_softmax():
    """20,000 rows within 5 standard deviations; what is excluded is never drawn."""
    rows = 20_000
    logits = torch.tensor([1.0, -math.inf, 0.0, -2.0, 3.0])
    generators = [torch.Generator().manual_seed(seed) for seed in row_seeds(0, rows)]
    drawn = draw_tokens(logits.expand(rows, 5), generators)
    exact = logits.softmax(-1)
    deviation = (torch.bincount(drawn, minlength=5) / rows - exact).abs()
    assert (deviation <= 5 * (exact * (1 - exact) / rows).sqrt()).all()


def test_successive_draws_of_one_row_have_the_probabilities_of_the_softmax():
    logits, generator = torch.tensor([[0.0, 1.0, 2.0]]), torch.Generator().manual_seed(1)
    drawn = torch.cat([draw_tokens(logits, [generator]) for _ in range(5_000)])
    exact = logits[0].softmax(-1)
    deviation = (torch.bincount(drawn, minlength=3) / 5_000 - exact).abs()
    assert (deviation <= 5 * (exact * (1 - exact) / 5_000).sqrt()).all()


def test_a_rows_draw_depends_on_its_own_generator_alone():
    logits = torch.randn(4, 50)

    def draw(rows: list[int]) -> list[int]:
        generators = [torch.Generator().manual_seed(10 + row) for row in rows]
        return draw_tokens(logits[rows], generators).tolist()

    together = draw([0, 1, 2, 3])
    assert [draw([row])[0] for row in range(4)] == together
    assert draw([2, 0]) == [together[2], together[0]]


def test_row_seeds_differ_between_rows_and_seeds():
    seeds = [one for seed in range(-50, 50) for one in row_seeds(seed, 50)]
    assert len(set(seeds)) == 5_000
    # the CPU's generator takes 32 bits of a seed
    assert len({one % 2**32 for one in seeds}) == 5_000
    assert row_seeds(3, 4) == row_seeds(3, 9)[:4]
