"""Encoder, and encoder with decoder."""

from __future__ import annotations

import pytest
import torch

from athena_nn import (
    AlibiPositions,
    Decoder,
    Encoder,
    EncoderDecoder,
    LearnedPositions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    SinusoidalPositions,
)

SIZES = {"num_layers": 2, "num_heads": 4, "ff_dim": 48}
POSITIONS = {
    "none": lambda: None,
    "alibi": lambda: AlibiPositions(4),
    "learned": lambda: LearnedPositions(20, 32),
    "relative-bias": lambda: RelativeBias(4),
    "rotary": lambda: RotaryPositions(8),
    "shaw": lambda: ShawPositions(8),
    "sinusoidal": lambda: SinusoidalPositions(32),
}


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("window", [None, 3])
def test_padding_hides_what_it_covers(side, positions, window):
    model = Encoder(50, 32, positions=POSITIONS[positions](), window=window, **SIZES)
    tokens = torch.randint(50, (1, 9))
    real = torch.ones(1, 9, dtype=torch.bool)
    real[0, list({"left": range(4), "right": range(5, 9), "middle": (2, 3, 6)}[side])] = False
    padded = tokens.masked_fill(~real, -1)
    for training in (True, False):
        model.train(training)
        alone = model(tokens[real][None])[0]
        torch.testing.assert_close(model(padded, padding=real)[real], alone, rtol=1e-5, atol=1e-5)
    with_mask = model(padded, padding=real, mask=torch.ones(9, 9, dtype=torch.bool))
    torch.testing.assert_close(with_mask[real], alone, rtol=1e-5, atol=1e-5)


def test_every_token_sees_every_other():
    model = Encoder(50, 32, **SIZES)
    tokens = torch.randint(50, (1, 6))
    changed = tokens.clone()
    changed[0, -1] += 1 - 2 * (changed[0, -1] == 49).long()
    assert (model(tokens) != model(changed)).any(dim=-1).all()


def test_a_row_of_padding_alone_stays_finite():
    """Pitfall 2."""
    model = Encoder(50, 32, **SIZES)
    y = model(torch.zeros(2, 4, dtype=torch.long), padding=torch.tensor([[True] * 4, [False] * 4]))
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def pair(**options) -> EncoderDecoder:
    encoder = Encoder(30, 24, positions=RotaryPositions(6), **SIZES)
    decoder = Decoder(50, 32, positions=RotaryPositions(8), memory_dim=24, **SIZES, **options)
    return EncoderDecoder(encoder, decoder, start_token=1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_unequal_length_equal_each_alone(side):
    model = pair()
    lengths = [(7, 5), (3, 2)]
    source, target = torch.randint(30, (2, 7)), torch.randint(50, (2, 5))
    real = [torch.zeros_like(part, dtype=torch.bool) for part in (source, target)]
    for row, sizes in enumerate(lengths):
        for mask, size in zip(real, sizes, strict=True):
            mask[row, slice(size) if side == "right" else slice(mask.shape[1] - size, None)] = True
    logits = model(source, target, source_padding=real[0], target_padding=real[1])
    for row in range(2):
        alone = model(source[row][real[0][row]][None], target[row][real[1][row]][None])[0]
        torch.testing.assert_close(logits[row][real[1][row]], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_decoding_with_a_cache_equals_one_pass():
    model = pair(window=3)
    source, target = torch.randint(30, (2, 7)), torch.randint(50, (2, 6))
    real = torch.tensor([[True] * 7, [False] * 3 + [True] * 4])
    memory = model.encode(source, real)
    cache = model.new_cache(2, memory=memory, memory_padding=real, capacity=6)
    parts = [model.decoder(target[:, a:b], cache=cache) for a, b in ((0, 1), (1, 4), (4, 6))]
    expected = model(source, target, source_padding=real)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)


def test_an_encoder_has_no_memory():
    with pytest.raises(ValueError, match="`memory_dim` belongs to a decoder"):
        Encoder(30, 24, memory_dim=8, **SIZES)


def test_mismatched_pairs_are_refused():
    encoder = Encoder(30, 24, **SIZES)
    with pytest.raises(ValueError, match="`memory_dim` = 24, the encoder's width; got None"):
        EncoderDecoder(encoder, Decoder(50, 32, **SIZES), start_token=0)
    with pytest.raises(ValueError, match="got 32"):
        EncoderDecoder(encoder, Decoder(50, 32, memory_dim=32, **SIZES), start_token=0)
    with pytest.raises(ValueError, match=r"`start_token` must lie in \[0, 50\); got 50"):
        EncoderDecoder(encoder, Decoder(50, 32, memory_dim=24, **SIZES), start_token=50)
