"""Whole models quantized: which layers, by which scheme, and what is said of the others."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import athena_compress
from athena_compress import (
    QAT,
    CodedEmbedding,
    Grid,
    Int8Conv,
    Int8Dynamic,
    Int8Linear,
    Int8Static,
    SplitMultiheadAttention,
    WeightOnly,
    WeightOnlyConv,
    WeightOnlyLinear,
    calibrate,
    quantize,
)
from athena_core import AthenaError


class Net(nn.Module):
    """One of each: convolutions with batch norm, attention, an embedding, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Embedding(64, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.stem(x)).flatten(2).transpose(1, 2)
        x = x + self.places(torch.arange(x.shape[1]) % 64)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.fixture
def net() -> Net:
    model = Net()
    model(torch.randn(8, 3, 4, 4))  # running statistics that are not the first ones
    return model.train()


def error(made: nn.Module, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(x)
        return ((made(x) - expected).norm() / expected.norm()).item()


BOUNDS = {"int8-dynamic": 0.03, "int8-static": 0.05, "int8-weight-only": 0.02, "int4-weight-only": 0.3}


@pytest.mark.parametrize("scheme", BOUNDS)
def test_every_scheme_on_every_layer(net, scheme):
    x = torch.randn(16, 3, 4, 4)
    before = copy.deepcopy(net.state_dict())
    source = calibrate(net, [x[:8], x[8:]]) if scheme == "int8-static" else net
    made = quantize(source, scheme, **({"group_size": None} if scheme == "int4-weight-only" else {}))
    assert 0 < error(made, net, x) < BOUNDS[scheme]
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not made.training  # pitfall 8
    assert isinstance(made.stem[1], nn.Identity)
    held = {type(module) for module in made.modules()}
    assert SplitMultiheadAttention in held
    assert CodedEmbedding in held
    assert not held & {nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, nn.BatchNorm2d}


class ByName(nn.Module):
    """Gives its layers their input by torch's name for it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(4, 6)
        self.convolution, self.norm = nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)
        self.up = nn.ConvTranspose1d(6, 2, 2, stride=2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.linear(input=self.embedding(input=tokens)).transpose(1, 2)
        return self.up(input=self.norm(input=self.convolution(input=x)))


@pytest.mark.parametrize("scheme", BOUNDS)
def test_layers_take_their_input_by_name(scheme):
    model, tokens = ByName().eval(), torch.randint(9, (3, 5))
    source = calibrate(model, [tokens]) if scheme == "int8-static" else model
    made = quantize(source, scheme, **({"group_size": None} if scheme == "int4-weight-only" else {}))
    assert 0 < error(made, model, tokens) < BOUNDS[scheme]


def test_layers_in_training_take_their_input_by_name():
    tokens = torch.randint(9, (3, 5))
    qat = QAT(ByName().train(), example_inputs=tokens)
    qat(tokens).sum().backward()
    assert torch.allclose(qat.convert()(tokens), qat.eval()(tokens), atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("observer", ["min-max", "histogram", "percentile", "mse", "moving-average"])
def test_options_of_static_quantization(observer, per_channel, symmetric):
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6))
    x = torch.randn(64, 12)
    calibrated = calibrate(model, [x[:32], x[32:]], observer=observer)
    made = quantize(calibrated, "int8-static", symmetric=symmetric, per_channel=per_channel)
    assert 0 < error(made, model, x) < 0.1
    assert (made[0].input_zero_point.item() == 128) is symmetric or not symmetric
    assert (made[0].weight_scale.unique().numel() == 1) is not per_channel
    # an asymmetric grid spends no codes on what a ReLU never gives
    assert (made[2].input_zero_point.item() == 0) is not symmetric


def test_static_is_the_fake_quantized_model():
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 6))
    x = torch.randn(32, 12)
    made = quantize(calibrate(model, [x], observer="min-max"), "int8-static")
    y = x
    for layer, original in zip(made, model, strict=True):
        if isinstance(layer, Int8Linear):
            scale, zero = layer.input_scale.item(), int(layer.input_zero_point)
            y = torch.fake_quantize_per_tensor_affine(y, scale, zero, 0, 255)
            zeros = torch.zeros_like(layer.weight_scale, dtype=torch.int32)
            weight = original.weight
            weight = torch.fake_quantize_per_channel_affine(weight, layer.weight_scale, zeros, 0, -127, 127)
            y = nn.functional.linear(y, weight, original.bias)
        else:
            y = layer(y)
    torch.testing.assert_close(made(x), y, rtol=1e-5, atol=1e-5)


def test_patterns_choose_skip_and_override():
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
            "decoder": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        }
    )
    made = quantize(model, include="encoder", skip="*.1")
    assert isinstance(made["encoder"][0], Int8Linear)
    assert all(type(layer) is nn.Linear for layer in (made["encoder"][1], *made["decoder"]))
    made = quantize(
        model,
        overrides={"decoder": None, "encoder.1": WeightOnly(bits=4), "decoder.1": "int8-weight-only"},
    )
    kinds = [type(layer) for layer in (*made["encoder"], *made["decoder"])]
    assert kinds == [Int8Linear, WeightOnlyLinear, nn.Linear, WeightOnlyLinear]
    made = quantize(model, overrides={"encoder": None, "*": "int8-weight-only"})  # the last one holds
    assert all(isinstance(layer, WeightOnlyLinear) for layer in (*made["encoder"], *made["decoder"]))


@pytest.mark.parametrize("argument", ["include", "skip", "overrides"])
def test_a_pattern_that_matches_nothing(argument):
    model = nn.Sequential(nn.Linear(2, 2))
    value = {"encoder.*": None} if argument == "overrides" else "encoder.*"
    with pytest.raises(ValueError, match=rf"`{argument}`: the pattern 'encoder.\*' .* matches none"):
        quantize(model, **{argument: value})


def test_shared_weights_become_shared_integers():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(tokens))

    model = Tied()
    made = quantize(model)  # pitfall 10
    assert made.head.weight_q is made.embedding.weight_q
    assert made.head.weight_scale is made.embedding.weight_scale
    assert error(made, model, torch.arange(20)[None]) < 0.02
    untied = quantize(model, overrides={"embedding": WeightOnly(bits=4)})
    assert untied.head.weight_q.shape != untied.embedding.weight_q.shape


def test_a_layer_in_two_places_is_quantized_once():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    made = quantize(model)
    assert made[0] is made[2]
    made = quantize(model, overrides={"2": "int8-weight-only"})
    assert isinstance(made[0], WeightOnlyLinear)
    assert made[0] is made[2]


def test_what_cannot_be_quantized_is_named_and_stays():
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    broken = nn.Linear(4, 4)
    broken.weight.data[0, 0] = float("nan")
    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4), nn.Bilinear(4, 4, 2), broken, nn.LayerNorm(4))
    with pytest.warns(UserWarning, match="kept in float") as caught:
        made = quantize(model)
    (said,) = [str(one.message) for one in caught]
    assert "`1`: Own has a `forward` of its own" in said
    assert "`2`: Bilinear layers have no int8 body" in said
    assert "`3`: its weights are not finite" in said
    assert "`4`" not in said
    assert [type(layer) for layer in made[:4]] == [Int8Linear, Own, nn.Bilinear, nn.Linear]


def test_a_subclass_may_say_that_it_computes_as_its_parent():
    class Same(nn.Linear):
        computes_as = nn.Linear

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.T + self.bias

    class Heir(Same):  # for itself alone
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    with pytest.warns(UserWarning, match="`1`: Heir has a `forward` of its own"):
        made = quantize(nn.Sequential(Same(4, 4), Heir(4, 4)))
    assert [type(layer) for layer in made] == [Int8Linear, Heir]


def test_nothing_to_quantize_is_an_error():
    with pytest.raises(ValueError, match="must hold layers that can be quantized, and none was"):
        quantize(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="LSTM layers have no int8 body"):
        quantize(nn.LSTM(2, 2))


def test_schemes_by_name_say_what_is_wrong():
    with pytest.raises(AthenaError, match=r"int8-dynamc.*Did you mean `int8-dynamic`"):
        quantize(nn.Linear(2, 2), "int8-dynamc")
    with pytest.raises(AthenaError, match=r"unknown option `per_chanel`. Did you mean `per_channel`"):
        quantize(nn.Linear(2, 2), per_chanel=False)
    with pytest.raises(ValueError, match="`per_channel` belongs to a scheme by name"):
        quantize(nn.Linear(2, 2), Int8Dynamic(), per_channel=False)
    with pytest.raises(ValueError, match="must be calibrated for Int8Static"):
        quantize(nn.Linear(2, 2), "int8-static")
    with pytest.raises(AthenaError, match="Did you mean `min-max`"):
        quantize(nn.Linear(2, 2), weight_observer="minmax")


def test_schemes_are_found_without_plugins(athena_host):
    assert isinstance(quantize(nn.Linear(2, 2)), Int8Linear)


def test_a_layer_that_did_not_run_stays_in_float():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    calibrated = calibrate(
        Half(), [(torch.ones(1, 2), "a label")], forward=lambda model, pair: model(pair[0])
    )
    with pytest.warns(UserWarning, match="`other`: it did not run during calibration"):
        made = quantize(calibrated, "int8-static")
    assert [type(made.used), type(made.other)] == [Int8Linear, nn.Linear]
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])  # as experts, of which one gets no rows
    calibrated = calibrate(model, [torch.ones(3, 2)], forward=lambda two, x: (two[0](x), two[1](x[:0])))
    with pytest.warns(UserWarning, match="`1`: it did not run during calibration"):
        made = quantize(calibrated, "int8-static")
    assert [type(one) for one in made] == [Int8Linear, nn.Linear]


def test_transposed_linear_layers_become_linear():
    class Conv1D(nn.Module):  # as transformers has it (pitfall 7)
        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.nf, self.nx = nf, nx
            self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight)

    model, x = nn.Sequential(Conv1D(6, 4)), torch.randn(9, 4)
    made = quantize(model)
    assert made[0].weight_scale.shape == (6,)
    assert error(made, model, x) < 0.02


def test_attention_with_keys_of_its_own_stays():
    model = nn.Sequential(nn.Linear(8, 8))
    model.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    with pytest.warns(UserWarning, match="`attention`"):
        made = quantize(model)
    assert isinstance(made.attention, nn.MultiheadAttention)


def test_embeddings_keep_their_padding_and_refuse_max_norm():
    embedding = nn.Embedding(6, 4, padding_idx=2)
    made = quantize(embedding)
    assert isinstance(made, CodedEmbedding)
    assert torch.equal(made(torch.tensor([2])), torch.zeros(1, 4))
    assert made(torch.tensor([[0, 5]])).shape == (1, 2, 4)
    assert made.bfloat16()(torch.tensor([0])).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="renormalises its rows"):
        quantize(nn.Embedding(6, 4, max_norm=1.0))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (8, 4), (4, 8), (3, 4), (2, None), (4, None)])
def test_weights_alone_lie_within_half_a_step(bits, group_size, symmetric):
    linear = nn.Linear(16, 6)
    made = quantize(linear, WeightOnly(bits=bits, group_size=group_size, symmetric=symmetric))
    assert isinstance(made, WeightOnlyLinear)
    scale = (
        made.weight_scale.unsqueeze(-1).expand(6, -1, group_size or 16)
        if group_size
        else made.weight_scale[:, None]
    )
    error = (made.weight - linear.weight).view(6, -1, group_size or 16).abs()
    assert (error <= scale.view(6, -1, scale.shape[-1]) * 0.5001 + 1e-7).all()
    assert made.weight_q.numel() == 96 // (2 if bits <= 4 else 1)
    assert made.weight_q.element_size() == 1
    x = torch.randn(3, 16, requires_grad=True)
    torch.testing.assert_close(made(x), nn.functional.linear(x, made.weight, linear.bias))
    made(x).sum().backward()
    torch.testing.assert_close(x.grad, made.weight.sum(0).expand(3, 16))


def test_odd_sizes_of_four_bits_and_groups_that_do_not_divide():
    made = quantize(nn.Linear(7, 3), WeightOnly(bits=4))
    assert made.weight_q.shape == (3, 7)
    with pytest.raises(ValueError, match="`group_size` = 4 does not divide its 7 inputs"):
        quantize(nn.Linear(7, 3), WeightOnly(bits=4, group_size=4))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_integer_weights(kind, groups):
    convolution = kind(4, 6, 3, stride=2, padding=1, groups=groups)
    made = quantize(convolution, "int8-weight-only")
    assert isinstance(made, WeightOnlyConv)
    x = torch.randn(2, 4, 9, 9)[..., : 9 if "2d" in kind.__name__ else 1].squeeze(-1)
    expected = convolution(x)
    assert (made(x) - expected).norm() / expected.norm() < 0.01
    assert (made.weight - convolution.weight).abs().max() < 0.01


def test_circular_convolutions_of_integer_weights():
    convolution = nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(
        quantize(convolution, "int8-weight-only")(x), convolution(x), rtol=0.05, atol=0.02
    )


@pytest.mark.parametrize("scheme", BOUNDS)
def test_the_better_observer_of_weights_is_used(scheme):
    # of values that a range without the largest holds better
    linear = nn.Linear(512, 4)
    linear.weight.data = torch.distributions.Laplace(0.0, 1.0).sample((4, 512)).pow(3)
    source = calibrate(linear, [torch.randn(3, 512)]) if scheme == "int8-static" else linear
    made = [quantize(source, scheme, weight_observer=observer) for observer in ("min-max", "mse")]
    errors = [(one.weight - linear.weight).square().mean() for one in made]
    assert errors[1] < errors[0]


def test_batch_norms_stay_where_they_are_not_to_be_folded(net):
    x = torch.randn(16, 3, 4, 4)
    assert isinstance(quantize(net, fold=False).stem[1], nn.BatchNorm2d)
    calibrated = calibrate(net, [x], fold=False)
    assert isinstance(calibrated.model.stem[1], nn.BatchNorm2d)
    made = quantize(calibrated, "int8-static", fold=False)
    assert isinstance(made.stem[1], nn.BatchNorm2d)
    assert 0 < error(made, net, x) < BOUNDS["int8-static"]


def test_calibration_takes_patterns_and_the_observers_options():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "b": nn.Linear(4, 4)})
    x = torch.arange(-100.0, 101.0)[:, None].expand(-1, 4)
    options = {"include": "a", "skip": "*.1", "observer": "percentile", "percentile": 50}
    calibrated = calibrate(model, [x], forward=lambda copied, x: copied["a"](x), **options)
    assert list(calibrated.observers) == ["a.0"]
    scale, _ = calibrated.observers["a.0"].qparams(Grid())
    assert scale * 127 == pytest.approx(50, abs=1)


def test_an_observer_of_calibration_is_named_with_its_layer():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"calibration, input of layer `0`: .*finite"):
        calibrate(model, [torch.tensor([[float("nan"), 1.0]])])
    with pytest.raises(ValueError, match="got no calibration data"):
        calibrate(model, iter([]))
    with pytest.raises(TypeError, match="pass `forward=lambda model, batch"):
        calibrate(model, [(torch.ones(1, 2), torch.ones(1))])


def test_calibration_takes_arguments_of_all_forms():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.layer(a + b)

    ones = torch.ones(1, 2)
    results = []
    for batch in ((ones, ones), [ones, ones], {"a": ones, "b": ones}):
        torch.manual_seed(0)
        results.append(calibrate(Sum(), [batch], observer="min-max").observers["layer"].state_dict())
    assert all(torch.equal(one[key], results[0][key]) for one in results for key in one)


def test_a_quantized_model_can_be_moved_copied_and_run_without_gradients():
    model = quantize(nn.Sequential(nn.Linear(4, 4), nn.Conv1d(3, 2, 1)))
    with torch.inference_mode():
        model[0](torch.ones(1, 4))
    assert torch.equal(copy.deepcopy(model)[0](torch.ones(1, 4)), model[0](torch.ones(1, 4)))
    assert not list(model.parameters())
    assert all(value.device.type == "meta" for value in model.to("meta").state_dict().values())


def test_int8_static_without_calibration_data_for_an_embedding():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    made = quantize(calibrate(model, [torch.arange(5)]), Int8Static(symmetric=True))
    assert [type(layer) for layer in made] == [CodedEmbedding, Int8Linear]


def test_public_names_are_all_there():
    assert all(hasattr(athena_compress, name) for name in athena_compress.__all__)


def test_no_warning_where_all_is_well(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(quantize(net).stem[0], Int8Conv)
