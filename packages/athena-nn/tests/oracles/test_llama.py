"""The decoder, its parts and sampling beside Llama and generation in Hugging Face's transformers.

Nothing is downloaded: models are built from a configuration, and every parameter is drawn.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from athena_nn import DecoderLM, RMSNorm, RotaryPositions, filter_logits, sample
from athena_nn._rotary import rotary_phases

VOCABULARY, WIDTH, HEADS, LAYERS, FF_DIM, LENGTH = 97, 32, 4, 3, 48, 64
BASE = 10_000.0
# Three layers of sums over up to 97 terms, in another order: ten times the table's bound for one part.
MODEL_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
MODELS = [
    pytest.param({"kv_heads": kv_heads, "tie": tie, "bias": bias}, id=name)
    for name, kv_heads, tie, bias in (
        ("grouped-untied", 2, False, False),
        ("grouped-tied", 2, True, False),
        ("multi-head-tied-bias", 4, True, True),
        ("multi-query-untied-bias", 1, False, True),
    )
]


def llama_config(*, kv_heads: int, tie: bool, bias: bool, attention: str) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=FF_DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        tie_word_embeddings=tie,
        attention_bias=bias,
        mlp_bias=bias,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,  # or generation would stop there
        pad_token_id=None,
        attn_implementation=attention,
    )


def use_float64(llama: LlamaForCausalLM) -> None:
    """Cast, and take away what Llama computes in float32 whatever its dtype: norms, and frequencies."""
    for module in list(llama.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(WIDTH, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    llama.model.rotary_emb.inv_freq = rotary_phases(torch.tensor(1), WIDTH // HEADS, BASE)
    llama.double()


def fused(llama: dict[str, Tensor]) -> dict[str, Tensor]:
    """What Llama holds by name, as `DecoderLM` names and joins it: parameters, or their gradients."""
    ours = {
        "embedding.weight": llama["model.embed_tokens.weight"],
        "norm.weight": llama["model.norm.weight"],
        "head.weight": llama["lm_head.weight"],
    }
    kinds = [kind for kind in ("weight", "bias") if f"model.layers.0.mlp.up_proj.{kind}" in llama]
    for layer in range(LAYERS):
        their, our = f"model.layers.{layer}", f"blocks.{layer}"
        ours[f"{our}.attention_norm.weight"] = llama[f"{their}.input_layernorm.weight"]
        ours[f"{our}.feed_forward_norm.weight"] = llama[f"{their}.post_attention_layernorm.weight"]
        for kind in kinds:
            attention = {part: llama[f"{their}.self_attn.{part}_proj.{kind}"] for part in "qkvo"}
            mlp = {part: llama[f"{their}.mlp.{part}_proj.{kind}"] for part in ("gate", "up", "down")}
            ours[f"{our}.attention.qkv.{kind}"] = torch.cat([attention[part] for part in "qkv"])
            ours[f"{our}.attention.out.{kind}"] = attention["o"]
            ours[f"{our}.feed_forward.gate_up.{kind}"] = torch.cat([mlp["gate"], mlp["up"]])
            ours[f"{our}.feed_forward.down.{kind}"] = mlp["down"]
    return ours


def make_pair(
    dtype: torch.dtype = torch.float32, *, kv_heads: int = 2, tie: bool = False, bias: bool = False
) -> tuple[DecoderLM, LlamaForCausalLM]:
    """A Llama of random parameters, gains and biases too, and our decoder with the same ones.

    In float32 Llama writes its attention out; in float64 it takes PyTorch's, as writing out has a
    float32 softmax.
    """
    attention = "sdpa" if dtype == torch.float64 else "eager"
    llama = LlamaForCausalLM(llama_config(kv_heads=kv_heads, tie=tie, bias=bias, attention=attention))
    for name, parameter in llama.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.25)
    if dtype == torch.float64:
        use_float64(llama)
    decoder = DecoderLM(
        VOCABULARY,
        WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        ff_dim=FF_DIM,
        max_length=LENGTH,
        num_kv_heads=kv_heads,
        bias=bias,
        positions=RotaryPositions(WIDTH // HEADS, BASE),
        tie_embeddings=tie,
    ).to(dtype)
    decoder.load_state_dict(fused(llama.state_dict()))
    return decoder, llama


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", MODEL_TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("options", MODELS)
def test_decoder_is_llama(options, dtype, training):
    """Logits, and the gradient of the loss for every parameter, the embedding's among them."""
    decoder, llama = make_pair(dtype, **options)
    decoder.train(training)
    llama.train(training)
    bounds = {"rtol": MODEL_TOLERANCE[dtype], "atol": MODEL_TOLERANCE[dtype]}
    tokens = torch.randint(VOCABULARY, (3, 17))
    logits, their_logits = decoder(tokens), llama(tokens).logits
    assert logits.std() > 1  # so that the tolerance says something
    torch.testing.assert_close(logits, their_logits, **bounds)
    next_token_loss(logits, tokens).backward()
    next_token_loss(their_logits, tokens).backward()
    ours = dict(decoder.named_parameters(remove_duplicate=False))
    gradients = fused({name: p.grad for name, p in llama.named_parameters(remove_duplicate=False)})
    assert gradients.keys() == ours.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name].grad, gradient, **bounds)


def test_decoder_is_llama_at_given_positions():
    """Each row at its own positions, with gaps: these change the distances that attention sees."""
    decoder, llama = make_pair()
    tokens = torch.randint(VOCABULARY, (2, 9))
    positions = torch.stack([torch.arange(9), torch.arange(9).square() + 5])
    logits = decoder(tokens, positions)
    # without its mask, Llama takes a gap for the start of another text
    theirs = llama(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens)).logits
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[1], decoder(tokens)[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("options", MODELS)
def test_greedy_sampling_is_generation_without_sampling(options):
    """Generation keeps keys and values in a cache, `sample` runs the model anew: the tokens are the same."""
    decoder, llama = make_pair(**options)
    prompt = torch.randint(VOCABULARY, (4, 7))
    ours = sample(decoder, prompt, max_new_tokens=40, temperature=0)
    theirs = llama.eval().generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40
    )
    assert torch.equal(ours, theirs[:, 7:])
    assert len(ours.unique()) > 8


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


def llama_rotary(head_dim: int, base: float) -> LlamaRotaryEmbedding:
    rope = {"rope_type": "default", "rope_theta": base}
    return LlamaRotaryEmbedding(LlamaConfig(head_dim=head_dim, rope_parameters=rope))


ROTARY_SIZES = pytest.mark.parametrize(
    ("head_dim", "base"), [(8, 10_000.0), (64, 10_000.0), (128, 500_000.0)]
)
STARTS = pytest.mark.parametrize("start", [0, 100_000])


@STARTS
@ROTARY_SIZES
def test_rotary_is_llamas_given_the_same_frequencies(head_dim, base, start, dtype, tolerance):
    theirs = llama_rotary(head_dim, base)
    theirs.inv_freq = rotary_phases(torch.tensor(1), head_dim, base)
    q, k = torch.randn(2, 4, 16, head_dim).to(dtype), torch.randn(2, 2, 16, head_dim).to(dtype)
    positions = start + torch.arange(16)
    rotated = RotaryPositions(head_dim, base).rotate(q, k, positions)
    expected = apply_rotary_pos_emb(q, k, *theirs(q, positions[None]))
    bounds = {name: max(bound, 1e-6) for name, bound in tolerance.items()}  # phases are float32 in both
    for ours, their in zip(rotated, expected, strict=True):
        torch.testing.assert_close(ours, their, **bounds)


@STARTS
@ROTARY_SIZES
def test_rotary_is_llamas_within_the_rounding_of_frequencies(head_dim, base, start):
    """Ours are :math:`b^{-x}` and theirs :math:`1 / b^x`, in float32: two roundings, times the position."""
    theirs = llama_rotary(head_dim, base)
    frequencies = rotary_phases(torch.tensor(1), head_dim, base)
    torch.testing.assert_close(frequencies, theirs.inv_freq, rtol=2**-22, atol=0.0)
    x, positions = torch.randn(1, 4, 16, head_dim), start + torch.arange(16)
    rotated = RotaryPositions(head_dim, base).rotate(x, x, positions)[0]
    expected = apply_rotary_pos_emb(x, x, *theirs(x, positions[None]))[0]
    pairs, moved = (each.unflatten(-1, (2, -1)).norm(dim=-2) for each in (x, rotated - expected))
    assert (moved <= (2**-22 * positions[:, None] + 1e-6) * pairs).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("top_k", [None, 1, 10, 200])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 0.9999, 1.0])
def test_filter_is_transformers(temperature, top_k, top_p):
    """In generation's order: temperature, top-k, top-p."""
    logits = 3 * torch.randn(64, 128)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(64, 1, dtype=torch.long), logits)
    ours = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(ours, expected)
