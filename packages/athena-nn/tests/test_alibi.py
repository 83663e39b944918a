"""ALiBi: slopes as in the paper and its program, distances to all keys given."""

from __future__ import annotations

import math

import pytest
import torch

from athena_nn import AlibiPositions
from athena_nn._alibi import alibi_slopes


def plain_slopes(num_heads: int) -> list[float]:
    """Section 3; for numbers that are no power of two, the rule of the paper's program."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


@pytest.mark.parametrize("num_heads", [*range(1, 18), 24, 40, 71, 128])
def test_slopes_equal_the_plain_ones(num_heads):
    torch.testing.assert_close(
        alibi_slopes(num_heads).double(),
        torch.tensor(plain_slopes(num_heads), dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )


def test_golden_slopes():
    """Section 3: 1/2 to 1/256 for 8 heads; 16 heads begin with 1/sqrt(2). Of 12 heads, 4 lie between."""
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    torch.testing.assert_close(alibi_slopes(16)[:3], torch.tensor([0.5**0.5, 0.5, 0.5**1.5]))
    torch.testing.assert_close(alibi_slopes(12)[8:], torch.tensor([0.5**0.5, 0.5**1.5, 0.5**2.5, 0.5**3.5]))


def test_bias_equals_the_loops():
    queries, keys = [[4, 9], [0, 30]], [[0, 4, 5, 9, 40], [1, 2, 3, 29, 31]]
    found = AlibiPositions(3).bias(torch.tensor(queries), torch.tensor(keys))
    slopes = plain_slopes(3)
    for row in range(2):
        for h in range(3):
            for i, query in enumerate(queries[row]):
                for j, key in enumerate(keys[row]):
                    assert found[row, h, i, j].item() == pytest.approx(
                        -slopes[h] * abs(query - key), rel=1e-6
                    )


def test_causal_it_is_a_slope_over_keys():
    """Figure 3: under a causal mask, weights are those of a bias that grows with the key's position."""
    scores, order = torch.randn(2, 4, 7, 7), torch.arange(7)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    found = (scores + AlibiPositions(4).bias(order, order)).masked_fill(future, -torch.inf).softmax(-1)
    over_keys = alibi_slopes(4)[:, None, None] * order
    torch.testing.assert_close(found, (scores + over_keys).masked_fill(future, -torch.inf).softmax(-1))


def test_spans_the_keys_of_a_cache():
    """Pitfall 9: one new query sees its distance to every key, not to as many as there are queries."""
    part = AlibiPositions(3)
    whole = part.bias(torch.arange(9), torch.arange(9))
    step = part.bias(torch.tensor([8]), torch.arange(9))
    assert torch.equal(step, whole[:, -1:])
    assert len(step[0, 0].unique()) == 9


def test_symmetric_and_without_state():
    part = AlibiPositions(4)
    bias = part.bias(torch.arange(6), torch.arange(6))
    assert torch.equal(bias, bias.mT)
    assert part.state_dict() == {}


def test_a_bfloat16_model_keeps_its_slopes():
    """Nothing is stored that a cast could round."""
    found = AlibiPositions(3).bfloat16().bias(torch.tensor([1000]), torch.arange(1001))
    assert torch.equal(found, AlibiPositions(3).bias(torch.tensor([1000]), torch.arange(1001)))


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="`num_heads` must be at least 1; got 0"):
        AlibiPositions(0)
