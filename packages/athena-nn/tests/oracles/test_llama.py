"""What is Llama's own: scaled rotary positions, positions with gaps, norms; beside Hugging Face's Llama."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from athena_nn import RMSNorm, from_pretrained, save_pretrained

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VOCABULARY, LENGTH = 97, 64
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": YARN,
    "yarn-options": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.3, "truncate": False},
    "yarn-mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2},
    "yarn-of-the-models-length": {"rope_type": "yarn", "factor": 4.0},
}


def llama_config(**rope: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_theta": 500.0, **rope},
        bos_token_id=None,
        eos_token_id=None,
    )


def as_transformers_4(folder: Path) -> None:
    """Spell config.json as older versions do, whose files are the ones published."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": None}
    config["torch_dtype"] = config.pop("dtype")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = rope
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spelling", ["transformers 4", "transformers 5"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_positions(scaling, spelling, make_pair, tmp_path):
    """Read from either spelling, at all positions, and read by theirs from what we save."""
    ours, theirs = make_pair(llama_config(**SCALINGS[scaling]))
    if spelling == "transformers 4":
        as_transformers_4(tmp_path / "theirs")
        ours = from_pretrained(tmp_path / "theirs")
    tokens = torch.randint(VOCABULARY, (2, LENGTH))
    expected = theirs(tokens).logits
    assert expected.std() > 1  # so that the tolerance says something
    torch.testing.assert_close(ours(tokens), expected, **CLOSE)
    save_pretrained(ours, tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    torch.testing.assert_close(again(tokens).logits, expected, **CLOSE)


def test_scalings_differ(make_pair):
    """Or the test above would compare less than it says."""
    tokens = torch.randint(VOCABULARY, (1, LENGTH))
    found = []
    for options in SCALINGS.values():
        torch.manual_seed(1)  # the same parameters each time
        found.append(make_pair(llama_config(**options))[0](tokens))
    for i, logits in enumerate(found):
        assert all((logits - other).abs().max() > 0.1 for other in found[:i])


def test_given_positions_with_gaps(make_pair):
    """Each row at its own: gaps change the distances that attention sees."""
    ours, theirs = make_pair(llama_config())
    tokens = torch.randint(VOCABULARY, (2, 9))
    positions = torch.stack([torch.arange(9), torch.arange(9).square() + 5])
    # without its mask, Llama takes a gap for the start of another text
    expected = theirs(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens)).logits
    logits = ours(tokens, positions=positions)
    torch.testing.assert_close(logits, expected, **CLOSE)
    assert not torch.allclose(logits[1], ours(tokens)[1], rtol=0.1, atol=0.1)


def llama_norm(width: int) -> nn.Module:
    return LlamaRMSNorm(width, eps=1e-6)


def torch_norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 64), (5, 7), (1, 1), (4, 1000)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])  # at 1e-3 the mean square is as small as epsilon
@pytest.mark.parametrize("make_theirs", [llama_norm, torch_norm])
def test_rms_norm_is_llamas_and_torchs(make_theirs, shape, scale, dtype, tolerance):
    ours, theirs = RMSNorm(shape[-1]).to(dtype), make_theirs(shape[-1]).to(dtype)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    if make_theirs is llama_norm and dtype == torch.float64:
        tolerance = {"rtol": 1e-5, "atol": 1e-5}  # Llama norms in float32 whatever the dtype
    x = (scale * torch.randn(shape)).to(dtype)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(shape).to(dtype)
    outputs = ours(inputs[0]), theirs(inputs[1])
    torch.testing.assert_close(outputs[0], outputs[1], **tolerance)
    for output in outputs:
        output.backward(upstream)
    torch.testing.assert_close(scale * inputs[0].grad, scale * inputs[1].grad, **tolerance)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **tolerance)
