"""The encoder beside Hugging Face's BERT: norms after the sum, an embedding norm, learned positions.

Nothing is downloaded: both have drawn parameters.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from athena_nn import Encoder, LayerNorm, LearnedPositions

VOCABULARY, WIDTH, HEADS, LAYERS, FF_DIM, LENGTH, EPS = 61, 32, 4, 3, 40, 24, 1e-12
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def make_theirs(dtype: torch.dtype) -> BertModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FF_DIM,
        max_position_embeddings=LENGTH,
        layer_norm_eps=EPS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    theirs = BertModel(config, add_pooling_layer=False)
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.25)
    return theirs.to(dtype)


def state(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What BERT holds by name, as `Encoder` names and joins it; the first token type is part of positions."""
    types, positions = (theirs[f"embeddings.{kind}_embeddings.weight"] for kind in ("token_type", "position"))
    ours = {
        "embedding.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": positions + types[0],
    }
    for kind in ("weight", "bias"):
        ours[f"embedding_norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for i in range(LAYERS):
            their, our = f"encoder.layer.{i}", f"blocks.{i}"
            parts = [theirs[f"{their}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{our}.attention.qkv.{kind}"] = torch.cat(parts)
            ours[f"{our}.attention.out.{kind}"] = theirs[f"{their}.attention.output.dense.{kind}"]
            ours[f"{our}.attention_norm.{kind}"] = theirs[f"{their}.attention.output.LayerNorm.{kind}"]
            ours[f"{our}.feed_forward.up.{kind}"] = theirs[f"{their}.intermediate.dense.{kind}"]
            ours[f"{our}.feed_forward.down.{kind}"] = theirs[f"{their}.output.dense.{kind}"]
            ours[f"{our}.feed_forward_norm.{kind}"] = theirs[f"{their}.output.LayerNorm.{kind}"]
    return ours


@pytest.fixture(params=TOLERANCE, ids=["float32", "float64"])
def pair(request: pytest.FixtureRequest) -> tuple[Encoder, BertModel]:
    theirs = make_theirs(request.param)
    ours = Encoder(
        VOCABULARY,
        WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        ff_dim=FF_DIM,
        positions=LearnedPositions(LENGTH, WIDTH),
        embedding_norm=True,
        norm=partial(LayerNorm, eps=EPS),
        norm_first=False,
        activation="gelu",
        bias=True,
    ).to(request.param)
    ours.load_state_dict(state(theirs.state_dict()))
    return ours, theirs


def close(found: Tensor, expected: Tensor) -> None:
    bound = TOLERANCE[expected.dtype]
    assert expected.std() > 0.5  # so that the tolerance says something
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_states_and_gradients(pair, training):
    ours, theirs = (model.train(training) for model in pair)
    tokens = torch.randint(VOCABULARY, (3, LENGTH))
    found, expected = ours(tokens), theirs(tokens).last_hidden_state
    close(found, expected)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    wanted = state({name: parameter.grad for name, parameter in theirs.named_parameters()})
    wanted["positions.weight"] = theirs.embeddings.position_embeddings.weight.grad
    wanted["embedding.weight"][theirs.config.pad_token_id] = ours.embedding.weight.grad[0]  # frozen there
    bound = 10 * TOLERANCE[expected.dtype]  # gradients are sums over the batch
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=bound, atol=bound)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(pair, side):
    """On either side; positions count from a row's first real token."""
    ours, theirs = (model.eval() for model in pair)
    tokens, order = torch.randint(VOCABULARY, (3, LENGTH)), torch.arange(LENGTH)
    padding = torch.stack([order >= LENGTH - n if side == "left" else order < n for n in (LENGTH, 13, 2)])
    found = ours(tokens, padding=padding)
    positions = (padding.cumsum(1) - 1).clamp(min=0)
    together = theirs(tokens, attention_mask=padding.long(), position_ids=positions).last_hidden_state
    close(found[padding], together[padding])
    for row, real in enumerate(padding):
        close(found[row][real], theirs(tokens[row][real][None]).last_hidden_state[0])
