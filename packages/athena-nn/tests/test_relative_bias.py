"""T5's relative bias against a bucket found by exact comparison, distance by distance."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from athena_nn import AlibiPositions, RelativeBias
from athena_nn._alibi import alibi_slopes
from athena_nn._relative_bias import relative_buckets

OPTIONS = [(32, 128, True), (32, 128, False), (4, 3, True), (2, 2, False), (7, 20, False), (64, 1000, True)]
SIZES = pytest.mark.parametrize(("num_buckets", "max_distance", "bidirectional"), OPTIONS)


def plain_bucket(distance: int, num_buckets: int, max_distance: int, bidirectional: bool) -> int:
    """The last bucket whose edge e (D / e)^(k / (n - e)) is not beyond the distance, without rounding."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    rest, k = num_buckets - exact, 0
    while k + 1 < rest and Fraction(distance, exact) ** rest >= Fraction(max_distance, exact) ** (k + 1):
        k += 1
    return first + exact + k


@SIZES
def test_buckets_equal_the_exact_ones(num_buckets, max_distance, bidirectional):
    distances = [*range(-300, 301), -100_000, 100_000]
    found = relative_buckets(
        torch.tensor(distances),
        num_buckets=num_buckets,
        max_distance=max_distance,
        bidirectional=bidirectional,
    )
    expected = [plain_bucket(d, num_buckets, max_distance, bidirectional) for d in distances]
    assert found.tolist() == expected


def test_golden_buckets():
    """Section 2.1: 32 buckets up to 128. In a decoder 16 have a distance each, and the logarithmic ones

    begin at 16 * 8^(k/16): 16, 18.2, 20.7, 23.6, ...; a future key falls in bucket 0.
    """
    distances = torch.tensor([3, 0, -1, -15, -16, -18, -19, -20, -21, -23, -24, -127, -128, -1000])
    found = relative_buckets(distances, bidirectional=False)
    assert found.tolist() == [0, 0, 1, 15, 16, 16, 17, 17, 18, 18, 19, 31, 31, 31]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_bias_equals_the_loops_forward_and_backward(dtype, tolerance, bidirectional):
    part = RelativeBias(3, num_buckets=8, max_distance=16, bidirectional=bidirectional).to(dtype)
    queries, keys = [[4, 9], [0, 30]], [[0, 4, 5, 9, 40], [1, 2, 3, 29, 31]]
    found = part.bias(torch.tensor(queries), torch.tensor(keys))
    upstream = torch.randn(found.shape).to(dtype)
    found.backward(upstream)
    expected, gradient = torch.empty(2, 3, 2, 5, dtype=torch.float64), torch.zeros(8, 3, dtype=torch.float64)
    for row in range(2):
        for i, query in enumerate(queries[row]):
            for j, key in enumerate(keys[row]):
                bucket = plain_bucket(key - query, 8, 16, bidirectional)
                expected[row, :, i, j] = part.weight[bucket].double()
                gradient[bucket] += upstream[row, :, i, j].double()
    torch.testing.assert_close(found.double(), expected, **tolerance)
    torch.testing.assert_close(part.weight.grad.double(), gradient, **tolerance)


def test_a_table_of_zeros_adds_nothing():
    part = RelativeBias(2)
    torch.nn.init.zeros_(part.weight)
    assert not part.bias(torch.arange(5), torch.arange(5)).any()


def test_a_linear_table_is_alibi():
    """While each distance has a bucket, a table that falls by the slopes is the sibling."""
    part = RelativeBias(3, num_buckets=64, bidirectional=False)
    with torch.no_grad():
        part.weight.copy_(-torch.arange(64)[:, None] * alibi_slopes(3))
    queries, keys = torch.arange(20, 30), torch.arange(30)
    past = keys[None] <= queries[:, None]
    found, expected = part.bias(queries, keys), AlibiPositions(3).bias(queries, keys)
    torch.testing.assert_close(found[:, past], expected[:, past])


def test_spans_the_keys_of_a_cache():
    """Pitfall 9, for this bias: one new query against all earlier keys is the last row of the square."""
    part = RelativeBias(2)
    whole = part.bias(torch.arange(200), torch.arange(200))
    assert torch.equal(part.bias(torch.tensor([199]), torch.arange(200)), whole[:, -1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "`num_heads` must be at least 1; got 0"),
        ({"num_heads": 2, "num_buckets": 31}, "`num_buckets` must be at least 4 and even; got 31"),
        ({"num_heads": 2, "num_buckets": 2}, "`num_buckets`"),
        (
            {"num_heads": 2, "num_buckets": 1, "bidirectional": False},
            "`num_buckets` must be at least 2; got 1",
        ),
        ({"num_heads": 2, "max_distance": 8}, "`max_distance` must be above 8"),
        ({"num_heads": 2, "max_distance": 16, "bidirectional": False}, "`max_distance` must be above 16"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RelativeBias(**options)
