"""Reports: facts of layers counted by hand, errors and times against another model, text and picture."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from athena_compress import Report, WeightOnly, _layer_calls, calibrate, quantize, report
from athena_core import AthenaError


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_layer_calls, "_BUDGET", 0.0)


class Model(nn.Module):
    """Convolution and norm, tokens through torch's encoder, a recurrent layer, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 8))
        self.embed = nn.Embedding(10, 8)
        self.convolution, self.norm = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("cache", torch.zeros(100), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.embed(tokens) + self.token
        y = self.norm(self.convolution(y.transpose(1, 2))).transpose(1, 2)
        return self.head(self.recurrent(self.encoder(y))[0])


def trained() -> tuple[Model, Tensor]:
    model = Model()
    x = torch.randint(0, 10, (4, 6))
    model(x)  # which moves the running statistics of the norm
    return model.eval(), x


def by_name(result: Report) -> dict[str, Any]:
    return {one.name: one for one in result.layers}


def saved_bytes(model: nn.Module) -> int:
    """What the state dict holds, shared tensors once."""
    tensors = {value.data_ptr(): value.nbytes for value in model.state_dict().values()}
    return sum(tensors.values())


def test_totals_are_those_of_the_model() -> None:
    model, _ = trained()
    result = report(model)
    assert result.total.now.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert result.total.now.n_bytes == saved_bytes(model)
    layers = by_name(result)
    assert layers[""].now.parameters == 8
    assert layers["norm"].now.n_bytes == 4 * 8 * 4 + 8
    assert layers["head"].now.parameters == 0
    assert layers["head"].now.note == "shares with embed"
    assert layers["encoder.self_attn"].now.parameters == 3 * 8 * 8 + 3 * 8
    assert all(one.before is None and one.error is None and one.seconds is None for one in result.layers)
    assert result.total.now.held_as == ""
    header = str(result).splitlines()[0].split()
    assert header == ["layer", "type", "parameters", "size", "zeros", "held", "as", "note"]


@pytest.mark.filterwarnings("ignore:kept in float")
def test_quantized_model() -> None:
    model, x = trained()
    small = quantize(model, skip="encoder.linear2", overrides={"convolution": WeightOnly(bits=4)})
    result = report(small, compared_with=model, example_inputs=x)
    layers = by_name(result)
    assert layers["embed"].now.held_as == "int8, weights"
    assert layers["convolution"].now.held_as == "int4, weights"
    attention = layers["encoder.self_attn.query"]
    assert (attention.now.held_as, attention.now.parameters, attention.kept) == ("int8, dynamic", 72, 1.0)
    assert attention.now.n_bytes == 64 + 8 * 4 + 8 * 4
    assert attention.before.n_bytes == 72 * 4
    assert layers["encoder.linear2"].now.note == "kept in float: not chosen"
    assert layers["recurrent"].now.note == "kept in float: GRU layers have no int8 body"
    assert layers["encoder.norm1"].now.note == ""
    assert "norm" not in layers  # folded, in the model and in the one that it is compared with
    assert result.total.now.n_bytes == saved_bytes(small)
    with torch.no_grad():
        expected = (small(x) - model(x)).double().norm() / model(x).double().norm()
    assert result.total.error == pytest.approx(float(expected), rel=1e-4)
    assert 0 < layers["embed"].error < 0.05
    assert all(one.seconds > 0 and one.speedup > 0 for one in result.layers if one.name)
    text = str(result)
    assert "kept in float: GRU layers have no int8 body" in text
    header = "layer type parameters kept size was zeros held as error time speed note"
    assert " ".join(text.splitlines()[0].split()) == header


def test_static_layers_and_zeros() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.randn(3, 4)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[:2] = 0
        model[1].weight[0] = 0
        model[2].weight.fill_(1.0)
    for candidate in (model, quantize(calibrate(model, [x]), "int8-static")):
        layers = by_name(report(candidate))
        assert layers["0"].now.sparsity == 0.5
        assert layers["1"].now.sparsity is None
        assert report(candidate).total.now.sparsity == 8 / 24
    assert layers["0"].now.held_as == "int8, static"


def test_smaller_and_removed_layers() -> None:
    before = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    after = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2), nn.Identity())
    result = report(after, compared_with=before, example_inputs=torch.randn(3, 4))
    first, second, third = result.layers
    assert first.kept == 30 / 40
    assert (first.error, second.error is None) == (None, False)  # of other shapes, and of equal ones
    assert (third.kept, third.now.note, third.now.kind) == (0.0, "removed", "Linear")
    assert result.total.kept == (30 + 14) / (40 + 18 + 6)
    assert "removed" in str(result)


def test_the_same_model_has_no_error() -> None:
    model, x = trained()
    result = report(model, compared_with=model, example_inputs=x)
    norm = by_name(result)["norm"]  # not folded in either
    assert norm.error == 0
    assert norm.kept == 1
    assert result.total.error == pytest.approx(0, abs=1e-6)


def test_layers_that_work_in_place_do_not_count_as_errors() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), torch.randn(3, 4)
    calls = _layer_calls.layer_calls(model, ["0"], x)
    torch.testing.assert_close(calls["0"].output, model[0](x).detach())


def test_models_and_their_modes_are_left() -> None:
    model, x = trained()
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report(model, compared_with=model, example_inputs=x)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_that_do_not_run_have_no_time() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    result = report(Partly(), example_inputs={"x": torch.ones(1, 2)})
    assert by_name(result)["unused"].seconds is None
    assert "speed" not in str(result)
    assert "time" in str(result)


def test_empty_layers_and_nothing() -> None:
    result = report(nn.Sequential(nn.ReLU()))
    assert result.layers == []
    assert "whole model" in str(result)
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(0, 2, bias=False)
    assert report(empty).layers[0].now.sparsity is None
    assert report(empty, compared_with=empty).layers[0].kept is None


@pytest.mark.filterwarnings("ignore:kept in float")
def test_picture() -> None:
    model, x = trained()
    small = quantize(model)
    figure = report(small, compared_with=model, example_inputs=x).plot(limit=3)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "size (KiB)",
        "error of the output (%)",
        "speed (time before / after)",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["encoder.linear1", "encoder.linear2", "recurrent"]
    assert "the 3 largest layers of" in figure._suptitle.get_text()
    (axes,) = report(model).plot().axes
    assert len(axes.patches) == len(report(model).layers)
    times = report(model, example_inputs=x).plot()
    assert times.axes[1].get_xlabel() == "time of a call (ms)"
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        report(model).plot(limit=0)


def test_a_name_that_is_long_is_cut_at_its_beginning() -> None:
    model = nn.Sequential()
    model.add_module("a" * 60 + "end", nn.Linear(2, 2))
    label = report(model).plot().axes[0].get_yticklabels()[0].get_text()
    assert label == "…" + "a" * 40 + "end"


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    result = report(nn.Linear(2, 2))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-compress\[plot\]'"):
        result.plot()


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="a figure must show at least one layer; got none"):
        report(nn.Sequential(nn.ReLU())).plot()
