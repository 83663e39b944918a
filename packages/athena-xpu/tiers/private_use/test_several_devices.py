"""A decoder over two devices that both hold numbers, the made-up one and the host, is the whole one."""

from __future__ import annotations

import copy

import pytest
import torch
from imaginary import NAME, Backend, Offer

from athena_core import PluginHost, place, tensor_sizes
from athena_nn import (
    Decoder,
    LearnedPositions,
    Positions,
    RelativeBias,
    RotaryPositions,
    ShawPositions,
    generate,
)


def spread(model: Decoder, n_layers: int) -> Decoder:
    """A copy with its first layers on the made-up device, and the others on the host."""
    layers = list(dict.fromkeys(size.layer for size in tensor_sizes(model)))[:n_layers]
    Backend.free = sum(size.bytes() for size in tensor_sizes(model) if size.layer in layers)
    return place(copy.deepcopy(model), [NAME, "cpu"], training=False)


PARTS = [RotaryPositions(8), LearnedPositions(12, 16), RelativeBias(2), ShawPositions(8)]


@pytest.mark.parametrize("n_layers", [1, 2, 4])
@pytest.mark.parametrize(
    ("part", "tied", "checkpoint"),
    [*((part, True, False) for part in PARTS), (PARTS[0], False, False), (PARTS[0], False, True)],
    ids=str,
)
def test_a_decoder_over_two_devices_is_the_whole_one(
    athena_host: PluginHost, n_layers: int, part: Positions, tied: bool, checkpoint: bool
) -> None:
    athena_host.register(Offer(), "imaginary")
    options = {"tie_embeddings": tied, "checkpoint": checkpoint, "positions": copy.deepcopy(part)}
    whole = Decoder(31, 16, num_layers=3, num_heads=2, ff_dim=24, **options)
    parts = spread(whole, n_layers)
    assert {parameter.device.type for parameter in parts.parameters()} == {NAME, "cpu"}
    tokens, padding = torch.randint(31, (2, 7)), torch.ones(2, 7, dtype=torch.bool)
    padding[1, :3] = False
    losses = [model.loss(tokens, tokens.roll(-1, 1), padding=padding) for model in (whole, parts)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1].cpu(), losses[0])
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
    torch.testing.assert_close(parts(tokens).cpu(), whole(tokens))
    prompts, there = [tokens[0, :5], tokens[1, :7]], parts.embedding.weight.device
    expected = generate(whole, prompts, max_new_tokens=5)
    found = generate(parts, [prompt.to(there) for prompt in prompts], max_new_tokens=5)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]
