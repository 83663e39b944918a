"""Models of transformers: saved with their configuration, loaded through trust."""

from __future__ import annotations

import pytest
import torch
from saving import check_round_trip
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from athena_compress import load, quantize, save

TRUST = ("transformers",)
SMALL = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=32, **SMALL)).eval()


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **SMALL)).eval()


@pytest.mark.parametrize("make", [gpt2, llama], ids=lambda make: make.__name__)
def test_language_models_in_another_process(make, tmp_path):
    model = make()
    again = check_round_trip(model, torch.randint(64, (2, 7)), tmp_path, TRUST)
    assert again.config.to_dict() == model.config.to_dict()
    inner = again.transformer if make is gpt2 else again.model
    assert inner.config is again.config
    if make is gpt2:
        assert again.lm_head.weight is again.transformer.wte.weight
    prompt = torch.randint(2, 64, (1, 4))
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(again.generate(prompt, **options), model.generate(prompt, **options))


@torch.no_grad()
def test_an_encoder(tmp_path):
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = BertModel(config).eval()
    save(model, tmp_path)
    tokens = torch.randint(64, (2, 7))
    again = load(tmp_path, trust=TRUST)
    assert torch.equal(again(tokens).last_hidden_state, model(tokens).last_hidden_state)


def test_a_quantized_one_in_another_process(tmp_path):
    model = quantize(gpt2(), "int8-dynamic")
    check_round_trip(model, torch.randint(64, (2, 7)), tmp_path, TRUST)


def test_without_trust(tmp_path):
    save(gpt2(), tmp_path)
    with pytest.raises(
        ValueError, match=r'GPT2Config` is an object that is no dataclass.*trust=\("transformers",'
    ):
        load(tmp_path)
