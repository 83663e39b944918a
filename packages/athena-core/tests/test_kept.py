"""What a step keeps for its gradients: measured on the meta device, and as autograd does on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from athena_core import AthenaError, DeviceCaps, DeviceRoom, place, plan, tensor_sizes


@pytest.fixture(autouse=True)
def _seeded(seed):
    pass


def convolutions(strides):
    layers, width = [], 3
    for stride in strides:
        layers += [nn.Conv2d(width, 16, 3, stride=stride, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        width = 16
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def kept_here(model, given):
    """Bytes that autograd keeps of a real step, each storage once and no parameter."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(given)
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def activations(sizes, **options):
    return plan(sizes, [DeviceRoom("cpu", DeviceCaps())], **options).loads[0].activations


def test_a_measured_step_keeps_what_autograd_keeps():
    model = convolutions([1, 2, 2])
    sizes = tensor_sizes(model, step=lambda model: model(torch.zeros(4, 3, 16, 16)))
    assert activations(sizes) == kept_here(model, torch.randn(4, 3, 16, 16))
    kept = [
        size.name for size in sizes if size.kept
    ]  # a convolution's output counts to the norm that saves it
    assert kept == ["0.weight", "1.weight", "4.weight", "7.weight", "11.weight"]


def test_the_estimate_of_pictures_that_keep_their_size():
    """About twice what is kept; of pictures that shrink, the rows of the first layer are many times it."""
    same, shrinking = convolutions([1, 1, 1]), convolutions([1, 2, 2])
    rows, pictures = 4 * 16 * 16, torch.randn(4, 3, 16, 16)
    assert 1 < activations(tensor_sizes(same), rows=rows) / kept_here(same, pictures) < 2.2
    assert activations(tensor_sizes(shrinking), rows=rows) > 4 * kept_here(shrinking, pictures)


def test_tied_and_shared_modules_and_those_without_tensors():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body = nn.Embedding(11, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.body(self.body(self.embedding(ids)).tanh()))

    model = Model()
    sizes = {size.name: size for size in tensor_sizes(model, step=lambda m: m(torch.zeros(5, dtype=int)))}
    assert sum(size.kept for size in sizes.values()) == kept_here(model, torch.arange(5))
    assert sizes["body.bias"].kept == 0
    assert sizes["embedding.weight"].kept > 0


def test_a_measurement_leaves_no_trace():
    model = convolutions([1, 2])
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    sizes = tensor_sizes(model, step=lambda m: nn.functional.dropout(m(torch.randn(4, 3, 8, 8))).sum())
    assert sizes == tensor_sizes(
        model, step=lambda m: nn.functional.dropout(m(torch.randn(4, 3, 8, 8))).sum()
    )
    assert torch.equal(torch.get_rng_state(), state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_placing_by_a_measured_step(athena_host):
    model = convolutions([1, 2])
    assert place(model, "cpu", step=lambda m: m(torch.zeros(4, 3, 8, 8))) is model


def test_a_step_that_needs_more_than_shapes():
    with pytest.raises(
        AthenaError, match=r"`step` must run on the meta device.*; got RuntimeError"
    ) as caught:
        tensor_sizes(nn.Linear(2, 2), step=lambda model: model(torch.ones(2)).item())
    assert "\n" not in str(caught.value)
    with pytest.raises(AthenaError, match=r"got ZeroDivisionError: division by zero\. Make its tensors"):
        tensor_sizes(nn.Linear(2, 2), step=lambda _: 1 / 0)
    with pytest.raises(ValueError, match=r"`step` is one of a module; got list"):
        tensor_sizes([nn.Linear(2, 2)], step=lambda _: None)
