"""The encoder-decoder beside Hugging Face's T5: relative biases, cross-attention, unscaled scores.

T5 1.0 has relu and a head tied to the embedding, whose input it scales; 1.1 has a gate and a head of its own.
Nothing is downloaded: both have drawn parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm

from athena_nn import Decoder, Encoder, EncoderDecoder, RelativeBias, beam_search, generate

VOCABULARY, WIDTH, HEADS, HEAD_DIM, FF_DIM = 61, 32, 4, 6, 40
LAYERS = {"encoder": 2, "decoder": 3}
BUCKETS = {"num_buckets": 8, "max_distance": 12}  # so that a few tokens reach the last bucket
PAD = 60  # of rows that ended; not 0: beam search would fill up with the stop token instead
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class GatedTanhGELU(nn.Module):
    """T5 1.1's activation: "gated-gelu" is GELU by its tanh approximation."""

    gated = True

    def forward(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * up


def make_theirs(version: str, dtype: torch.dtype) -> T5ForConditionalGeneration:
    theirs = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=HEAD_DIM,
            d_ff=FF_DIM,
            num_layers=LAYERS["encoder"],
            num_decoder_layers=LAYERS["decoder"],
            num_heads=HEADS,
            relative_attention_num_buckets=BUCKETS["num_buckets"],
            relative_attention_max_distance=BUCKETS["max_distance"],
            feed_forward_proj={"1.0": "relu", "1.1": "gated-gelu"}[version],
            tie_word_embeddings=version == "1.0",
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )
    if version == "1.1":
        theirs.lm_head.weight = nn.Parameter(torch.empty(VOCABULARY, WIDTH))
    for name, parameter in theirs.named_parameters():
        std = 1.0 if name == "shared.weight" else 0.2
        nn.init.normal_(parameter, mean=float("layer_norm" in name), std=std)
    if dtype == torch.float64:  # T5 norms in float32 whatever the dtype
        for module in list(theirs.modules()):
            for name, child in module.named_children():
                if isinstance(child, T5LayerNorm):
                    norm = nn.RMSNorm(WIDTH, eps=child.variance_epsilon)
                    norm.weight = child.weight
                    setattr(module, name, norm)
    return theirs.to(dtype)


def layer_of(theirs: dict[str, Tensor], their: str, our: str, ff_index: int) -> Iterator[tuple[str, Tensor]]:
    attention = f"{their}.layer.0.SelfAttention"
    yield f"{our}.attention_norm.weight", theirs[f"{their}.layer.0.layer_norm.weight"]
    yield f"{our}.attention.qkv.weight", torch.cat([theirs[f"{attention}.{part}.weight"] for part in "qkv"])
    yield f"{our}.attention.out.weight", theirs[f"{attention}.o.weight"]
    if ff_index == 2:
        attention = f"{their}.layer.1.EncDecAttention"
        yield f"{our}.cross_norm.weight", theirs[f"{their}.layer.1.layer_norm.weight"]
        yield f"{our}.cross_attention.q.weight", theirs[f"{attention}.q.weight"]
        yield (
            f"{our}.cross_attention.kv.weight",
            torch.cat([theirs[f"{attention}.{part}.weight"] for part in "kv"]),
        )
        yield f"{our}.cross_attention.out.weight", theirs[f"{attention}.o.weight"]
    feed_forward = f"{their}.layer.{ff_index}"
    up = [theirs[name] for name in sorted(theirs) if name.startswith(f"{feed_forward}.DenseReluDense.wi")]
    yield f"{our}.feed_forward_norm.weight", theirs[f"{feed_forward}.layer_norm.weight"]
    yield f"{our}.feed_forward.up.weight", torch.cat(up)
    yield f"{our}.feed_forward.down.weight", theirs[f"{feed_forward}.DenseReluDense.wo.weight"]


def state(theirs: dict[str, Tensor], version: str) -> dict[str, Tensor]:
    """What T5 holds by name, as `EncoderDecoder` names and joins it."""
    ours = {
        "encoder.embedding.weight": theirs["shared.weight"],
        "decoder.embedding.weight": theirs["shared.weight"],
    }
    for side, layers in LAYERS.items():
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ours[f"{side}.positions.weight"] = theirs[bias]
        ours[f"{side}.norm.weight"] = theirs[f"{side}.final_layer_norm.weight"]
        for i in range(layers):
            ours |= layer_of(theirs, f"{side}.block.{i}", f"{side}.blocks.{i}", 1 if side == "encoder" else 2)
    if version == "1.0":  # the scale of the tied head's input, folded into the norm before it
        ours["decoder.norm.weight"] = ours["decoder.norm.weight"] * WIDTH**-0.5
    ours["decoder.head.weight"] = theirs["lm_head.weight"]
    return ours


def make_ours(version: str) -> EncoderDecoder:
    options = {
        "num_heads": HEADS,
        "head_dim": HEAD_DIM,
        "ff_dim": FF_DIM,
        "scale": 1.0,
        "activation": "relu" if version == "1.0" else GatedTanhGELU(),
    }
    encoder = Encoder(
        VOCABULARY, WIDTH, num_layers=LAYERS["encoder"], positions=RelativeBias(HEADS, **BUCKETS), **options
    )
    decoder = Decoder(
        VOCABULARY,
        WIDTH,
        num_layers=LAYERS["decoder"],
        positions=RelativeBias(HEADS, bidirectional=False, **BUCKETS),
        memory_dim=WIDTH,
        tie_embeddings=version == "1.0",
        **options,
    )
    return EncoderDecoder(encoder, decoder, start_token=0)


@pytest.fixture(params=["1.0", "1.1"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def pair(version: str, dtype: torch.dtype) -> tuple[EncoderDecoder, T5ForConditionalGeneration]:
    theirs, ours = make_theirs(version, dtype), make_ours(version).to(dtype)
    ours.load_state_dict(state(theirs.state_dict(), version))
    return ours, theirs


def padded(lengths: tuple[int, ...], side: str) -> Tensor:
    time = max(lengths)
    order = torch.arange(time)
    rows = [order >= time - n if side == "left" else order < n for n in lengths]
    return torch.stack(rows)


def close(found: Tensor, expected: Tensor) -> None:
    bound = TOLERANCE[expected.dtype]
    assert expected.std() > 0.5  # so that the tolerance says something
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_logits_and_gradients(pair, training, version):
    ours, theirs = (model.train(training) for model in pair)
    source, target = torch.randint(VOCABULARY, (2, 19)), torch.randint(VOCABULARY, (2, 15))
    logits, expected = ours(source, target), theirs(source, decoder_input_ids=target).logits
    close(logits, expected)
    logits.square().mean().backward()
    expected.square().mean().backward()
    names = dict(theirs.named_parameters(remove_duplicate=False))
    wanted = state({name: parameter.grad for name, parameter in names.items()}, version)
    for name, parameter in ours.named_parameters(remove_duplicate=False):
        if name.endswith("embedding.weight") or (version == "1.0" and name.startswith("decoder.head")):
            continue  # one matrix there, two here: compared below as their sum
        scale = WIDTH if version == "1.0" and name == "decoder.norm.weight" else 1  # d/d(ag) = (d/dg)/a
        bound = TOLERANCE[parameter.dtype]
        torch.testing.assert_close(parameter.grad, scale * wanted[name], rtol=bound, atol=bound)
    ours_shared = ours.encoder.embedding.weight.grad + ours.decoder.embedding.weight.grad
    bound = TOLERANCE[ours_shared.dtype]
    torch.testing.assert_close(ours_shared, theirs.shared.weight.grad, rtol=bound, atol=bound)


@pytest.mark.parametrize("target_side", ["left", "right"])
@pytest.mark.parametrize("source_side", ["left", "right"])
def test_padding_of_source_and_target(pair, source_side, target_side):
    ours, theirs = (model.eval() for model in pair)
    source, source_padding = torch.randint(VOCABULARY, (3, 19)), padded((19, 12, 3), source_side)
    target, target_padding = torch.randint(VOCABULARY, (3, 15)), padded((4, 15, 9), target_side)
    logits = ours(source, target, source_padding=source_padding, target_padding=target_padding)
    memory = ours.encode(source, source_padding)
    for row, (real, real_target) in enumerate(zip(source_padding, target_padding, strict=True)):
        output = theirs(source[row][real][None], decoder_input_ids=target[row][real_target][None])
        close(logits[row][real_target], output.logits[0])
        close(memory[row][real], output.encoder_last_hidden_state[0])
    together = theirs(
        source,
        attention_mask=source_padding.long(),
        decoder_input_ids=target,
        decoder_attention_mask=target_padding.long(),
    ).logits
    close(logits[target_padding], together[target_padding])


@pytest.mark.parametrize("capacity", [None, 20], ids=["growing", "static"])
@pytest.mark.parametrize("chunks", [(1,) * 15, (7, 1, 4, 3)], ids=str)
def test_chunks_with_a_cache(pair, chunks, capacity):
    """The memory's keys and values are in the cache; relative distances span it."""
    ours, theirs = (model.eval() for model in pair)
    source, padding = torch.randint(VOCABULARY, (3, 19)), padded((19, 12, 3), "left")
    target = torch.randint(VOCABULARY, (3, 15))
    with torch.no_grad():
        memory = ours.encode(source, padding)
        cache = ours.new_cache(3, memory=memory, memory_padding=padding, capacity=capacity)
        logits = torch.cat([ours.decoder(chunk, cache=cache) for chunk in target.split(chunks, dim=1)], dim=1)
        expected = theirs(source, attention_mask=padding.long(), decoder_input_ids=target).logits
    close(logits, expected)


@pytest.fixture
def generators(pair, version) -> tuple[EncoderDecoder, T5ForConditionalGeneration]:
    """With layers that outweigh the embeddings: or each token would predict itself."""
    ours, theirs = (model.eval() for model in pair)
    theirs.shared.weight.data *= 0.1
    for name, parameter in theirs.decoder.block.named_parameters():
        if "layer_norm" not in name:
            parameter.data *= 4
    ours.load_state_dict(state(theirs.state_dict(), version))
    theirs.generation_config.pad_token_id = PAD
    return ours, theirs


def sources() -> tuple[list[Tensor], dict[str, Tensor]]:
    """Of unequal lengths: as we take them, and as they do.

    They generate without a cache, since theirs has as many layers as the encoder, not the decoder.
    """
    generator = torch.Generator().manual_seed(1)  # sources for which some beams end early
    tokens = torch.randint(1, VOCABULARY, (3, 19), generator=generator)
    padding = padded((19, 12, 3), "right")
    ours = [row[real] for row, real in zip(tokens, padding, strict=True)]
    return ours, {"input_ids": tokens * padding, "attention_mask": padding.long()}


def assert_rows(ours: list[Tensor], theirs: Tensor) -> None:
    """Rows of theirs begin with the start token, and are filled up with padding."""
    assert [[0, *row.tolist()] + [PAD] * (theirs.shape[1] - 1 - len(row)) for row in ours] == theirs.tolist()


@pytest.mark.parametrize("stop", [False, True])
def test_greedy_generation(generators, stop):
    ours, theirs = generators
    rows, inputs = sources()
    free = generate(ours, rows, max_new_tokens=16)
    stops = (int(free[0][5]), int(free[2][9])) if stop else ()
    new = generate(ours, rows, max_new_tokens=16, stop_tokens=stops)
    theirs.generation_config.eos_token_id = list(stops) or None
    assert_rows(new, theirs.generate(**inputs, do_sample=False, max_new_tokens=16, use_cache=False))
    assert len(torch.cat(free).unique()) > 6  # or agreement would say little
    assert (len(new[0]) < 16) == stop


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize(("num_beams", "num_stops"), [(2, 0), (3, 1), (4, 3)])
def test_beam_search(generators, num_beams, num_stops, early):
    """All beams, in order: tokens the same, scores within the tolerance of float32."""
    ours, theirs = generators
    rows, inputs = sources()
    free = beam_search(ours, rows, num_beams=num_beams, max_new_tokens=12)
    stops = [int(beams[0].tokens[place]) for place, beams in zip((3, 5, 7), free, strict=True)][:num_stops]
    found = beam_search(
        ours, rows, num_beams=num_beams, max_new_tokens=12, stop_tokens=stops, early_stopping=early
    )
    theirs.generation_config.eos_token_id = stops or None
    expected = theirs.generate(
        **inputs,
        do_sample=False,
        use_cache=False,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=12,
        early_stopping=early,
        output_scores=True,
        return_dict_in_generate=True,
    )
    beams = [beam for row in found for beam in row]
    assert_rows([beam.tokens for beam in beams], expected.sequences)
    bound = TOLERANCE[torch.float32]  # both sum float32
    scores = torch.tensor([beam.score for beam in beams], dtype=expected.sequences_scores.dtype)
    torch.testing.assert_close(scores, expected.sequences_scores, rtol=bound, atol=bound)
    assert num_stops == 0 or min(len(beam.tokens) for beam in beams) < 12
