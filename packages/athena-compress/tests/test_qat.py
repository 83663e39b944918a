"""Quantization-aware training, its agreement with int8 execution, and what it gains."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from athena_compress import QAT, Grid, calibrate, choose_qparams, fake_quantize, quantize
from athena_compress._int8_layer import Int8Layer
from athena_compress._qat_layer import QATLayer, by_output
from athena_compress._qat_ranges import InputRange, LearnedInputs, LearnedWeights, ObservedWeights, Range

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (9, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, padding=1, groups=2), (3, 6, 8)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=2), (2, 3, 9, 8)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False), (2, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 5, 5)),
    "transposed grouped": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 7)),
}


class Net(nn.Module):
    """Convolutions with norms, a residual, a shared layer and a tied pair."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body, self.body_norm = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8, momentum=None)
        self.shared = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.body_norm(self.body(x))).relu().mean((2, 3))
        return self.head(self.shared(self.shared(x).relu()))


def trained(model, batches, **options):
    qat = QAT(model, **options).train()
    optimizer = torch.optim.SGD(qat.parameters(), lr=0.01)
    for x in batches:
        optimizer.zero_grad()
        qat(x).square().mean().backward()
        optimizer.step()
    return qat


def images(n=4):
    return [torch.randn(6, 2, 5, 5) for _ in range(n)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("ranges", ["observed", "learned"])
@pytest.mark.parametrize(("symmetric", "per_channel", "weight_bits"), [(False, True, 8), (True, False, 4)])
def test_evaluation_and_the_converted_layer_agree(name, ranges, symmetric, per_channel, weight_bits):
    make, shape = LAYERS[name]
    options = {
        "symmetric": symmetric,
        "per_channel": per_channel,
        "weight_bits": weight_bits,
        "ranges": ranges,
    }
    qat = trained(make(), [torch.randn(shape) + 0.3 for _ in range(3)], **options).eval()
    small = qat.convert()
    assert isinstance(small, Int8Layer)
    assert small.is_static
    assert small.weight_q.abs().max() <= 2 ** (weight_bits - 1) - 1
    if symmetric:
        assert small.input_zero_point == 128
    x = torch.randn(shape) * 2  # beyond what was seen, too
    assert torch.allclose(small(x), qat(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_with_fake_quantized_weight_and_input(name):
    make, shape = LAYERS[name]
    layer = make()
    qat = QAT(layer).train()
    x = torch.randn(shape)
    grid = Grid(signed=False, symmetric=False)
    rounded = fake_quantize(x, *choose_qparams(x.min(), x.max(), grid), grid)
    expected = copy.deepcopy(layer)
    transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d))
    weight = by_output(layer, layer.weight).detach()
    for row in weight:  # pitfall 7: a scale for each of the output channels, wherever they lie
        row.copy_(fake_quantize(row, *choose_qparams(row.min(), row.max(), Grid()), Grid()))
    expected.weight.data = by_output(layer, weight) if transposed else weight
    assert len(weight) == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    assert torch.allclose(qat(x), expected(rounded), atol=1e-6)


def test_embedding():
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 2))
    tokens = torch.randint(0, 7, (3, 5))
    qat = trained(model, [tokens] * 2, weight_bits=4).eval()
    small = qat.convert()
    assert torch.allclose(small(tokens), qat(tokens), atol=1e-5)
    assert torch.equal(small[0](tokens), qat.model[0](tokens))
    with pytest.warns(UserWarning, match="`0`: its gradient is sparse"):
        assert isinstance(
            QAT(nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Linear(4, 2))).model[0], nn.Embedding
        )


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_without_training_it_is_static_quantization(name, symmetric):
    """An identity with its sibling: what was seen gives the same integers, bit for bit."""
    make, shape = LAYERS[name]
    layer, batches = make(), [torch.randn(shape) for _ in range(3)]
    static = quantize(calibrate(layer, batches, observer="min-max"), "int8-static", symmetric=symmetric)
    qat = QAT(layer, observer="min-max", symmetric=symmetric).train()
    with torch.no_grad():
        for x in batches:
            qat(x)
    small = qat.convert()
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in static.state_dict().items())
    assert torch.equal(small(batches[0]), static(batches[0]))


def test_training_equals_torchs_own():
    """torch.ao's eager training, given the same codes: every weight and range, step by step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
        from torch.ao.quantization.observer import MovingAveragePerChannelMinMaxObserver

        inputs = FakeQuantize(
            MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=255,
            dtype=torch.quint8,
            averaging_constant=0.2,
        )
        weights = FakeQuantize(
            MovingAveragePerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            averaging_constant=1.0,  # the weights as they are
        )
    layer = nn.Linear(5, 3)
    theirs, ours = copy.deepcopy(layer), QAT(layer, momentum=0.2).train()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (theirs, ours)]
    for _ in range(6):
        x, target = torch.randn(16, 5), torch.randn(16, 3)
        expected = F.linear(inputs(x), weights(theirs.weight), theirs.bias)
        y = ours(x)
        assert torch.allclose(y, expected, atol=1e-6)
        for optimizer, output in zip(optimizers, (expected, y), strict=True):
            optimizer.zero_grad()
            F.mse_loss(output, target).backward()
            optimizer.step()
        assert torch.allclose(ours.model.layer.weight, theirs.weight, atol=1e-6)
        assert torch.equal(ours.model.inputs.scale, inputs.scale.reshape(()))
        assert torch.equal(ours.model.inputs.zero_point, inputs.zero_point.reshape(()))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch itself
def test_it_can_be_compiled_and_exported():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.ReLU())
    qat, x = QAT(model).train(), torch.randn(4, 2, 5)
    compiled = torch.compile(qat, backend="eager")
    compiled(x).sum().backward()
    assert int(qat.steps) == 1
    assert qat.model[0].layer.weight.grad is not None
    qat.eval()
    assert torch.equal(compiled(x), qat(x))
    assert torch.equal(torch.export.export(qat, (x,)).module()(x), qat(x))


def test_gradients_go_straight_through():
    layer = nn.Linear(3, 2)
    qat = QAT(layer).train()
    x = torch.randn(5, 3, requires_grad=True)
    qat(x).sum().backward()
    inputs = qat.model.inputs(x.detach())
    assert torch.allclose(qat.model.layer.weight.grad, inputs.sum(0).expand(2, 3), atol=1e-6)
    assert torch.allclose(x.grad, qat.model.weights(layer.weight).sum(0).expand(5, 3), atol=1e-6)
    assert torch.equal(qat.model.layer.bias.grad, torch.full((2,), 5.0))


@pytest.mark.parametrize("options", [{}, {"ranges": "learned"}, {"symmetric": True, "per_channel": False}])
def test_a_whole_model_agrees_with_its_int8_form(options):
    qat = trained(Net(), images(), **options).eval()
    small = qat.convert()
    assert not small.training
    assert sum(isinstance(module, Int8Layer) for module in small.modules()) == 4
    x = images(1)[0]
    # sums in another order may push a value over the edge between two codes of a later layer
    assert (small(x) - qat(x)).abs().max() <= 0.02 * qat(x).abs().max()
    assert ((small(x) - qat(x)).abs() < 1e-5).float().mean() > 0.7


def test_the_model_itself_is_left_as_it_is():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    qat = trained(model, images(2))
    qat.convert()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(module, QATLayer) for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("ranges", ["observed", "learned"])
def test_nothing_changes_in_evaluation(ranges):
    """Pitfalls 8 and 9: neither batch statistics nor ranges follow what is evaluated."""
    qat = trained(Net(), images(2), ranges=ranges).eval()
    before = copy.deepcopy(qat.state_dict())
    x = torch.cat([images(1)[0], images(1)[0] * 100])
    y = qat(x)
    assert all(torch.equal(value, before[name]) for name, value in qat.state_dict().items())
    assert torch.allclose(y[:3], qat(x[:3]), atol=1e-5)  # whatever else is in the batch
    small = qat.convert()
    assert not any(module.training for module in small.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())


@pytest.mark.parametrize(
    ("ranges", "observer"),
    [("observed", "moving-average"), ("learned", "moving-average"), ("learned", "histogram")],
)
def test_state_goes_into_a_fresh_one(ranges, observer):
    """Pitfall 9 and the rounds of training: bit-equal, and going on alike."""
    model, batches = Net(), images(4)
    options = {"ranges": ranges, "observer": observer, "freeze_ranges_after": 3}
    qat = trained(model, batches[:2], **options)
    fresh = QAT(Net(), **options)
    fresh.load_state_dict(copy.deepcopy(qat.state_dict()))
    x = images(1)[0]
    assert torch.equal(fresh.eval()(x), qat.eval()(x))
    assert torch.equal(fresh.convert()(x), qat.convert()(x))
    for one in (qat, fresh):
        one.train()
        optimizer = torch.optim.SGD(one.parameters(), lr=0.01)
        for batch in batches[2:]:
            optimizer.zero_grad()
            one(batch).square().mean().backward()
            optimizer.step()
    assert torch.equal(fresh.eval()(x), qat.eval()(x))
    assert int(fresh.steps) == 4


def test_a_deep_copy_goes_its_own_way():
    qat = trained(Net(), images(2))
    other = copy.deepcopy(qat)
    x = images(1)[0]
    assert torch.equal(other.eval()(x), qat.eval()(x))
    trained_on = other.train()(x * 50)
    assert trained_on.isfinite().all()
    assert not torch.equal(other.eval()(x), qat(x))


def test_ranges_freeze():
    for ranges in ("observed", "learned"):
        qat = trained(Net(), images(2), ranges=ranges, freeze_ranges_after=2)
        frozen = {
            name: value.clone()
            for name, value in qat.state_dict().items()
            if "inputs" in name or name.endswith("weights.scale")
        }
        weight = qat.model.head.layer.weight.detach().clone()
        optimizer = torch.optim.SGD(qat.parameters(), lr=0.01)
        for x in images(2):
            optimizer.zero_grad()
            qat(x * 10).square().mean().backward()
            optimizer.step()
        assert frozen
        assert all(torch.equal(value, qat.state_dict()[name]) for name, value in frozen.items())
        assert not torch.equal(weight, qat.model.head.layer.weight)


def test_the_users_momentum_is_used():
    """Pitfall 9: quanto's inputs ignore it."""
    qat = QAT(nn.Linear(1, 1), momentum=0.5).train()
    for end in (1.0, 3.0):
        qat(torch.tensor([[0.0], [end]]))
    assert qat.model.inputs.scale * 255 == pytest.approx(2.0)


def test_a_shared_layer_is_prepared_once_and_tied_weights_stay_tied():
    """Pitfall 10."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.tokens.weight
            self.twice = self.again = nn.Linear(4, 4)

        def forward(self, tokens):
            return self.head(self.again(self.twice(self.tokens(tokens))))

    tokens = torch.randint(0, 9, (4, 5))
    for ranges in ("observed", "learned"):
        qat = trained(Tied(), [tokens] * 3, ranges=ranges)
        assert qat.model.twice is qat.model.again
        assert isinstance(qat.model.twice.layer, nn.Linear)
        assert qat.model.head.layer.weight is qat.model.tokens.layer.weight
        assert len(list(qat.parameters())) == len({id(p) for p in qat.parameters()})
        small = qat.eval().convert()
        assert small.twice is small.again
        assert torch.equal(small.head.weight_q, small.tokens.weight_q)
        assert small.head.weight_q.data_ptr() == small.tokens.weight_q.data_ptr()
        assert torch.allclose(small(tokens), qat(tokens), atol=1e-2)


def test_zero_maps_exactly_and_dead_channels_stay_dead():
    """Pitfalls 1 and 2."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.bias.zero_()
    qat = QAT(layer).train()
    qat(torch.rand(8, 4) + 5)  # a range without 0
    assert torch.equal(qat.eval()(torch.zeros(2, 4)), torch.zeros(2, 3))
    small = qat.convert()
    assert torch.equal(small(torch.zeros(2, 4)), torch.zeros(2, 3))
    assert torch.equal(small(torch.rand(8, 4))[:, 1], torch.zeros(8))
    assert bool((small.weight_scale > 0).all())


def test_an_encoder_layer():
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True, dropout=0.0)
    x = torch.randn(3, 5, 8)
    qat = trained(model, [x, x]).eval()
    assert sum(isinstance(module, QATLayer) for module in qat.modules()) == 6
    small = qat.convert()
    with torch.no_grad():  # where torch would take its own fused path
        assert torch.allclose(small(x), qat(x), atol=0.02)
        assert not torch.allclose(qat(x), model.eval()(x), atol=1e-5)


def test_layers_are_chosen_by_pattern():
    qat = QAT(Net(), skip="head")
    assert isinstance(qat.model.head, nn.Linear)
    assert isinstance(qat.model.shared, QATLayer)
    qat = QAT(Net(), include="head")
    assert isinstance(qat.model.norm, nn.BatchNorm2d)
    assert isinstance(qat.model.stem, nn.Conv2d)
    with pytest.raises(ValueError, match="'nothing'"):
        QAT(Net(), skip="nothing")


def test_modes_are_those_of_the_model():
    model = Net().train()
    model.norm.eval()
    qat = QAT(model)
    assert qat.training
    assert not qat.model.stem.norm.training
    before = qat.model.stem.norm.running_mean.clone()
    qat(images(1)[0])
    assert torch.equal(before, qat.model.stem.norm.running_mean)
    assert not QAT(Net().eval()).model.head.inputs.training


def test_a_layer_that_never_ran():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model.forward = lambda x: model["used"](x)
    qat = QAT(model).train()
    with pytest.raises(ValueError, match="must come after training"):
        qat.convert()
    qat.model.forward = lambda x: qat.model["used"](x)
    qat(torch.randn(4, 2))
    with pytest.warns(UserWarning, match="`unused`: it did not run in training"):
        small = qat.convert()
    assert isinstance(small["unused"], nn.Linear)
    with pytest.raises(ValueError, match="has not run in a training step"):
        qat.eval().model["unused"](torch.randn(4, 2))


def test_refused():
    with pytest.raises(ValueError, match='`ranges` must be "observed" or "learned"; got \'static\''):
        QAT(nn.Linear(2, 2), ranges="static")
    with pytest.raises(ValueError, match="`bits` must lie in"):
        QAT(nn.Linear(2, 2), weight_bits=1)
    with pytest.raises(
        ValueError, match=r"must hold layers that can be quantized, and none was\. It has none"
    ):
        QAT(nn.ReLU())
    with pytest.raises(ValueError, match=r"none was\. `0`: .*LSTM"):
        QAT(nn.Sequential(nn.LSTM(2, 2)))
    qat = QAT(nn.Linear(2, 2)).train()
    with pytest.raises(ValueError, match="must be finite"):
        qat(torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ValueError, match="has not run in a training step"):
        qat.eval()(torch.ones(1, 2))


def test_odd_batches():
    qat = QAT(nn.Linear(3, 2)).train()
    assert qat(torch.empty(0, 3)).shape == (0, 2)
    assert qat(torch.randn(3)).shape == (2,)
    assert qat(torch.randn(4, 3, 6).transpose(1, 2)).shape == (4, 6, 2)
    assert qat(torch.zeros(1, 3)).isfinite().all()
    learned = QAT(nn.Linear(3, 2), ranges="learned").train()
    assert learned(torch.empty(0, 3)).shape == (0, 2)


def test_scales_stay_in_float32_when_the_model_is_cast():
    for ranges in ("observed", "learned"):
        qat = trained(nn.Linear(4, 3), [torch.randn(5, 4)], ranges=ranges).bfloat16()
        scales = [getattr(module, "scale", None) for module in qat.modules() if isinstance(module, Range)]
        assert {scale.dtype for scale in scales if scale is not None} == {torch.float32}
        assert qat(torch.randn(5, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_learned_ranges_are_parameters_and_begin_well():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    qat = QAT(model, ranges="learned", weight_bits=4)
    assert len(qat.range_parameters()) == 6
    assert [type(p) for p in qat.range_parameters()] == [nn.Parameter] * 6
    assert QAT(model).range_parameters() == []
    x = torch.randn(64, 4)
    qat.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in qat.range_parameters())
    inputs, weights = qat.model[0].inputs, qat.model[0].weights
    assert isinstance(inputs, LearnedInputs)
    assert isinstance(weights, LearnedWeights)
    expected = choose_qparams(x.min(), x.max(), inputs.chosen)
    assert torch.equal(inputs.scale.detach(), expected[0])
    assert torch.equal(inputs.qparams()[1], expected[1])
    observed, learned = (
        (ranges(model[0].weight) - model[0].weight).square().sum()
        for ranges in (ObservedWeights(Grid(4, axis=0)), weights)
    )
    assert learned <= observed * 1.001


def test_a_scale_pushed_below_zero_comes_back():
    weights = LearnedWeights(torch.randn(3, 50), Grid(bits=4, axis=0))
    with torch.no_grad():
        weights.scale[0] = -0.1
    x = torch.randn(3, 50)
    (weights(x) - x).square().sum().backward()
    assert weights(x).isfinite().all()
    assert weights.scale.grad[0] < 0  # a step against it raises the scale


def test_input_range_is_abstract():
    with pytest.raises(TypeError):
        InputRange(None, symmetric=True)


@pytest.mark.parametrize(("ranges", "weight_bits"), [("observed", 3), ("learned", 3), ("learned", 2)])
def test_training_recovers_what_quantization_loses(ranges, weight_bits):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 8, generator=generator)
    target = (x[:, :4] * x[:, 4:]).sum(1, keepdim=True).tanh()

    def fit(model, steps, rate):
        special = set(model.range_parameters()) if isinstance(model, QAT) else set()
        groups = [
            {"params": [p for p in model.parameters() if p not in special]},
            {"params": list(special), "lr": rate / 20},
        ]
        optimizer = torch.optim.Adam(groups[: 1 + bool(special)], lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()

    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    fit(model, 400, 0.01)
    qat = QAT(model, ranges=ranges, weight_bits=weight_bits).train()
    with torch.no_grad():
        qat(x)
    after_training = F.mse_loss(qat.convert()(x), target)  # ranges alone: quantized without training
    fit(qat, 150, 0.003)
    trained_loss = F.mse_loss(qat.eval().convert()(x), target)
    assert trained_loss < after_training / 2
