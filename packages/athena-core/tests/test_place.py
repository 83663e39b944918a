"""Placing on the CPU and on torch's meta device: sizes of a module, moves, routes, optimizers."""

from __future__ import annotations

import copy
import math
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from fake_devices import Eager, Meta, limit
from torch import nn

from athena_core import (
    AthenaError,
    DeviceCaps,
    DeviceRoom,
    PlacementError,
    SplitEmbedding,
    SplitLinear,
    backend,
    place,
    tensor_sizes,
)
from athena_core._placement import size_text


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


def test_arrays_that_hold_no_numbers_of_torchs_are_returned_as_they_are():
    words = np.array(["ash", "birch"])
    assert place({"words": words, "x": np.ones(2)}, "meta")["words"] is words


def test_sparse_tensors_are_placed():
    eye = torch.eye(3, dtype=torch.float64).to_sparse()
    assert place([eye], "meta")[0].dtype == torch.float32
    assert place([eye], "cpu")[0].to_dense().equal(torch.eye(3, dtype=torch.float64))


def test_parameters_without_a_shape_are_refused():
    with pytest.raises(AthenaError, match=r"`0\.weight` has no shape yet; call the module once"):
        place(nn.Sequential(nn.LazyLinear(3)), "cpu")


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


def offloaded(monkeypatch):
    """Two layers, the first of them on the meta device; the second on the host."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    split_after(monkeypatch, model, 1)
    return place(model, ["meta", "cpu"], training=False)


def bring_back(model):
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_split_model_can_be_placed_anew(monkeypatch, copied):
    """It has the hooks of the first placement, and they end with it."""
    model = copied(offloaded(monkeypatch))
    bring_back(model)
    place(model, "cpu")
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model(torch.zeros(4)).tolist() == [5.0] * 4


def test_a_split_model_that_is_moved_by_torch_runs(monkeypatch):
    model = offloaded(monkeypatch)
    bring_back(model)
    assert model(torch.zeros(4)).tolist() == [5.0] * 4


def test_a_torn_layer_that_is_moved_by_torch_runs(monkeypatch):
    model = nn.Sequential(Residual())
    room = sum(t.nbytes for t in (model[0].scale, *model[0].inner.parameters()))
    invented = [DeviceRoom(name, DeviceCaps(), room) for name in ("meta", "cpu")]
    monkeypatch.setattr("athena_core._place.rooms", lambda chosen, present: invented)
    place(model, ["meta", "cpu"], training=False)
    bring_back(model)
    assert model(torch.zeros(2, 8)).tolist() == Residual.forward(model[0], torch.zeros(2, 8)).tolist()


def test_a_split_model_s_step_can_be_measured(monkeypatch):
    model, step = offloaded(monkeypatch), lambda model: model(torch.ones(2, 4))
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert tensor_sizes(model, step) == tensor_sizes(fresh, step)


def test_what_makes_a_parametrized_weight_stays_with_its_layer():
    model = Wrapped()
    model.model.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 11))
    layers = {size.name: size.layer for size in tensor_sizes(model) if ".head." in size.name}
    assert len(layers) == 3
    assert set(layers.values()) == {"model.head"}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn = nn.Linear(2, 4), nn.RNN(4, 3)

    def forward(self, packed):
        return self.rnn(packed._replace(data=self.embedding(packed.data)))[0]


def test_packed_sequences_keep_their_batch_sizes_on_the_host(monkeypatch, readable):
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 2), [2, 3], enforce_sorted=False)
    placed = place(packed, "meta")
    assert [tensor.device.type for tensor in placed] == ["meta", "cpu", "meta", "meta"]
    model = Recurrent()
    split_after(monkeypatch, model, 1)
    place(model, ["meta", "cpu"], training=False)
    assert model.rnn.weight_hh_l0.device.type == "cpu"
    assert model(packed).data.device.type == "cpu"


def test_tied_parameters_stay_tied_where_torch_makes_new_ones():
    """Of devices whose data cannot go into an old parameter, as meta and PrivateUse1."""
    model = Decoder(tied=True)
    model.embedding.weight.grad = torch.ones(11, 8)
    place(model, "meta")
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.grad.device.type == "meta"


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


def test_an_optimizer_of_a_weight_that_was_split(monkeypatch):
    """Where the host is among the devices, the old weight still lies on one of them."""
    limit(monkeypatch, max_alloc=64)
    model = nn.Sequential(nn.Embedding(11, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model = place(model, "cpu")
    with pytest.raises(AthenaError, match=r"weight \(11, 2\) .* was split; make the optimizer anew"):
        place(optimizer, "cpu")
    assert place(torch.optim.Adam(model.parameters()), "cpu")


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


def fill(monkeypatch, device, moves):
    """Have a device run out of memory after so many moves; the list holds the names of what it was told."""
    original, told = device.move, []

    def move(self, tensor, dtype, index=None):
        told.append("move")
        if told.count("move") > moves:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 2.00 GiB.")
        return original(self, tensor, dtype, index)

    monkeypatch.setattr(device, "move", move)
    monkeypatch.setattr(device, "empty_cache", lambda self: told.append("empty_cache"), raising=False)
    return told


@pytest.mark.parametrize("moves", [0, 1, 5])
def test_out_of_memory_while_moving_loses_nothing(monkeypatch, moves):
    """The planner was told of more room than there is, as where another process takes it meanwhile."""
    model = nn.ModuleDict({"net": Decoder(tied=True), "conv": nn.Conv2d(2, 2, 3)}).double()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    held = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    before = [(tensor, tensor.data_ptr(), tensor.clone()) for tensor in held]
    names = [size.name for size in tensor_sizes(model)]
    told = fill(monkeypatch, Meta, max(0, 2 * moves - 1))  # the first is a buffer, without a gradient
    monkeypatch.setattr(Meta, "free", 3 * 2**20)
    with pytest.raises(PlacementError) as caught:
        place({"model": model, "x": torch.ones(2)}, "meta", channels_last=True)
    sizes = {size.name: size for size in tensor_sizes(model)}
    fitted = sum(
        8 if name.endswith("steps") else 2 * math.prod(sizes[name].shape) * 4 for name in names[:moves]
    )
    message = str(caught.value)
    assert message.startswith(f"`model.{names[moves]}` (")
    assert f"meta ran out of memory while it was moved; {size_text(fitted)} had fitted before it" in message
    assert "3.00 MiB is free there now, of 1.00 TiB" in message
    assert "Nothing was moved" in message
    assert "\n" not in message
    assert told[-1] == "empty_cache"
    assert caught.value.__context__ is None  # whose frames would keep what was copied
    now = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    for tensor, (same, pointer, value) in zip(now, before, strict=True):
        assert tensor is same
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor, value)


def test_out_of_memory_while_an_optimizer_follows(monkeypatch):
    weight = nn.Parameter(torch.ones(3, device="meta"))
    optimizer = torch.optim.Adam([weight])
    old = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    optimizer.state[weight] = dict(old)
    fill(monkeypatch, Meta, 1)
    with pytest.raises(PlacementError, match=r"the optimizer's state: meta ran out .*; 12 B had fitted"):
        place(optimizer, "meta")
    assert all(optimizer.state[weight][key] is tensor for key, tensor in old.items())


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.deep = nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)
        self.up, self.line = nn.ConvTranspose2d(4, 3, 3), nn.Conv1d(3, 4, 3)
        self.register_buffer("picture", torch.randn(2, 3, 8, 8))


def innermost(tensor):
    return tensor.stride(1) == 1 and not tensor.is_contiguous()


@pytest.mark.parametrize(
    ("gains", "asked", "expected"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_channels_last_is_as_the_device_gains_or_as_asked(monkeypatch, gains, asked, expected):
    limit(monkeypatch, channels_last=gains)
    model = Convolutions()
    expectation = model.up(model.flat(model.picture))
    expectation.sum().backward()
    model.deep.weight.grad = torch.ones_like(model.deep.weight)
    parameters = list(model.parameters())
    place(model, "cpu", channels_last=asked)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for module in (model.flat, model.deep, model.up):
        assert innermost(module.weight) == innermost(module.weight.grad) == expected
        assert module.bias.is_contiguous()
    assert model.line.weight.is_contiguous()
    assert model.picture.is_contiguous()
    output = model.up(model.flat(model.picture))
    assert innermost(output) == expected  # torch carries it from the weight on
    torch.testing.assert_close(output, expectation)


def test_channels_last_can_be_taken_back_and_else_stays(monkeypatch):
    model = place(nn.Conv2d(3, 4, 3), "cpu", channels_last=True)
    limit(monkeypatch, channels_last=False)
    assert innermost(place(model, "cpu").weight)
    assert not innermost(place(model, "cpu", channels_last=False).weight)
    assert innermost(place(nn.Conv2d(3, 4, 3), "meta", channels_last=True).weight)


def test_a_parameter_beside_its_module_stays_its_own():
    model = nn.Linear(2, 2)
    placed = place({"model": model, "weight": model.weight, "x": model.bias.detach()}, "cpu")
    assert placed["weight"] is model.weight


def test_a_split_head_over_several_devices_runs(monkeypatch, readable):
    """The offloaded head whole on the host, the embedding in pieces on the device with the limit."""
    model = Decoder()
    size = {size.name: size.bytes() for size in tensor_sizes(model)}
    split_after(monkeypatch, model, 3)
    monkeypatch.setattr(
        Meta, "caps", lambda self, index=0: DeviceCaps(max_alloc=size["embedding.weight"] // 2)
    )
    place(model, ["meta", "cpu"], training=False)
    assert isinstance(model.embedding, SplitEmbedding)
    assert isinstance(model.head, nn.Linear)
    assert devices_of(model)["embedding.weight"] == "meta"
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 11)


def test_a_routed_layer_is_split_when_placed_anew(monkeypatch, readable):
    """Hooks of an earlier placement are the core's own, and end with it."""
    model = Decoder()
    split_after(monkeypatch, model, 3)
    place(model, ["meta", "cpu"], training=False)
    assert model.head._forward_pre_hooks
    limit(monkeypatch, max_alloc=200)
    place(model, "cpu", training=False)
    assert isinstance(model.head, SplitLinear)
    assert not model.head._forward_pre_hooks
    assert model(torch.arange(4)).shape == (4, 11)


def test_pieces_may_lie_on_several_devices(readable):
    pieces = [nn.Parameter(torch.ones(4, 3, device=kind)) for kind in ("cpu", "meta", "cpu")]
    assert SplitEmbedding(pieces)(torch.arange(12)).device.type == "cpu"
    logits = SplitLinear(pieces, nn.Parameter(torch.ones(12)))(torch.ones(2, 3))
    assert torch.equal(logits, torch.tensor([[4.0] * 4 + [0.0] * 4 + [4.0] * 4] * 2))
