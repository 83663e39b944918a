"""Llama, Mistral, Qwen2 and GPT-2 beside Hugging Face's, each loaded from the files that the other saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from athena_nn import Decoder, save_pretrained

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VOCABULARY, LENGTH = 97, 17


def some_tokens(batch: int = 3, time: int = LENGTH) -> Tensor:
    return torch.randint(VOCABULARY, (batch, time))


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def padded(side: str) -> Tensor:
    """Three rows of 17, 11 and 4 tokens, with padding on one side or on both."""
    padding = torch.zeros(3, LENGTH, dtype=torch.bool)
    for row, length in enumerate((LENGTH, 11, 4)):
        start = {"left": LENGTH - length, "right": 0, "both": (LENGTH - length) // 2}[side]
        padding[row, start : start + length] = True
    return padding


def their_logits(theirs: PreTrainedModel, tokens: Tensor, padding: Tensor) -> Tensor:
    positions = (padding.cumsum(1) - 1).clamp(min=0)
    return theirs(tokens, attention_mask=padding.long(), position_ids=positions).logits


def gradients(model: Decoder, folder: Path) -> dict[str, Tensor]:
    """Those of our parameters by the names of theirs: saved in the place of the parameters."""
    for parameter in model.parameters():
        parameter.data = parameter.grad
    save_pretrained(model, folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_logits_and_gradients(config, dtype, training, make_pair, tolerances, tmp_path):
    """Of every parameter, the embedding's among them."""
    ours, theirs = make_pair(config, dtype)
    ours.train(training)
    theirs.train(training)
    tokens = some_tokens()
    logits, expected = ours(tokens), theirs(tokens).logits
    assert expected.std() > 1  # so that the tolerance says something
    torch.testing.assert_close(logits, expected, **tolerances[dtype])
    next_token_loss(logits, tokens).backward()
    next_token_loss(expected, tokens).backward()
    found = gradients(ours, tmp_path / "gradients")
    assert found.keys() == dict(theirs.named_parameters()).keys()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, **tolerances[dtype])


@pytest.mark.parametrize("shard", [10**9, 20_000], ids=["whole", "sharded"])
def test_they_load_what_we_save(config, shard, make_pair, tmp_path):
    """And are the models that they were: their own loading brings back every bit."""
    ours, theirs = make_pair(config)
    save_pretrained(ours, tmp_path / "ours", max_shard_bytes=shard)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    tokens = some_tokens()
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_padding(config, dtype, side, make_pair, tolerances):
    """Whatever stands where padding is, and on either side."""
    ours, theirs = make_pair(config, dtype)
    tokens, padding = some_tokens(), padded(side)
    logits, expected = ours(tokens, padding=padding), their_logits(theirs, tokens, padding)
    torch.testing.assert_close(logits[padding], expected[padding], **tolerances[dtype])
    for row, real in enumerate(padding):
        alone = theirs(tokens[row][real][None]).logits[0]
        torch.testing.assert_close(logits[row][real], alone, **tolerances[dtype])


@pytest.mark.parametrize("capacity", [None, LENGTH], ids=["growing", "static"])
@pytest.mark.parametrize("chunks", [(1,) * LENGTH, (9, 8), (2, 7, 1, 6, 1)], ids=str)
def test_chunks_with_a_cache(config, chunks, capacity, make_pair):
    ours, theirs = make_pair(config)
    tokens = some_tokens()
    cache = ours.new_cache(3, capacity=capacity)
    with torch.no_grad():
        logits = torch.cat([ours(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(logits, theirs(tokens).logits, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("capacity", [None, 40], ids=["growing", "static"])
def test_unequal_prompts_with_a_cache(config, capacity, side, make_pair):
    """Rows go on at their own lengths, for long enough to leave every window behind."""
    ours, theirs = make_pair(config)
    prompts, padding, rest = some_tokens(), padded(side), some_tokens(time=12)
    cache = ours.new_cache(3, capacity=capacity)
    with torch.no_grad():
        prefill = ours(prompts, padding=padding, cache=cache)
        steps = torch.cat([ours(step, cache=cache) for step in rest.split(1, dim=1)], dim=1)
        for row in range(3):
            alone = torch.cat((prompts[row][padding[row]], rest[row]))
            expected = theirs(alone[None]).logits[0]
            found = torch.cat((prefill[row][padding[row]], steps[row]))
            torch.testing.assert_close(found, expected, **CLOSE)


def test_cached_equals_their_cached(config, make_pair):
    ours, theirs = make_pair(config)
    tokens = some_tokens()
    cache, their_cache = ours.new_cache(3), None
    with torch.no_grad():
        for chunk in tokens.split((10, 1, 1, 5), dim=1):
            output = theirs(chunk, past_key_values=their_cache, use_cache=True)
            their_cache = output.past_key_values
            torch.testing.assert_close(ours(chunk, cache=cache), output.logits, **CLOSE)


def test_training_rates_of_dropout_are_theirs(make_pair):
    """GPT-2 has three; all are found again, and none else."""
    from transformers import GPT2Config

    ours, _ = make_pair(
        GPT2Config(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, embd_pdrop=0.1, resid_pdrop=0.2, attn_pdrop=0.3
        )
    )
    (block, *_) = ours.layers()
    rates = ours.dropout.p, block.residual_dropout.p, block.attention.dropout, block.feed_forward.dropout.p
    assert rates == (0.1, 0.2, 0.3, 0.0)
