"""The planner's activations of a decoder, estimated and measured, beside what autograd keeps of its loss."""

from __future__ import annotations

import pytest
import torch

from athena_core import DeviceCaps, DeviceRoom, plan, tensor_sizes
from athena_nn import Decoder, RotaryPositions

BATCH, TIME, WORDS = 4, 32, 256


def make(**options):
    sizes = {"num_layers": 3, "num_heads": 4, "ff_dim": 172, "positions": RotaryPositions(16)}
    return Decoder(WORDS, 64, **sizes, **options)


def kept_here(model):
    """Bytes that autograd keeps of a real step, each storage once and no parameter."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # alive, so that no address is used twice
        return tensor

    tokens = torch.randint(WORDS, (BATCH, TIME))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert model.loss(tokens, tokens).requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def activations(sizes, **options):
    return plan(sizes, [DeviceRoom("cpu", DeviceCaps())], **options).loads[0].activations


def step(model):
    tokens = torch.zeros(BATCH, TIME, dtype=torch.int64)
    return model.loss(tokens, tokens)


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 1, 2),
        ({"activation": "gelu", "norm": "layer", "bias": True}, 1, 2),
        ({"num_kv_heads": 1, "tie_embeddings": False}, 1, 2),
        ({"dropout": 0.1}, 0.5, 1),  # masks, and what they leave
        ({"checkpoint": True}, 5, 50),  # which the estimate does not know of
    ],
)
def test_estimate_and_measurement(options, least, most):
    model = make(**options)
    kept = kept_here(model)
    assert least < activations(tensor_sizes(model), rows=BATCH * TIME) / kept < most
    # on the meta device attention is not fused: its scores are kept
    assert 0.95 < activations(tensor_sizes(model, step=step)) / kept < 1.3


@pytest.mark.parametrize("padded", [False, True])
def test_blocks_on_another_device_than_the_tokens(padded):
    """As `athena_core.place` leaves them; what a pass shares goes to where each block is."""
    model = make(tie_embeddings=False).eval()
    for module in (*model.blocks[1:], model.norm, model.head):
        module.to("meta").register_forward_pre_hook(lambda _, given: (given[0].to("meta"), *given[1:]))
    tokens, inputs = torch.randint(WORDS, (2, 5)), {}
    if padded:
        inputs = {"padding": torch.tensor([[True] * 5, [True] * 3 + [False] * 2])}
    assert model.loss(tokens, tokens, **inputs).is_meta
    cache = model.new_cache(2)
    assert [layer.keys.parts[0].device.type for layer in cache.layers] == ["cpu", "meta", "meta"]
    with torch.no_grad():
        for _ in range(2):
            logits = model(tokens, cache=cache, **inputs)
            assert (logits.device.type, logits.shape) == ("meta", (2, 5, WORDS))
    assert cache.lengths.tolist() == ([10, 6] if padded else [10, 10])
