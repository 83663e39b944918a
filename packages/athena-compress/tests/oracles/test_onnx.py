"""ONNX files of quantized models, as onnxruntime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from quantized import SCHEMES, every_layer, quantized
from torch import Tensor, nn
from user_models import ResNet, TiedModel

from athena_compress import export_onnx, quantize

DYNAMIC = ({0: torch.export.Dim("batch", max=64)},)


def run(path: Path, *inputs: Tensor, **configuration: str) -> Tensor:
    options = onnxruntime.SessionOptions()
    for key, value in configuration.items():
        options.add_session_config_entry(f"session.{key}", value)
    session = onnxruntime.InferenceSession(path, options)
    names = [one.name for one in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))
    return torch.from_numpy(np.asarray(found))


def nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def matrices(path: Path) -> dict[int, int]:
    """Elements of stored tensors of two axes and more that are no constants of shape, by their type."""
    found: dict[int, int] = {}
    for one in onnx.load(path).graph.initializer:
        if len([side for side in one.dims if side > 1]) >= 2:
            found[one.data_type] = found.get(one.data_type, 0) + int(np.prod(one.dims))
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_every_layer(scheme, tmp_path):
    model, tokens = every_layer(scheme)
    path = tmp_path / "model.onnx"
    export_onnx(model, tokens, path, dynamic_shapes=DYNAMIC)
    for batch in (4, 1, 9):
        tokens = torch.randint(11, (batch, 6))
        torch.testing.assert_close(run(path, tokens), model(tokens), rtol=1e-3, atol=1e-4)
    kinds = set(nodes(path))
    assert ({"MatMulInteger", "ConvInteger"} if scheme == "dynamic" else {"DequantizeLinear"}) <= kinds
    assert ("QuantizeLinear" in kinds) == scheme.startswith("static")
    if scheme != "four-bits":  # whose layers of an odd width are floats
        assert set(matrices(path)) == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("scheme", ["static", "dynamic", "weight-only"])
@torch.no_grad()
def test_a_resnet_with_folded_norms(scheme, tmp_path):
    x = torch.randn(4, 3, 8, 8)
    model = quantized(ResNet().eval(), scheme, x)
    path = tmp_path / "model.onnx"
    export_onnx(model, (x,), path, dynamic_shapes=DYNAMIC)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(run(path, x), model(x), rtol=1e-3, atol=1e-4)
    assert "BatchNormalization" not in nodes(path)


@pytest.mark.parametrize("scheme", ["static", "dynamic", "weight-only"])
@torch.no_grad()
def test_a_transformer(scheme, tmp_path):
    tokens = torch.randint(17, (2, 5))
    model = quantized(TiedModel().eval(), scheme, tokens)
    path = tmp_path / "model.onnx"
    export_onnx(model, {"tokens": tokens}, path)
    expected, found = model(tokens), run(path, tokens)
    step = (expected.max() - expected.min()) / 255  # sums that lie between two steps may round apart
    assert (found - expected).abs().max() <= step


@pytest.mark.parametrize("symmetric", [False, True])
@torch.no_grad()
def test_a_linear_layer_within_one_step_of_its_input(symmetric, tmp_path):
    x = torch.randn(64, 32) * 3 + 1
    model = quantized(nn.Sequential(nn.Linear(32, 16)), "static-symmetric" if symmetric else "static", x)
    path = tmp_path / "model.onnx"
    export_onnx(model, x, path)
    assert nodes(path).count("QuantizeLinear") == 1
    assert nodes(path).count("DequantizeLinear") == 2
    step = model[0].input_scale * model[0].weight.abs().amax()
    assert (run(path, x) - model(x)).abs().max() <= step * 1.001
    beyond = torch.randn(64, 32) * 100  # is clipped alike
    assert (run(path, beyond) - model(beyond)).abs().max() <= step * 1.001


@torch.no_grad()
def test_dynamic_layers_are_equal(tmp_path):
    model = quantize(nn.Sequential(nn.Linear(48, 16)), "int8-dynamic")
    x = torch.randn(64, 48) * torch.logspace(-3, 3, 64)[:, None]
    x[3] = 0
    export_onnx(model, x, tmp_path / "model.onnx")
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_weights_with_a_zero_point_meet_floats_where_the_runtime_is_told_so(tmp_path):
    x = torch.randn(2, 3, 64)
    model = quantize(nn.Sequential(nn.Linear(64, 16)), "int8-weight-only", symmetric=False)
    export_onnx(model, x, tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", x, qdq_matmulnbits_accuracy_level="1")
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("scheme", ["static", "dynamic", "weight-only"])
@torch.no_grad()
def test_half_precision_keeps_its_dtype(scheme, tmp_path):
    x = torch.randn(4, 16)
    model = quantized(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)), scheme, x).half()
    export_onnx(model, x.half(), tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, model(x.half()), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_a_float_model(tmp_path):
    model, x = ResNet().eval(), torch.randn(2, 3, 8, 8)
    export_onnx(model.train(), x, tmp_path / "model.onnx")
    assert model.training
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "options", "bytes_"),
    [("int8-dynamic", {}, 1), ("int8-weight-only", {}, 1), ("int4-weight-only", {"group_size": 64}, 0.5)],
)
def test_the_size_of_the_file(scheme, options, bytes_, tmp_path):
    model = quantize(nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256)), scheme, **options)
    export_onnx(model, torch.randn(2, 256), tmp_path / "model.onnx")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    weights = 2 * 256 * 512
    assert size < 1.25 * bytes_ * weights


def test_the_model_is_left_as_it_was(tmp_path):
    model = quantize(nn.Sequential(nn.Linear(8, 4)), "int8-weight-only").train()
    kinds = [type(one) for one in model.modules()]
    export_onnx(model, torch.randn(2, 8), tmp_path / "model.onnx")
    assert [type(one) for one in model.modules()] == kinds
    assert model.training
