"""Placing on the CPU and on torch's meta device: sizes of a module, moves, routes, optimizers."""

from __future__ import annotations

import copy
from collections import namedtuple

import numpy as np
import pytest
import torch
from fake_devices import Eager, Meta
from torch import nn

from athena_core import AthenaError, DeviceCaps, DeviceRoom, PlacementError, backend, place, tensor_sizes


@pytest.fixture(autouse=True)
def _devices(athena_host, seed):
    athena_host.register(Eager(), "eager")


class Residual(nn.Module):
    """A block that mixes what its parts return."""

    def __init__(self, width=8):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.outer = nn.Linear(width, width)

    def forward(self, x, shift=None):
        x = x * self.scale + self.inner(x)
        return x + self.outer(x) + (0 if shift is None else shift["by"])


class Decoder(nn.Module):
    def __init__(self, n_blocks=3, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(n_blocks))
        self.head = nn.Linear(8, 11)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, shift={"by": torch.ones(8)})
        return self.head(x)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Decoder()


def devices_of(module):
    return {name: tensor.device.type for name, tensor in module.state_dict().items()}


def split_after(monkeypatch, module, n_layers):
    """Leave the meta device room for the first layers alone."""
    layers = list(dict.fromkeys(size.layer for size in tensor_sizes(module)))[:n_layers]
    room = sum(size.bytes() for size in tensor_sizes(module) if size.layer in layers)
    monkeypatch.setattr(Meta, "free", room)


def test_layers_of_a_module():
    layers = lambda module: list(dict.fromkeys(size.layer for size in tensor_sizes(module)))  # noqa: E731
    assert layers(Decoder()) == ["", "embedding", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert layers(Wrapped())[1:3] == ["model.embedding", "model.blocks.0"]
    assert layers(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), Residual()))) == [
        "0",
        "1.0",
        "1.1",
    ]
    assert layers(nn.Linear(2, 2)) == [""]


def test_names_are_those_of_the_state_dict_and_tied_ones_count_once():
    assert {size.name for size in tensor_sizes(Decoder())} == set(Decoder().state_dict())
    tied = {size.name: size for size in tensor_sizes(Decoder(tied=True))}
    assert "head.weight" not in tied
    assert tied["head.bias"].layer == "embedding"
    assert tied["embedding.weight"].width == 8 + 11


def test_widths():
    modules = {
        "linear": nn.Linear(3, 5),
        "conv": nn.Conv2d(3, 7, 2),
        "norm": nn.LayerNorm(4),
        "embed": nn.Embedding(9, 2),
        "up": nn.ConvTranspose1d(3, 6, 2),
    }
    widths = {name: sum(size.width for size in tensor_sizes(module)) for name, module in modules.items()}
    assert widths == {"linear": 5, "conv": 7, "norm": 4, "embed": 2, "up": 6}


def test_a_module_keeps_its_parameters_and_its_optimizer():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    before = list(model.parameters())
    assert place(model, "cpu") is model
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert place(optimizer, "cpu") is optimizer


@pytest.mark.parametrize("target", ["cpu", "meta"])
def test_placing_on_one_device_equals_torch_to(target):
    ours, torchs = place(Decoder(), target), Decoder().to(target)
    assert devices_of(ours) == devices_of(torchs)
    for (name, a), b in zip(ours.state_dict().items(), torchs.state_dict().values(), strict=True):
        assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad), name


def test_gradients_move_along():
    model = nn.Linear(3, 2).double()
    model(torch.ones(3, dtype=torch.float64)).sum().backward()
    place(model, "meta")
    assert model.weight.grad.device.type == "meta"
    assert model.weight.grad.dtype == model.weight.dtype == torch.float32


def test_float64_is_cast_before_the_transfer(monkeypatch):
    """Pitfall: a device without float64 must never see any."""
    seen = []
    original = torch.Tensor.to

    def watch(tensor, *args, **kwargs):
        seen.append((tensor.dtype, str(args[0])))
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watch)
    array = np.ones(3)
    batch = place(
        {"x": array, "y": torch.ones(2, dtype=torch.float64), "n": torch.tensor([1]), "name": "a"}, "meta"
    )
    assert (torch.float64, "meta") not in seen
    assert batch["x"].dtype == batch["y"].dtype == torch.float32
    assert batch["n"].dtype == torch.int64
    assert batch["name"] == "a"
    with pytest.raises(PlacementError, match=r"`x` .*lacks float64"):
        place({"x": array}, "meta", cast=False)


def test_structures_keep_their_form_and_shared_tensors_stay_shared():
    pair = namedtuple("pair", "a b")
    one = torch.ones(2)
    placed = place([pair(one, (one, 3)), {"k": one}], "meta")
    assert isinstance(placed[0], pair)
    assert placed[0].a is placed[0].b[0] is placed[1]["k"]
    assert placed[0].b[1] == 3


def test_nothing_is_moved_when_refused(monkeypatch):
    model = Decoder()
    monkeypatch.setattr(Meta, "free", 100)
    with pytest.raises(PlacementError, match="meta"):
        place({"model": model, "x": torch.ones(2)}, "meta")
    assert set(devices_of(model).values()) == {"cpu"}


def test_what_already_lies_there_needs_no_room_again(monkeypatch):
    model = place(Decoder(), "meta")
    monkeypatch.setattr(
        Meta,
        "free",
        sum(size.bytes() * 4 for size in tensor_sizes(model))
        - sum(t.nbytes for t in model.state_dict().values()),
    )
    place(model, "meta")


@pytest.fixture
def readable(monkeypatch):
    """Let tensors come back from the meta device, as zeros; mixing devices in an op still raises."""
    original = torch.Tensor.to

    def to(tensor, *args, **kwargs):
        if tensor.is_meta and args[0] == torch.device("cpu"):
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)


@pytest.mark.parametrize("n_layers", [2, 3, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_a_split_model_runs(monkeypatch, readable, n_layers, tied):
    model = Decoder(tied=tied)
    split_after(monkeypatch, model, n_layers)
    place(model, ["meta", "cpu"], training=False)
    assert set(devices_of(model).values()) == {"meta", "cpu"}
    assert model.blocks[2].outer.weight.device.type == "cpu"
    output = model(torch.zeros(2, 5, dtype=torch.int64))
    assert output.shape == (2, 5, 11)
    assert output.device == model.head.weight.device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_split_model_computes_and_trains_as_a_whole_one(monkeypatch):
    whole = Decoder()
    split = copy.deepcopy(whole)
    layers = [size for size in tensor_sizes(split) if size.layer in ("", "embedding", "blocks.0")]
    monkeypatch.setattr(
        "athena_core._backends.CUDA.memory", lambda self, index=0: (sum(s.bytes() for s in layers), 2**34)
    )
    place(split, ["cuda", "cpu"], training=False)
    tokens = torch.arange(10)
    expected, output = whole(tokens), split(tokens)
    expected.square().sum().backward()
    output.square().sum().backward()
    assert {p.device.type for p in split.parameters()} == {"cuda", "cpu"}
    torch.testing.assert_close(output.cpu(), expected)
    for ours, reference in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.cpu(), reference.grad)


def test_a_torn_layer_runs(monkeypatch, readable):
    """Its modules take their inputs to themselves and hand their outputs back to the block."""
    model = nn.Sequential(Residual())
    room = sum(t.nbytes for t in (model[0].scale, *model[0].inner.parameters()))
    invented = [DeviceRoom(name, DeviceCaps(), room) for name in ("meta", "cpu")]
    monkeypatch.setattr("athena_core._place.rooms", lambda chosen, present: invented)
    place(model, ["meta", "cpu"], training=False)
    on_cpu = {name for name, kind in devices_of(model).items() if kind == "cpu"}
    assert on_cpu == {"0.outer.weight", "0.outer.bias"}
    assert model(torch.ones(4, 8)).device.type == "meta"


def test_placing_anew_forgets_the_old_routes(monkeypatch):
    """On the CPU throughout, values and all; the old routes would bring inputs to the meta device."""
    model = Decoder()
    split_after(monkeypatch, model, 3)
    place(model, ["meta", "cpu"], training=False)
    fresh = Decoder()
    for parent, source in zip(model.modules(), fresh.modules(), strict=True):
        for key, parameter in source.named_parameters(recurse=False):
            setattr(parent, key, parameter)
        for key, buffer in source.named_buffers(recurse=False):
            setattr(parent, key, buffer)
    place(model, "cpu")
    tokens = torch.arange(6)
    assert torch.equal(model(tokens), fresh(tokens))


def test_optimizer_state_follows_and_step_counts_stay():
    weight = nn.Parameter(torch.ones(3, dtype=torch.float32, device="meta"))
    optimizer = torch.optim.Adam([weight])
    optimizer.state[weight] = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.ones(3, dtype=torch.float64),
        "old": [torch.ones(1)],
        "n": 2,
    }
    place(optimizer, "meta")
    state = optimizer.state[weight]
    assert state["step"].device.type == "cpu"
    assert (state["exp_avg"].device.type, state["exp_avg"].dtype) == ("meta", torch.float32)
    assert (state["old"][0].device.type, state["n"]) == ("meta", 2)
    optimizer.param_groups[0]["capturable"] = True
    assert place(optimizer, "meta").state[weight]["step"].device.type == "meta"


def test_an_optimizer_whose_model_is_elsewhere():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(AthenaError, match=r"parameters are on cpu, not on meta; place the model first"):
        place(optimizer, "meta")


def test_a_backend_places_too():
    assert backend("meta").place(torch.ones(2)).device.type == "meta"
    assert backend("cpu").place(nn.Linear(2, 2), rows=3).weight.device.type == "cpu"


def test_recurrent_layers_and_frozen_parameters():
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "head": nn.Linear(4, 1).requires_grad_(False)})
    sizes = {size.name: size for size in tensor_sizes(model)}
    assert sizes["rnn.weight_ih_l0"].trainable
    assert not sizes["head.weight"].trainable
    place(model, "cpu")
    assert model["rnn"](torch.ones(2, 3))[0].shape == (2, 4)
