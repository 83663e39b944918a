"""Structured pruning of Hugging Face's models, which keep sizes in attributes of many names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from athena_compress import dependencies, layer_candidates, parameter_count, remove_layers

pytestmark = pytest.mark.filterwarnings("ignore")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"input_ids": torch.arange(12).view(2, 6), "use_cache": False}


def gpt2(**options: Any) -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=4,
        vocab_size=50,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(kv_heads: int, **options: Any) -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=kv_heads, vocab_size=50, **options)
    return transformers.LlamaForCausalLM(config)


def mixtral() -> nn.Module:
    options = {"num_key_value_heads": 2, "num_local_experts": 3, "vocab_size": 50}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SMALL, **options))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL, image_size=16, patch_size=8)
    )


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=50))


#: name -> (model, inputs, attention heads as units of each layer)
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int]] = {
    "gpt2": (gpt2, TOKENS, 4),
    "gpt2, eager": (lambda: gpt2(attn_implementation="eager"), TOKENS, 4),
    "llama, grouped": (lambda: llama(2), TOKENS, 2),
    "llama, eager": (lambda: llama(2, attn_implementation="eager"), TOKENS, 2),
    "llama, multi-query": (lambda: llama(1), TOKENS, 4),
    "llama, masked": (lambda: llama(4), TOKENS | {"attention_mask": torch.ones(2, 6).long()}, 4),
    "mixtral": (mixtral, TOKENS, 2),
    "vit": (vit, {"pixel_values": torch.randn(2, 3, 16, 16)}, 4),
    "bert": (bert, TOKENS, 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_zero_heads_and_neurons_go_without_a_trace(name: str) -> None:
    build, inputs, heads = MODELS[name]
    model = build().eval()
    graph = dependencies(model, inputs)
    assert [g.size for g in graph.groups if g.removable and g.kind == "heads"] == [heads] * 2
    named = dict(model.named_parameters())
    chosen = {g.name: torch.arange(g.size // 2) for g in graph.groups if g.removable}
    assert len(chosen) >= 4
    with torch.no_grad():
        for group, units in chosen.items():
            for one in graph.group(group).slices:
                if one.tensor_name in named:
                    gone = torch.isin(one.units, units).nonzero()[:, 0]
                    named[one.tensor_name].index_fill_(one.dim, gone, 0)
        before, size = model(**inputs)[0], parameter_count(model)
        graph.remove(chosen)
        torch.testing.assert_close(model(**inputs)[0], before, rtol=1e-5, atol=1e-5)
    assert parameter_count(model) < size


# Mixtral's kernel takes multiples of 16 bytes. A list, for pytest's processes must agree on the order.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "mixtral"])
def test_every_group_goes_by_itself_down_to_one_unit(name: str) -> None:
    build, inputs, _ = MODELS[name]
    names = [g.name for g in dependencies(build(), inputs).groups if g.removable]
    for group in names:
        model = build()
        graph = dependencies(model, inputs)
        graph.remove({group: torch.arange(1, graph.group(group).size)})
        model(**inputs)[0].sum().backward()


def test_whole_layers_go() -> None:
    model = llama(2)
    assert list(layer_candidates(model, TOKENS)) == ["model.layers.0", "model.layers.1"]
    remove_layers(model, ["model.layers.1"])
    assert len(model.model.layers) == 1
