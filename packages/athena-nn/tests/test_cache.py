"""The cache: whatever is split how, the answer is that of one pass over everything."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from athena_nn import (
    AlibiPositions,
    Decoder,
    KVCache,
    LearnedPositions,
    NoPositions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    SinusoidalPositions,
    kv_cache_update,
)

WIDTH, HEADS, VOCABULARY, LONGEST = 32, 4, 40, 24
POSITIONS = {
    "alibi": lambda: AlibiPositions(HEADS),
    "learned": lambda: LearnedPositions(LONGEST, WIDTH),
    "none": NoPositions,
    "relative-bias": lambda: RelativeBias(HEADS, bidirectional=False),
    "rotary": lambda: RotaryPositions(WIDTH // HEADS),
    "rotary, interleaved": lambda: RotaryPositions(WIDTH // HEADS, layout="interleaved"),
    "shaw": lambda: ShawPositions(WIDTH // HEADS, max_distance=4),
    "sinusoidal": lambda: SinusoidalPositions(WIDTH),
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def make(positions: str = "rotary", window: int | None = None, num_kv_heads: int = 2) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(
        VOCABULARY,
        WIDTH,
        num_layers=2,
        num_heads=HEADS,
        num_kv_heads=num_kv_heads,
        ff_dim=48,
        positions=POSITIONS[positions](),
        window=window,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # attention that is far from uniform
    return model.eval()


def splits(total: int) -> st.SearchStrategy[list[int]]:
    """Ways to cut ``total`` tokens into passes, single tokens and empty ones included."""
    cuts = st.lists(st.integers(0, total), max_size=8).map(lambda cuts: [0, *sorted(cuts), total])
    parts = cuts.map(lambda cuts: [b - a for a, b in pairwise(cuts)])
    return st.one_of(parts, st.just([1] * total))


@st.composite
def passes(draw) -> tuple[Tensor, Tensor, list[int]]:
    """Tokens, which of them are real, on a drawn side or anywhere, and how they are cut into passes."""
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, LONGEST))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    tokens = torch.randint(VOCABULARY, (batch, time), generator=generator)
    lengths = torch.tensor([draw(st.integers(1, time)) for _ in range(batch)])[:, None]
    place = torch.arange(time)
    padding = {
        "none": torch.ones(batch, time, dtype=torch.bool),
        "right": place < lengths,
        "left": place >= time - lengths,
        "anywhere": torch.rand(batch, time, generator=generator) < 0.6,
    }[draw(st.sampled_from(["none", "right", "left", "anywhere"]))]
    return tokens, padding, draw(splits(time))


def run(model: Decoder, cache: KVCache, tokens: Tensor, padding: Tensor, split: list[int]) -> Tensor:
    cuts = list(zip(tokens.split(split, dim=1), padding.split(split, dim=1), strict=True))
    padded = not padding.all()
    return torch.cat([model(part, padding=real if padded else None, cache=cache) for part, real in cuts], 1)


@settings(max_examples=150)
@given(
    passes(),
    st.sampled_from(sorted(POSITIONS)),
    st.sampled_from([None, 1, 3, 50]),
    st.sampled_from(["growing", "static", "exact"]),
)
@torch.no_grad()
def test_cached_equals_each_row_alone(drawn, positions, window, kind):
    """Pitfalls 1, 3 and 9: every positions x window x cache x split, padding on either side or amid."""
    tokens, padding, split = drawn
    model = make(positions, window)
    counts = padding.sum(1).tolist()
    capacity = {"growing": None, "static": LONGEST, "exact": max(*counts, 1)}[kind]
    cache = model.new_cache(len(tokens), capacity=capacity)
    logits = run(model, cache, tokens, padding, split)
    assert cache.lengths.tolist() == counts
    together = model(tokens, padding=padding)
    for row in range(len(tokens)):
        alone = model(tokens[row][padding[row]][None])[0]
        torch.testing.assert_close(logits[row][padding[row]], alone, **CLOSE)
        torch.testing.assert_close(together[row][padding[row]], alone, **CLOSE)


@settings(max_examples=40)
@given(passes(), st.sampled_from([None, 3]), st.booleans())
@torch.no_grad()
def test_eight_bits_are_off_by_at_most_half_a_scale(drawn, window, static):
    """What is read back differs from what was written by half of the scale of its token and head."""
    tokens, padding, split = drawn
    model = make("rotary", window)
    caches = [
        model.new_cache(len(tokens), capacity=LONGEST if static else None, int8=int8) for int8 in (0, 1)
    ]
    for cache in caches:
        run(model, cache, tokens, padding, split)
    exact, coarse = (cache.layers[0] for cache in caches)  # the first layer is fed alike by both
    for full, small in ((exact.keys, coarse.keys), (exact.values, coarse.values)):
        assert small.parts[0].dtype == torch.int8
        scale = small.parts[1][:, :, :-1]
        error = (small.parts[0][:, :, :-1] * scale - full.parts[0][:, :, :-1]).abs()
        assert (error <= scale / 2 * (1 + 1e-5)).all()


@given(st.integers(1, 40), st.integers(1, 8), st.sampled_from([0.1, 1.0, 5.0]), st.integers(0, 99))
@torch.no_grad()
def test_eight_bits_change_attention_within_their_bound(keys, width, size, seed):
    r"""With :math:`\delta` the largest change of a score and :math:`\epsilon` that of a value, each output of
    attention changes by at most :math:`\epsilon + (e^{2\delta} - 1) \max|v|`."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = size * torch.randn(3, 1, 1, keys, width, generator=generator, dtype=torch.float64)
    cache = KVCache(num_layers=1, batch=1, num_kv_heads=1, head_dim=width, int8=True)
    k8, v8 = cache.layers[0].append(k, v, cache.open(1, keys))
    score_change = ((q @ (k - k8).mT) / width**0.5).abs().max()
    bound = (v - v8).abs().max() + (torch.exp(2 * score_change) - 1) * v.abs().max()
    exact, coarse = (torch.nn.functional.scaled_dot_product_attention(q, *kv) for kv in ((k, v), (k8, v8)))
    change = (exact - coarse).abs().max()
    assert change <= bound
    assert (v - v8).abs().max() > 0 or width == 1


@torch.no_grad()
def test_eight_bits_do_not_depend_on_the_split():
    """What is read is what was held, also by the pass that wrote it."""
    model, tokens = make(), torch.arange(20)[None]
    real = torch.ones(1, 20, dtype=torch.bool)
    for window in (None, 5):
        model = make(window=window)
        whole, *others = (
            run(model, model.new_cache(1, int8=True), tokens, real, split)
            for split in ([20], [1] * 20, [7, 1, 5, 7])
        )
        for other in others:
            torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-4)
        # two layers, each off by up to 1/254 of keys and values of size 2 to 3, before a sum over 32 numbers
        torch.testing.assert_close(whole, model(tokens), rtol=0, atol=0.15)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@torch.no_grad()
def test_rows_go_on_from_those_that_they_take_over(window, int8):
    """Pitfall 8: beams reorder the cache, and there may be more of them than rows before."""
    model = make(window=window)
    tokens = torch.randint(VOCABULARY, (2, 6))
    cache = model.new_cache(2, int8=int8)
    model(tokens, cache=cache)
    rows = torch.tensor([1, 0, 1])
    cache.reorder(rows)
    assert cache.batch == 3
    assert cache.lengths.tolist() == [6, 6, 6]
    after = torch.randint(VOCABULARY, (3, 2))
    fresh = model.new_cache(3, int8=int8)
    model(tokens[rows], cache=fresh)
    torch.testing.assert_close(model(after, cache=cache), model(after, cache=fresh))


@given(
    st.sampled_from(sorted(POSITIONS)),
    st.sampled_from(["boolean", "a row", "a head", "added"]),
    st.sampled_from([None, 8, LONGEST]),
    splits(8),
    st.integers(0, 99),
)
@torch.no_grad()
def test_a_mask_covers_what_the_cache_holds(positions, kind, capacity, split, seed):
    model = make(positions)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (2, 8), generator=generator)
    shape = {"boolean": (8, 8), "a row": (2, 8, 8), "a head": (2, HEADS, 8, 8), "added": (1, HEADS, 8, 8)}[
        kind
    ]
    drawn = torch.randn(shape, generator=generator)
    mask = drawn if kind == "added" else (drawn > 0) | torch.eye(8, dtype=torch.bool)
    cache, parts, start = model.new_cache(2, capacity=capacity), [], 0
    for size in split:
        end = start + size
        parts.append(model(tokens[:, start:end], mask=mask[..., start:end, :end], cache=cache))
        start = end
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens, mask=mask), **CLOSE)


@given(st.sampled_from(sorted(POSITIONS)), st.sampled_from([None, 3]), splits(9), st.integers(1, 5))
@torch.no_grad()
def test_a_memory_is_seen_alike_by_every_pass(positions, window, split, shorter):
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": HEADS, "ff_dim": 48, "memory_dim": 12}
    model = Decoder(VOCABULARY, WIDTH, positions=POSITIONS[positions](), window=window, **sizes).eval()
    tokens, memory = torch.randint(VOCABULARY, (2, 9)), torch.randn(2, 6, 12)
    real = torch.arange(6) < torch.tensor([[6], [shorter]])
    cache = model.new_cache(2, memory=memory, memory_padding=real, capacity=9)
    parts = [model(part, cache=cache) for part in tokens.split(split, dim=1)]
    expected = model(tokens, memory=memory, memory_padding=real)
    torch.testing.assert_close(torch.cat(parts, 1), expected, **CLOSE)


def test_a_cache_for_another_model_is_refused():
    tokens = torch.zeros(1, 2, dtype=torch.long)
    sizes = {"num_layers": 2, "batch": 1, "num_kv_heads": 2, "head_dim": 8}
    with torch.no_grad():
        for changed, message in (
            ({"num_layers": 3}, "`cache` must have 2 layers; got one of 3"),
            ({"num_kv_heads": 4}, "2 key-value heads of width 8; got one for 4 of width 8"),
            ({"head_dim": 4}, "got one for 2 of width 4"),
            ({"window": 3}, "`cache` keeps the last 3 tokens, while attention looks at all"),
        ):
            with pytest.raises(ValueError, match=message):
                make()(tokens, cache=KVCache(**{**sizes, **changed}))
        for kept in (3, 8):
            with pytest.raises(ValueError, match=f"keeps the last {kept} tokens, while attention looks at 5"):
                make(window=5)(tokens, cache=KVCache(**sizes, window=kept))
        model = make(window=3)
        cache = model.new_cache(1)
        model(tokens, cache=cache)
        with pytest.raises(ValueError, match="`mask` and a cache of a sliding window exclude each other"):
            model(tokens, mask=torch.ones(2, 2, dtype=torch.bool), cache=cache)
    with pytest.raises(ValueError, match=r"`cache` keeps no gradients; decode under `torch.no_grad\(\)`"):
        make()(tokens, cache=make().new_cache(1))
    frozen = make().requires_grad_(False)
    frozen(tokens, cache=frozen.new_cache(1))


@torch.no_grad()
def test_overflow_is_refused_and_loses_nothing():
    """Pitfall 12, eager; test_compile has the compiled one."""
    model = make()
    tokens = torch.randint(VOCABULARY, (2, 9))
    cache = model.new_cache(2, capacity=8)
    model(tokens[:, :6], cache=cache)
    with pytest.raises(ValueError, match="capacity of 8 tokens a row; row 0 holds 6 and would gain 3"):
        model(tokens[:, 6:9], cache=cache)
    assert cache.lengths.tolist() == [6, 6]
    torch.testing.assert_close(model(tokens[:, 6:8], cache=cache), model(tokens[:, :8])[:, 6:], **CLOSE)


@torch.no_grad()
def test_a_window_that_lost_tokens_half_way_is_not_used_again(monkeypatch):
    model = make(window=3)
    tokens = torch.randint(VOCABULARY, (1, 9))
    cache = model.new_cache(1)
    model(tokens[:, :5], cache=cache)
    with pytest.raises(ValueError, match="`mask` and a cache"):
        model(tokens[:, 5:8], mask=torch.ones(3, 8, dtype=torch.bool), cache=cache)
    torch.testing.assert_close(model(tokens[:, 5:8], cache=cache), model(tokens[:, :8])[:, 5:], **CLOSE)
    with monkeypatch.context() as patched:
        patched.setattr(type(model.blocks[1].feed_forward), "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(tokens[:, 8:], cache=cache)
    with pytest.raises(ValueError, match="failed half way and overwritten tokens; `reset"):
        model(tokens[:, 8:], cache=cache)
    torch.testing.assert_close(model(tokens, cache=cache.reset()), model(tokens), **CLOSE)


@torch.no_grad()
def test_padding_takes_no_position():
    """A row at the end of its learned positions gains one token, beside rows that gain more."""
    model = make("learned")
    cache = model.new_cache(2)
    tokens = torch.randint(VOCABULARY, (2, LONGEST))
    first = torch.arange(LONGEST - 1) < torch.tensor([[LONGEST - 1], [5]])
    model(tokens[:, : LONGEST - 1], padding=first, cache=cache)
    logits = model(
        tokens[:, -3:], padding=torch.tensor([[False, False, True], [True, True, True]]), cache=cache
    )
    torch.testing.assert_close(logits[0, -1], model(tokens)[0, -1], **CLOSE)


@torch.no_grad()
def test_padding_takes_no_room():
    model = make()
    cache = model.new_cache(1, capacity=4)
    tokens, real = torch.zeros(1, 9, dtype=torch.long), torch.arange(9)[None] >= 5
    model(tokens, padding=real, cache=cache)
    assert cache.lengths.tolist() == [4]


@torch.no_grad()
def test_a_cache_can_be_used_again():
    model, tokens = make(), torch.randint(VOCABULARY, (2, 5))
    cache = model.new_cache(2, capacity=5)
    first = model(tokens, cache=cache)
    assert torch.equal(model(tokens, cache=cache.reset()), first)
    for part in cache.tensors():
        part.fill_(float("nan"))  # as a model that has diverged leaves it
    real = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    assert model(tokens, padding=real, cache=cache.reset()).isfinite().all()


@torch.no_grad()
def test_a_cache_goes_on_from_copies_of_anothers_tensors():
    model, tokens = make(window=3), torch.randint(VOCABULARY, (2, 7))
    cache, other = model.new_cache(2, int8=True), model.new_cache(2, int8=True)
    model(tokens[:, :5], cache=cache)
    other.adopt(cache.lengths, cache.tensors())
    expected = model(tokens[:, 5:], cache=cache)
    torch.testing.assert_close(model(tokens[:, 5:], cache=other), expected)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("capacity", "window"), [(20, None), (20, 6), (None, 6)])
def test_memory_is_the_formula(capacity, window, dtype, int8):
    sizes = {"num_layers": 3, "batch": 2, "num_kv_heads": 4, "head_dim": 8}
    cache = KVCache(**sizes, capacity=capacity, window=window, dtype=dtype, int8=int8)
    slots = min(size for size in (capacity, window) if size is not None)
    held = sum(t.nbytes for layer in cache.layers for s in (layer.keys, layer.values) for t in s.parts)
    assert cache.nbytes == held == KVCache.bytes(**sizes, slots=slots, dtype=dtype, int8=int8)
    # by hand: keys and values, a slot more, and for 8 bits a float32 for each vector
    assert held == 2 * 3 * 2 * 4 * (slots + 1) * (12 if int8 else 8 * dtype.itemsize)


def test_known_sizes():
    """Figures of the field: GPT-2 in float32 72 KiB a token, Llama-2-7B in float16 512 KiB."""

    def per_token(**sizes) -> int:
        return KVCache.bytes(batch=1, slots=1, **sizes) - KVCache.bytes(batch=1, slots=0, **sizes)

    assert per_token(num_layers=12, num_kv_heads=12, head_dim=64) == 72 * 1024
    assert per_token(num_layers=32, num_kv_heads=32, head_dim=128, dtype=torch.float16) == 512 * 1024


@torch.no_grad()
def test_a_growing_cache_grows_by_half():
    model = make("none")
    cache = model.new_cache(1)
    sizes = []
    for _ in range(300):
        model(torch.zeros(1, 1, dtype=torch.long), cache=cache)
        sizes.append(cache.layers[0].slots)
    assert sorted(set(sizes)) == [64, 128, 192, 320]
    assert all(slots >= length for length, slots in enumerate(sizes, start=1))


def test_layers_may_have_windows_of_their_own():
    cache = KVCache(num_layers=2, batch=1, num_kv_heads=1, head_dim=2, capacity=9, window=[None, 4])
    assert [layer.slots for layer in cache.layers] == [9, 4]
    with pytest.raises(ValueError, match="one for each of 2 layers; got 3"):
        KVCache(num_layers=2, batch=1, num_kv_heads=1, head_dim=2, window=[None, 4, 4])


@pytest.mark.parametrize("name", ["num_layers", "batch", "num_kv_heads", "head_dim", "capacity", "window"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*at least 1"):
        KVCache(**{"num_layers": 1, "batch": 1, "num_kv_heads": 1, "head_dim": 1, name: 0})


@torch.no_grad()
def test_other_dtypes_and_capacities_are_refused():
    with pytest.raises(ValueError, match=r"`dtype` must be a floating-point dtype; got torch.int32"):
        make().new_cache(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="`capacity` must be at most the model's `max_length` = 24; got 25"):
        make("learned").new_cache(1, capacity=LONGEST + 1)


@torch.no_grad()
def test_a_cache_may_be_narrower_than_the_model():
    model, tokens = make(), torch.randint(VOCABULARY, (1, 8))
    cache = model.new_cache(1, dtype=torch.bfloat16)
    logits = torch.cat([model(part, cache=cache) for part in tokens.split(3, dim=1)], 1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(tokens), rtol=0, atol=5e-2)  # 8 bits of keys and values near 1


@torch.no_grad()
def test_another_number_of_rows_is_refused():
    model = make()
    with pytest.raises(ValueError, match="`cache` holds 2 rows; got tokens of 3"):
        model(torch.zeros(3, 1, dtype=torch.long), cache=model.new_cache(2))


def test_the_op_writes_where_it_is_told():
    cache, new = torch.zeros(2, 3, 7, 4), torch.randn(2, 3, 2, 4)
    slots = torch.tensor([[6, 0], [3, 4]])
    expected = cache.clone()
    for b in range(2):
        for t in range(2):
            expected[b, :, slots[b, t]] = new[b, :, t]
    kv_cache_update(cache, new, slots)
    assert torch.equal(cache, expected)
