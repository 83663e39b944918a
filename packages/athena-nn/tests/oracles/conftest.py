"""Models of Hugging Face's transformers from a configuration, and ours, loaded from the files they save.

Nothing is downloaded: all parameters are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from athena_nn import Decoder, RotaryPositions, from_pretrained
from athena_nn._rotary_scaling import rotary_frequencies

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

RMS_NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)
SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
LLAMA = {**SIZES, **HEADS, **NO_TOKENS}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **NO_TOKENS}
NO_DROPOUT = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "llama-tied-biases": lambda: transformers.LlamaConfig(
        **LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "llama-attention-biases": lambda: transformers.LlamaConfig(**LLAMA, attention_bias=True),
    "llama-multi-query": lambda: transformers.LlamaConfig(
        **{**LLAMA, "num_key_value_heads": 1, "head_dim": 16}
    ),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=5),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "qwen2-window": lambda: transformers.Qwen2Config(
        **LLAMA, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2, **NO_DROPOUT),
    "gpt2-untied-relu": lambda: transformers.GPT2Config(
        **GPT2, **NO_DROPOUT, tie_word_embeddings=False, activation_function="relu", n_inner=40
    ),
    "gpt2-unscaled": lambda: transformers.GPT2Config(
        **GPT2, **NO_DROPOUT, scale_attn_weights=False, activation_function="gelu"
    ),
}
# Three layers of sums over up to 97 terms, in another order: ten times the table's bound for one part.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def draw(model: nn.Module) -> None:
    """All parameters, gains and biases too, wide enough that logits differ by more than 1."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            gain = name == "weight" and parameter.ndim == 1
            nn.init.normal_(parameter, mean=float(gain), std=0.25)


def use_float64(theirs: PreTrainedModel, ours: Decoder) -> None:
    """Take away what they compute in float32 whatever the dtype: norms; and its rounding of frequencies."""
    for module in list(theirs.modules()):
        for name, child in module.named_children():
            if isinstance(child, RMS_NORMS):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    if isinstance(ours.positions, RotaryPositions):
        rotary = ours.positions
        theirs.model.rotary_emb.inv_freq = rotary_frequencies(rotary.rotary_dim, rotary.base)


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., tuple[Decoder, PreTrainedModel]]:
    """From a configuration: our decoder, loaded from what theirs has saved, and theirs; both in eval mode."""

    def make(config: Any, dtype: torch.dtype = torch.float32) -> tuple[Decoder, PreTrainedModel]:
        # in float64, writing attention out has a float32 softmax
        attention = "sdpa" if dtype == torch.float64 else "eager"
        theirs = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
        draw(theirs)
        theirs.save_pretrained(tmp_path / "theirs")
        ours = from_pretrained(tmp_path / "theirs")
        if dtype == torch.float64:
            use_float64(theirs, ours)
        return ours, theirs.eval()

    return make


@pytest.fixture
def tolerances() -> dict[torch.dtype, dict[str, float]]:
    return {dtype: {"rtol": bound, "atol": bound} for dtype, bound in TOLERANCE.items()}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]()
