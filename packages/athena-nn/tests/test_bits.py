"""Costs of a text without a model, and with one: unigram entropy, xz, bits per byte."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
import torch

from athena_nn import Decoder, RotaryPositions
from athena_nn._bits import unigram_entropy, xz_bits
from athena_nn._windows import Windows, bits_per_byte


def test_unigram_entropy_golden_values():
    assert unigram_entropy(bytes(range(256))) == 8.0
    assert unigram_entropy(b"abab") == 1.0
    assert unigram_entropy(b"aaab") == pytest.approx(2 - 0.75 * math.log2(3))
    assert unigram_entropy(b"aaa") == 0.0


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the program xz")
def test_xz_bits_are_those_of_the_program(tmp_path):
    text = b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(2000))
    done = subprocess.run(["xz", "-9e", "--stdout"], input=text, capture_output=True, check=True)
    assert xz_bits(text) == 8 * len(done.stdout) / len(text)


def test_given_text_helps_xz():
    text = torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert xz_bits(bytes(text)) > 8.0
    assert xz_bits(bytes(text), given=bytes(text)) < 0.2


@pytest.mark.parametrize("cost", [unigram_entropy, xz_bits])
def test_an_empty_text_is_refused(cost):
    with pytest.raises(ValueError, match="must not be empty"):
        cost(b"")


def make_model(context: int) -> Decoder:
    model = Decoder(
        256,
        16,
        num_layers=1,
        num_heads=2,
        ff_dim=16,
        max_length=context,
        positions=RotaryPositions(8),
        dropout=0.5,
    )
    torch.nn.init.normal_(model.embedding.weight, std=0.3)
    return model


@pytest.mark.parametrize("size", [1, 3, 4, 5, 23])
@pytest.mark.parametrize("context", [1, 7, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_bits_per_byte_by_brute_force(size, context, batch):
    """Each byte once, from a window that ends with its piece of half a context."""
    model = make_model(context)
    before, text = bytes(range(40, 60)), bytes(range(100, 100 + size))
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    got = bits_per_byte(model, text, before=before, context=context, batch=batch, dtype=torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    model.eval()
    whole, stride, total = before + text, max(1, context // 2), 0.0
    for index in range(size):
        end = len(before) + min((index // stride + 1) * stride, size)  # where the byte's piece ends
        window = whole[end - 1 - context : end - 1]
        place = len(before) + index - (end - context)
        assert place >= context - stride
        with torch.no_grad():
            logits = model(torch.tensor([list(window)]))[0, place]
        total -= logits.log_softmax(-1)[whole[len(before) + index]].item()
    assert got == pytest.approx(total / size / math.log(2), rel=1e-5)


def test_windows_are_drawn_from_all_places_and_resume():
    text = bytes(range(12))
    windows = Windows(text, batch=500, context=3, seed=0)
    inputs, targets = windows.draw()
    assert torch.equal(targets, inputs + 1)
    assert set(inputs[:, 0].tolist()) == set(range(9))
    resumed = Windows(text, batch=500, context=3, seed=1)
    resumed.load_state_dict(windows.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(windows.draw(), resumed.draw(), strict=True))


def test_windows_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    Windows(bytes(9), batch=2, context=3, seed=0).draw()
    assert torch.equal(torch.get_rng_state(), before)
