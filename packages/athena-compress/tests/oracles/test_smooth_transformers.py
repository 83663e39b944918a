"""Models of transformers: what of them is smoothed, and that they compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athena_compress import smooth, smoothing_groups

transformers = pytest.importorskip("transformers")


def gpt2() -> Any:
    config = transformers.GPT2Config(
        n_embd=16, n_head=2, n_layer=2, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("build", [gpt2, llama])
def test_outputs_stay(build: Any) -> None:
    model, batch = build(), {"input_ids": torch.randint(0, 64, (2, 7))}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name or "layernorm" in name:
                parameter[0] += 50
        smoothed = smooth(model, [batch])
        expected, got = model(**batch).logits, smoothed(**batch).logits
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_groups_of_llama() -> None:
    groups = smoothing_groups(llama(), {"input_ids": torch.randint(0, 64, (2, 7))})
    layer = "model.layers.1"
    projections = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
    assert groups[f"{layer}.input_layernorm"] == projections
    assert groups[f"{layer}.post_attention_layernorm"] == [
        f"{layer}.mlp.{part}_proj" for part in ("gate", "up")
    ]
    assert len(groups) == 4  # the last norm feeds a tied head
