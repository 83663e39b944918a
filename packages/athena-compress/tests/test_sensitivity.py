"""Sensitivity: each layer alone, against the same done by hand, and its table and picture."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from athena_compress import Int8Dynamic, calibrate, quantize, sensitivity
from athena_core import AthenaError


def model_and_batches() -> tuple[Any, list[Tensor]]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[2].weight[:, 0] *= 1000  # which makes the others round to nothing
    return model.eval(), [torch.randn(16, 8), torch.randn(4, 8)]


def error(model: nn.Module, reference: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        got, expected = (torch.cat([one(x) for x in batches]).double() for one in (model, reference))
    return float((got - expected).norm() / expected.norm())


def test_errors_are_those_of_layers_quantized_by_name() -> None:
    model, batches = model_and_batches()
    result = sensitivity(model, iter(batches), per_channel=False)
    by_name = {one.name: one for one in result.layers}
    assert by_name.keys() == {"0", "2", "4"}
    for name, one in by_name.items():
        expected = error(quantize(model, include=name, per_channel=False), model, batches)
        assert one.lost == one.value == pytest.approx(expected, rel=1e-6)
        assert (one.kind, one.parameters) == ("Linear", sum(p.numel() for p in model[int(name)].parameters()))
    together = error(quantize(model, per_channel=False), model, batches)
    assert result.together.lost == pytest.approx(together, rel=1e-6)
    assert [one.lost for one in result.layers] == sorted((one.lost for one in result.layers), reverse=True)
    assert result.reference is None


def test_model_and_calibrated_model_are_left() -> None:
    model, batches = model_and_batches()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sensitivity(model, batches)
    calibrated = calibrate(model, batches)
    first, second = (sensitivity(calibrated, batches, scheme="int8-static") for _ in range(2))
    assert first == second
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in (*model, *calibrated.model))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_static_is_calibrated_on_the_batches() -> None:
    model, batches = model_and_batches()
    result = sensitivity(model, batches, scheme="int8-static")
    assert result == sensitivity(calibrate(model, batches), batches, scheme="int8-static")
    expected = error(quantize(calibrate(model, batches), "int8-static", include="2"), model, batches)
    assert {one.name: one.lost for one in result.layers}["2"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="`batches` must hold data: Int8Static fixes the ranges of inputs"):
        sensitivity(model, scheme="int8-static", evaluate=lambda _: 0.0)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_the_user_measures(higher_is_better: bool) -> None:
    model, _ = model_and_batches()

    def evaluate(candidate: Any) -> float:
        return sum((index + 1) * isinstance(candidate[2 * index], nn.Linear) for index in range(3))

    result = sensitivity(model, evaluate=evaluate, higher_is_better=higher_is_better)
    sign = 1 if higher_is_better else -1
    assert result.reference == 6
    assert [one.name for one in result.layers] == ["4", "2", "0"][::sign]
    assert [one.lost for one in result.layers] == [sign * lost for lost in (3, 2, 1)[::sign]]
    assert (result.together.value, result.together.lost) == (0, sign * 6)
    assert "in float: 6" in str(result)
    assert str(result).splitlines()[1].split() == ["layer", "type", "parameters", "value", "lost"]


def test_what_is_not_a_number_is_worst() -> None:
    model, _ = model_and_batches()

    def evaluate(candidate: Any) -> float:
        return 1.0 if isinstance(candidate[2], nn.Linear) else math.nan

    result = sensitivity(model, evaluate=evaluate)
    assert result.layers[0].name == "2"
    assert len(result.plot().axes[0].patches) == 3


def test_attention_embeddings_convolutions_and_labels() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.convolution, self.norm = nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4)
            self.recurrent = nn.GRU(4, 4, batch_first=True)

        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            y = self.norm(self.convolution(self.block(self.embed(tokens)).transpose(1, 2)))
            return {"logits": self.recurrent(y.transpose(1, 2))[0]}

    batches = [(torch.randint(0, 10, (3, 6)), torch.zeros(3))]
    result = sensitivity(Model(), batches, forward=lambda model, batch: model(batch[0]), skip="block.linear1")
    names = {one.name for one in result.layers}
    attention = {f"block.self_attn.{part}" for part in ("query", "key", "value", "out")}
    assert names == {"embed", "convolution", "block.linear2", *attention}
    assert result.kept == {"recurrent": "GRU layers have no int8 body"}
    assert "kept in float: recurrent (GRU layers have no int8 body)" in str(result)


def test_exact_and_silent_outputs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    result = sensitivity(model, [torch.randn(2, 4)])
    assert [one.lost for one in result.layers] == [0, 0]
    assert "exact" in str(result)
    result.plot()


def test_a_single_layer() -> None:
    result = sensitivity(nn.Linear(4, 4), [torch.randn(8, 4)], scheme=Int8Dynamic())
    assert [one.name for one in result.layers] == [""]
    assert result.layers[0].lost == result.together.lost > 0
    assert str(result).startswith("Int8Dynamic, each layer alone")


def test_picture_shows_the_worst() -> None:
    model, batches = model_and_batches()
    result = sensitivity(model, batches)
    (axes,) = result.plot(limit=2).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [one.name for one in result.layers[:2]]
    assert [bar.get_width() for bar in axes.patches] == [100 * one.lost for one in result.layers[:2]]
    assert "the worst 2 of 3" in result.plot(limit=2)._suptitle.get_text()
    assert "worst" not in result.plot()._suptitle.get_text()
    with pytest.raises(ValueError, match="`limit` must be at least 1; got 0"):
        result.plot(limit=0)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = model_and_batches()
    result = sensitivity(model, batches)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AthenaError, match=r"pip install 'athena-compress\[plot\]'"):
        result.plot()


def test_errors() -> None:
    model, batches = model_and_batches()
    with pytest.raises(ValueError, match="`batches` must hold data, or `evaluate` be given"):
        sensitivity(model, [])
    with pytest.raises(ValueError, match="matches none"):
        sensitivity(model, batches, include="head")
    with pytest.raises(ValueError, match="none can: it: GRU layers have no int8 body"):
        sensitivity(nn.GRU(2, 2), [torch.randn(1, 2, 2)])
    with pytest.raises(ValueError, match="none can: it has none"):
        sensitivity(nn.Sequential(nn.ReLU()), [torch.randn(1, 2)])
    with pytest.raises(AthenaError, match="int8-dynamic"):
        sensitivity(model, batches, scheme="int8-dynamik")
