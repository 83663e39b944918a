"""Masks: each against its definition, token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_nn import causal_mask, from_torch_masks, packed_mask, packed_positions, padding_mask
from athena_nn._masks import check_mask, combine


@given(st.integers(0, 7), st.integers(0, 7), st.one_of(st.none(), st.integers(1, 9)))
def test_causal_mask_is_aligned_at_the_bottom_right(queries, earlier, window):
    """Pitfall 1: the last query sees all keys, not the first alone."""
    keys = queries + earlier
    mask = causal_mask(queries, keys, window=window)
    assert mask.shape == (queries, keys)
    for i in range(queries):
        for j in range(keys):
            distance = earlier + i - j
            assert mask[i, j].item() == (distance >= 0 and (window is None or distance < window))


def test_packed_sequences_are_kept_apart():
    segments = torch.tensor([[4, 4, 4, 9, 9, 4], [1, 1, 1, 1, 1, 1]])  # an id that comes again is another run
    runs = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0]])
    mask = packed_mask(segments)
    assert mask.shape == (2, 1, 6, 6)
    for b in range(2):
        for i in range(6):
            for j in range(6):
                assert mask[b, 0, i, j].item() == (runs[b, i] == runs[b, j]).item()
    assert packed_positions(segments).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    assert packed_positions(segments[:, :0]).shape == (2, 0)


def test_torchs_masks_are_turned_around():
    """Pitfall 11: True means ignore there, attend here."""
    ignored = torch.rand(4, 5) > 0.5
    padding = torch.tensor([[False, False, True, True, True], [False] * 5])
    assert torch.equal(from_torch_masks(ignored)[0, 0], ~ignored)
    assert torch.equal(from_torch_masks(key_padding_mask=padding), padding_mask(~padding))
    both = from_torch_masks(ignored, padding)
    assert torch.equal(both, ~(ignored[None, None] | padding[:, None, None]))
    per_head = torch.rand(6, 4, 5) > 0.5
    assert torch.equal(from_torch_masks(per_head, num_heads=3), ~per_head.view(2, 3, 4, 5))
    added = torch.randn(4, 5)
    assert torch.equal(from_torch_masks(added)[0, 0], added)
    mixed = from_torch_masks(added, padding)
    assert torch.equal(mixed[1, 0], added)
    assert (mixed[0, 0, :, 2:] == float("-inf")).all()
    assert from_torch_masks() is None
    with pytest.raises(
        ValueError, match=r"\(batch \* num_heads, queries, keys\), with 4 heads; got \(6, 4, 5\)"
    ):
        from_torch_masks(per_head, num_heads=4)


def test_masks_combine():
    true, added = torch.tensor([True, False, True]), torch.tensor([0.5, 1.0, 2.0])
    assert combine(true, ~true).tolist() == [False] * 3
    assert combine(added, added).tolist() == [1.0, 2.0, 4.0]
    for mask in (combine(true, added), combine(added, true)):
        assert mask.tolist() == [0.5, float("-inf"), 2.0]


@pytest.mark.parametrize("shape", [(5, 6), (1, 6), (2, 5, 6), (1, 5, 6), (2, 4, 5, 6), (2, 1, 1, 6)])
def test_masks_may_leave_axes_out(shape):
    whole = check_mask(torch.ones(shape, dtype=torch.bool), batch=2, heads=4, queries=5, keys=6)
    assert whole.ndim == 4
    torch.broadcast_to(whole, (2, 4, 5, 6))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.ones(5, 6, dtype=torch.int64),
            r"boolean .* \(2, 4, 5, 6\); got torch.int64 of shape \(5, 6\)",
        ),
        (torch.ones(5, 7, dtype=torch.bool), r"\(2, 4, 5, 6\); got \(5, 7\)"),
        (torch.ones(4, 5, 6, dtype=torch.bool), r"got \(4, 5, 6\)"),
        (torch.ones(6, dtype=torch.bool), r"got \(6,\)"),
    ],
)
def test_other_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        check_mask(mask, batch=2, heads=4, queries=5, keys=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: causal_mask(3, 2), "`queries` must be at most `keys` = 2; |being the last of them; got 3"),
        (lambda: causal_mask(3, window=0), "`window` must be a whole number, at least 1"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
