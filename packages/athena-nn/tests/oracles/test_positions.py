"""Positions beside those of Hugging Face's transformers, which hold what published weights expect."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gptj import modeling_gptj
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding

from athena_nn import (
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    YarnScaling,
)
from athena_nn._alibi import alibi_slopes
from athena_nn._relative_bias import relative_buckets
from athena_nn._rotary_scaling import rotary_frequencies
from athena_nn._sinusoidal import sinusoids

LENGTH = 2048
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "original_max_position_embeddings": LENGTH}
SCALINGS = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, LinearScaling(4.0)),
    "yarn": ({**YARN, "factor": 16.0}, YarnScaling(16.0, LENGTH)),
    "yarn-options": (
        {
            **YARN,
            "factor": 4.0,
            "beta_fast": 64.0,
            "beta_slow": 2.0,
            "attention_factor": 1.5,
            "truncate": False,
        },
        YarnScaling(4.0, LENGTH, beta_fast=64.0, beta_slow=2.0, attention_factor=1.5, truncate=False),
    ),
    "llama3": ({"rope_type": "llama3", "factor": 8.0, **LLAMA_3}, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
    "llama3.2": ({"rope_type": "llama3", "factor": 32.0, **LLAMA_3}, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
}


def config(head_dim: int, base: float, **rope: object) -> LlamaConfig:
    return LlamaConfig(
        head_dim=head_dim,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_theta": base, **rope},
    )


@pytest.mark.parametrize(("head_dim", "base"), [(32, 10_000.0), (64, 10_000.0), (128, 500_000.0), (96, 1e6)])
@pytest.mark.parametrize(("rope", "scaling"), SCALINGS.values(), ids=SCALINGS)
def test_scalings_are_transformers(rope, scaling, head_dim, base):
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config(head_dim, base, **rope))
    # theirs are 1 / b^x, ours b^-x, and each blends in its own order: a few roundings of float32
    torch.testing.assert_close(scaling.frequencies(head_dim, base), frequencies, rtol=2**-20, atol=0)
    assert scaling.magnitude == pytest.approx(magnitude, rel=1e-6)


@pytest.mark.parametrize("length", [LENGTH, 2 * LENGTH, 10 * LENGTH])
def test_ntk_scaling_is_transformers_dynamic_one_at_a_length(length):
    """Theirs changes with the text's length: at this one, its factor is that."""
    rope = {"rope_type": "dynamic", "factor": 2.0}
    frequencies, _ = ROPE_INIT_FUNCTIONS["dynamic"](config(64, 10_000.0, **rope), seq_len=length)
    factor = 2.0 * length / LENGTH - 1
    torch.testing.assert_close(NTKScaling(factor).frequencies(64, 10_000.0), frequencies, rtol=2**-20, atol=0)


@pytest.mark.parametrize(("rope", "scaling"), SCALINGS.values(), ids=SCALINGS)
def test_rotated_queries_are_llamas(rope, scaling, dtype, tolerance):
    """Phases, magnitude, layout and rotation together, in each dtype; rows at their own positions."""
    theirs = LlamaRotaryEmbedding(config(64, 10_000.0, **rope))
    q = torch.randn(2, 4, 16, 64).to(dtype)
    positions = torch.stack([torch.arange(16), torch.arange(300, 316)])
    expected = apply_rotary_pos_emb(q, q, *theirs(q, positions))[0]
    part = RotaryPositions(64, scaling=scaling)
    found = part.rotate(q, part.phases(positions, dtype))
    bounds = {name: max(bound, 2e-4) for name, bound in tolerance.items()}  # frequencies' rounding times 316
    torch.testing.assert_close(found, expected, **bounds)


@pytest.mark.parametrize("rotary_dim", [8, 16])
def test_interleaved_and_partial_rotation_is_gpt_js(rotary_dim):
    q, positions = torch.randn(2, 3, 9, 16), torch.arange(5, 14)
    sin, cos = modeling_gptj.create_sinusoidal_positions(32, rotary_dim)[None, 5:14].chunk(2, -1)
    turned = modeling_gptj.apply_rotary_pos_emb(q[..., :rotary_dim].transpose(1, 2), sin, cos).transpose(1, 2)
    part = RotaryPositions(16, layout="interleaved", rotary_dim=rotary_dim)
    found = part.rotate(q, part.phases(positions, q.dtype))
    torch.testing.assert_close(found, torch.cat((turned, q[..., rotary_dim:]), -1))


def test_sinusoids_are_gpt_js_up_to_order():
    """They put all sines first, we alternate as the paper does."""
    theirs = modeling_gptj.create_sinusoidal_positions(200, 32)
    found = sinusoids(torch.arange(200), 32)
    torch.testing.assert_close(found.unflatten(-1, (16, 2)).mT.flatten(-2), theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (32, 256), (64, 128), (8, 20)])
def test_buckets_are_t5s(num_buckets, max_distance, bidirectional):
    distances = torch.arange(-3000, 3001)
    options = {"num_buckets": num_buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    expected = T5Attention._relative_position_bucket(distances, **options)
    assert torch.equal(relative_buckets(distances, **options), expected)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_bias_is_t5s(is_decoder):
    part = RelativeBias(3, bidirectional=not is_decoder)
    table = torch.nn.Embedding(32, 3)
    table.load_state_dict(part.state_dict())
    theirs = SimpleNamespace(
        relative_attention_bias=table,
        is_decoder=is_decoder,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        _relative_position_bucket=T5Attention._relative_position_bucket,
    )
    expected = T5Attention.compute_bias(theirs, 40, 40, device=torch.device("cpu"))
    torch.testing.assert_close(part.bias(torch.arange(40), torch.arange(40))[None], expected)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 8, 12, 16, 20, 71, 112])
def test_slopes_are_blooms(num_heads):
    """Theirs is a slope over keys: its column of position 1 holds the slopes."""
    theirs = build_alibi_tensor(torch.ones(1, 3, dtype=torch.long), num_heads, torch.float32)
    torch.testing.assert_close(alibi_slopes(num_heads), theirs[:, 0, 1])


@pytest.mark.parametrize("max_distance", [2, 7, 64])
def test_shaws_scores_are_those_of_relative_keys(max_distance):
    """Equation 4's second term, formed there from vectors a pair of tokens."""
    part = ShawPositions(8, max_distance=max_distance)
    q = torch.randn(2, 3, 12, 8)
    theirs = SimpleNamespace(
        left_max_position_embeddings=max_distance,
        right_max_position_embeddings=max_distance,
        distance_embedding=lambda rows: part.key_table[rows],
        scaling=8**-0.5,
    )
    _, expected = _apply_relative_key_position_encoding(theirs, q, q)
    order = torch.arange(12)
    torch.testing.assert_close(part.scores(q * 8**-0.5, order, order), expected)


@pytest.mark.parametrize("start", [0, 100_000])
@pytest.mark.parametrize(("head_dim", "base"), [(8, 10_000.0), (64, 10_000.0), (128, 500_000.0)])
def test_rotation_is_llamas_within_the_rounding_of_frequencies(head_dim, base, start):
    """Ours are :math:`b^{-x}` and theirs :math:`1 / b^x`, in float32: two roundings, times the position."""
    theirs = LlamaRotaryEmbedding(config(head_dim, base, rope_type="default"))
    torch.testing.assert_close(rotary_frequencies(head_dim, base), theirs.inv_freq, rtol=2**-22, atol=0)
    x, positions = torch.randn(1, 4, 16, head_dim), start + torch.arange(16)
    part = RotaryPositions(head_dim, base=base)
    found = part.rotate(x, part.phases(positions, x.dtype))
    expected = apply_rotary_pos_emb(x, x, *theirs(x, positions[None]))[0]
    pairs, moved = (each.unflatten(-1, (2, -1)).norm(dim=-2) for each in (x, found - expected))
    assert (moved <= (2**-22 * positions[:, None] + 1e-6) * pairs).all()


@pytest.mark.parametrize("start", [0, 100_000])
@pytest.mark.parametrize(("head_dim", "base"), [(8, 10_000.0), (64, 10_000.0), (128, 500_000.0)])
def test_rotation_is_llamas_given_the_same_frequencies(head_dim, base, start, dtype, tolerance):
    theirs = LlamaRotaryEmbedding(config(head_dim, base, rope_type="default"))
    theirs.inv_freq = rotary_frequencies(head_dim, base)
    x, positions = torch.randn(2, 4, 16, head_dim).to(dtype), start + torch.arange(16)
    part = RotaryPositions(head_dim, base=base)
    found = part.rotate(x, part.phases(positions, dtype))
    expected = apply_rotary_pos_emb(x, x, *theirs(x, positions[None]))[0]
    bounds = {name: max(bound, 1e-6) for name, bound in tolerance.items()}  # phases are float32 in both
    torch.testing.assert_close(found, expected, **bounds)
