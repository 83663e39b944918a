"""Saved models compute the same, bit for bit, here and in another process."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
import user_models
from saving import check_round_trip
from torch import nn

from athena_compress import load, save, saved_extra

TRUST = ("user_models",)


def test_a_tied_transformer_in_another_process(tmp_path):
    model = user_models.TiedModel()
    again = check_round_trip(model, torch.randint(17, (2, 5)), tmp_path, TRUST)
    assert again.head.weight is again.embedding.weight
    assert list(again.state_dict()) == list(model.state_dict())
    assert again._non_persistent_buffers_set == {"positions"}
    stored = (tmp_path / "one" / "model" / "model.safetensors").stat().st_size
    held = {
        tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), model.positions, model.table]
    }
    assert stored < sum(held.values()) + 4096  # the tied matrix once


def test_a_resnet_in_another_process(tmp_path):
    model = user_models.ResNet()
    for _ in range(3):
        model(torch.randn(4, 3, 8, 8))
    again = check_round_trip(model, torch.randn(2, 3, 8, 8), tmp_path, TRUST)
    assert again.blocks[0].body[1].num_batches_tracked == 3
    assert type(again) is user_models.ResNet


def test_training_goes_on_alike(tmp_path):
    model = user_models.ResNet()
    model.stem.weight.requires_grad_(False)
    model.blocks[0].eval()
    save(model, tmp_path)
    again = load(tmp_path)
    assert [m.training for m in again.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    x = torch.randn(4, 3, 8, 8)
    for one in (model, again):
        optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            one(x).square().mean().backward()
            optimizer.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, activation=nn.GELU()), 2)
    return {
        "lstm": (nn.LSTM(3, 4, 2, bidirectional=True), (5, 2, 3)),
        "gru": (nn.GRU(3, 4), (5, 2, 3)),
        "attention": (nn.MultiheadAttention(8, 2), (3, 2, 8)),
        "attention-of-other-widths": (
            nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True),
            (3, 2, 8),
        ),
        "decoder": (transformer, (3, 2, 8)),
        "convolutions": (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"),
                nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1),
                nn.GroupNorm(1, 2),
                nn.Upsample(scale_factor=2.0),
                nn.Hardtanh(),
            ),
            (2, 2, 5, 4),
        ),
        "batch-norm": (nn.Sequential(nn.BatchNorm1d(3, momentum=None, affine=False)), (4, 3)),
        "no-bias": (nn.Linear(3, 2, bias=False), (4, 3)),
    }


@pytest.mark.parametrize("name", list(layers()))
@torch.no_grad()
def test_layers_of_torch(name, tmp_path):
    layer, shape = layers()[name]
    layer.eval()
    save(layer, tmp_path)
    again = load(tmp_path)
    x = torch.randn(shape)
    inputs = {"attention": 3, "attention-of-other-widths": 3, "decoder": 2}.get(name, 1)
    expected, found = layer(*[x] * inputs), again(*[x] * inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert repr(again) == repr(layer)
    assert not (vars(layer).keys() ^ vars(again).keys()) - {"_compiled_call_impl"}


def test_an_lstm_learns_after_loading(tmp_path):
    save(nn.LSTM(3, 4), tmp_path)
    again = load(tmp_path)
    again(torch.randn(2, 1, 3))[0].sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    assert again._flat_weights[0] is again.weight_ih_l0
    again.double()(torch.randn(2, 1, 3, dtype=torch.float64))  # moves the flat weights by weak references


def test_shapes_that_no_constructor_would_make(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].weight = nn.Parameter(model[0].weight[:3].clone())
    model[0].bias = nn.Parameter(model[0].bias[:3].clone())
    model[0].out_features = model[2].in_features = 3
    model[2].weight = nn.Parameter(model[2].weight[:, :3].clone())
    again = check_round_trip(model, torch.randn(5, 4), tmp_path)
    assert again[0].out_features == 3


def test_no_constructor_is_called(tmp_path, monkeypatch):
    save(user_models.ResNet(), tmp_path)
    monkeypatch.setattr(user_models.ResNet, "__init__", None)
    monkeypatch.setattr(user_models.Residual, "__init__", None)
    load(tmp_path)(torch.randn(1, 3, 4, 4))


def test_a_module_in_two_places_is_one(tmp_path):
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.Linear(2, 2)), "c": None})
    model.mine = [layer, model]
    save(model, tmp_path)
    again = load(tmp_path)
    assert again["a"] is again["b"][0] is again.mine[0]
    assert again.mine[1] is again
    assert again._modules["c"] is None


def test_modules_outside_of_the_tree(tmp_path):
    model = user_models.Holder(hidden=[nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))])
    save(model, tmp_path)
    again = load(tmp_path)
    assert torch.equal(again.hidden[0][0].weight, model.hidden[0][0].weight)
    assert not again.state_dict()


def test_lists_and_dicts_of_parameters(tmp_path):
    model = nn.Module()
    model.items = nn.ParameterList([torch.ones(2), nn.Parameter(torch.zeros(3), requires_grad=False)])
    model.named = nn.ParameterDict({"a": torch.ones(1)})
    model.register_parameter("none", None)
    model.register_buffer("empty", None)
    save(model, tmp_path)
    again = load(tmp_path)
    assert len(again.items) == 2
    assert not again.items[1].requires_grad
    assert list(again.named) == ["a"]
    assert again.none is None
    assert again.empty is None


def test_caches_are_none_after_loading(tmp_path):
    model = user_models.CachedMore()
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.cache is again.scratch is again.helper is None
    assert torch.equal(again.linear.weight, model.linear.weight)
    assert model.cache is not None  # saving changes nothing
    assert (tmp_path / "model.safetensors").stat().st_size < 1000


def test_hooks_of_loading_that_have_a_name_stay(tmp_path):
    model = nn.Linear(2, 2)
    model.register_load_state_dict_post_hook(user_models.note)
    save(model, tmp_path)
    with pytest.raises(ValueError, match=r"user_models:note"):
        load(tmp_path)
    again = load(tmp_path, trust=TRUST)
    again.load_state_dict(model.state_dict())
    assert again.noted


def test_a_compiled_call_is_left_out(tmp_path):
    model = nn.Linear(2, 2)
    model.compile(backend="eager")
    check_round_trip(model, torch.randn(3, 2), tmp_path)


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = user_models.TiedModel()
    before = copy.deepcopy(model)
    save(model, tmp_path)
    for (name, a), (_, b) in zip(model.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.requires_grad
    assert model.head.weight is model.embedding.weight


def test_saved_again_it_is_the_same_file(tmp_path):
    model = user_models.Holder(names={"b", "a", "c"}, linear=nn.Linear(2, 2))
    save(model, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "athena_compress.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_extra(tmp_path):
    save(nn.Linear(1, 1), tmp_path, extra={"scheme": "int8-dynamic", "accuracy": [0.5, None]})
    assert saved_extra(tmp_path) == {"scheme": "int8-dynamic", "accuracy": [0.5, None]}
    save(nn.Linear(1, 1), tmp_path)
    assert saved_extra(tmp_path) == {}
    for wrong in ({"a": torch.ones(1)}, {"a": float("nan")}, 3):
        with pytest.raises(TypeError, match=r"`extra` must be a mapping of values of JSON"):
            save(nn.Linear(1, 1), tmp_path, extra=wrong)
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold athena_compress.json"):
        saved_extra(tmp_path / "nowhere")


def test_no_pickle_is_written(tmp_path):
    save(user_models.TiedModel(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["athena_compress.json", "model.safetensors"]
    tree = json.loads((tmp_path / "athena_compress.json").read_text())
    assert (tree["format"], tree["version"]) == ("athena-compress", 1)


def test_what_is_no_module(tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be an nn.Module; got dict. Pass the module itself."):
        save({}, tmp_path)
