"""Quantized models through files: equal bits in another process, a quarter of the size, caches left out."""

from __future__ import annotations

import pytest
import torch
from quantized import SCHEMES, every_layer, quantized
from saving import check_round_trip, check_round_trips
from torch import nn
from user_models import ResNet, TiedModel

from athena_compress import QAT, calibrate, load, quantize, save

TRUST = ("user_models",)


def test_every_layer_in_another_process(tmp_path):
    cases = {scheme: every_layer(scheme) for scheme in SCHEMES}
    check_round_trips(cases, tmp_path, TRUST)  # which calls before it saves: laid-out weights are left out


def test_folded_norms_and_tied_weights_in_another_process(tmp_path):
    x, tokens = torch.randn(4, 3, 8, 8), torch.randint(17, (2, 5))
    cases = {
        f"{scheme}-{type(model).__name__}": (quantized(model.eval(), scheme, given), given)
        for scheme in ("static", "dynamic", "weight-only")
        for model, given in ((ResNet(), x), (TiedModel(), tokens))
    }
    for name, again in check_round_trips(cases, tmp_path, TRUST).items():
        if name.endswith("TiedModel"):
            assert again.head.weight_q is again.embedding.weight_q


def test_in_the_midst_of_calibration(tmp_path):
    x = torch.randn(4, 3, 8, 8)
    calibrated = calibrate(ResNet().eval(), [x])
    save(calibrated, tmp_path)
    again = load(tmp_path)
    for one in (calibrated, again):
        one(2 * x)
    assert torch.equal(quantize(again, "int8-static")(x), quantize(calibrated, "int8-static")(x))


def test_in_the_midst_of_training_for_int8(tmp_path):
    x = torch.randn(4, 3, 8, 8)
    model = QAT(ResNet())
    models = [model]
    for _ in range(2):
        for one in models:
            torch.manual_seed(1)
            optimizer = torch.optim.SGD(one.parameters(), lr=0.01)
            one(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        save(model, tmp_path)
        models.append(load(tmp_path))
    assert torch.equal(models[2].convert()(x), models[0].convert()(x))
    assert torch.equal(models[1].convert()(x), models[0].convert()(x))


def test_after_a_cast(tmp_path):
    model = quantize(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), "int8-dynamic").bfloat16()
    again = check_round_trip(model, torch.randn(3, 16, dtype=torch.bfloat16), tmp_path)
    assert again[0].weight_scale.dtype == torch.float32


@pytest.mark.parametrize("scheme", ["static", "dynamic", "weight-only"])
def test_linear_layers_take_a_quarter_on_disk(scheme, tmp_path):
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
    x = torch.randn(8, 256)
    sizes = {}
    for name, one in (("float", model), ("int8", quantized(model, scheme, x))):
        with torch.no_grad():
            one(x)
        save(one, tmp_path / name)
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
    assert sizes["int8"] <= 0.27 * sizes["float"]
